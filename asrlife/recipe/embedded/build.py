"""The step "embedded": speech, three trainings, scores on held-out sets, checkpoints with cards, a pretext head.

Every part but the last, which takes a minute, is kept and resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from asrlife.errors import InputError
from asrlife.recipe.embedded.speech import Speech, digit_strings, read_aloud, real
from asrlife.recipe.registry import Place, Step
from asrlife.text.grammar import Grammar

SPLITS = ("test", "dev", "train")  # in this order, so that nothing that is tested is ever trained on
TTS_SEEDS = {"test": 11, "dev": 12, "train": 13}
DIGIT_SEEDS = {"train": 21, "dev": 22, "test": 23}
Name = Literal["ctc-tts", "ctc", "whisper", "conformer-tts", "whisper-tts"]
SHIPPED: tuple[Name, ...] = ("ctc-tts", "ctc", "whisper")
STEPS: Mapping[str, int] = {
    "ctc-tts": 3_000, "ctc-mixed": 4_500, "ctc": 400, "whisper-encoder": 800, "whisper": 1_800,
    "conformer-tts": 300, "whisper-tts-encoder": 200, "whisper-tts": 700,
}  # fmt: skip


class Embedded(Step):
    """Train the recognisers that ship with asrlife, and two more that have heard synthetic speech alone, for experiments.

    `steps`, `peak` and `matrices` go by the name of a training.
    """

    kind: Literal["embedded"]
    grammar: str = "recipe:grammar.yaml"
    commands: Path | None = None  # a manifest of real six-word commands
    digits: Path | None = None  # a manifest of single real digits
    noise: Path | None = None  # to score the real commands under, never to train with
    sentences: Mapping[str, int] = {"test": 300, "dev": 150, "train": 14_000}
    strings: Mapping[str, int] = {"test": 120, "dev": 80, "train": 2_500}
    models: tuple[Name, ...] = SHIPPED
    steps: Mapping[str, PositiveInt] = STEPS
    peak: Mapping[str, PositiveFloat] = {
        "ctc-tts": 1.2e-3, "ctc-mixed": 8e-4, "ctc": 3e-4, "whisper": 8e-4, "conformer-tts": 8e-4, "whisper-tts": 8e-4,
    }  # fmt: skip
    # peak of Muon; a training without one has AdamW alone
    matrices: Mapping[str, PositiveFloat] = {
        "ctc-mixed": 2.5e-3, "ctc": 1e-3, "whisper": 2.5e-3, "conformer-tts": 2.5e-3, "whisper-tts": 2.5e-3,
    }  # fmt: skip
    pretext: PositiveInt = 110  # batches that the pretext head of "ctc" is trained on, when all else is done
    size: Mapping[str, Mapping[str, int]] = {"ctc": {}, "whisper": {}, "whisper-tts": {"encoder": 4, "decoder": 2}}
    threads: PositiveInt = 1
    # for the cards: what benchmarks/tuning/settings.py found on development speech
    adaptation: Mapping[Name, Mapping[str, Mapping[str, str]]] = {}

    def run(self, place: Place) -> Mapping[str, Any]:
        """Make what is missing under the folder of results and return the scores of every model."""
        import torch

        from asrlife.recipe.embedded.confidence import calibrate, utterances_of
        from asrlife.recipe.embedded.fitting import fit_conformer, fit_ctc, fit_whisper
        from asrlife.recipe.embedded.pretext import add_head
        from asrlife.recipe.embedded.scores import finish

        torch.set_num_threads(self.threads)
        speech = self.speech(place)
        for name in self.models:
            fitted = fit_whisper if name.startswith("whisper") else fit_conformer if name.startswith("conformer") else fit_ctc
            fitted(name, self, speech, place.out)
        cards = {name: finish(name, self, speech, place.out) for name in self.models}
        for name in self.models:
            if name in SHIPPED and (own := speech.get("tts_dev" if name == "ctc-tts" else "grid_dev")):
                cards[name] = dict(calibrate(place.out / "models" / name, utterances_of(own)))
        return cards | ({"ctc": add_head(place.out / "models" / "ctc", speech, self.pretext)} if "ctc" in cards else {})

    def speech(self, place: Place) -> dict[str, Speech]:
        """The sets by name, "tts_train" and so on; a manifest that is not there leaves its sets out."""
        kept = place.out / "speech"
        sets: dict[str, Speech] = {}
        grammar = Grammar.read(place.path(self.grammar))
        for split in SPLITS:
            avoid = {text for other in sets.values() for text in other.texts}
            make = partial(read_aloud, grammar, split, self.sentences[split], TTS_SEEDS[split], avoid, place.bar)
            sets[f"tts_{split}"] = once(kept / f"tts_{split}.npz", make)
        return sets | self._real(kept)

    def _real(self, kept: Path) -> dict[str, Speech]:
        sets = {}
        for split in SPLITS:
            if self.commands and self.commands.is_file():
                sets[f"grid_{split}"] = once(kept / f"grid_{split}.npz", partial(real, self.commands, split))
            if self.digits and self.digits.is_file():
                join = partial(digit_strings, self.digits, split, self.strings[split], DIGIT_SEEDS[split])
                sets[f"digits_{split}"] = once(kept / f"digits_{split}.npz", join)
        return sets


def once(path: Path, make: Callable[[], Speech]) -> Speech:
    """Load a set, making it first when it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = make()
        if not len(made):
            raise InputError(f"{path.stem}: no utterances; check the manifest's splits")
        made.save(path)
    return Speech.load(path)
