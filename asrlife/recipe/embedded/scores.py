"""Export a trained model and score it through the handle that users load, on sets it never saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asrlife.audio.waveform import Waveform
from asrlife.data.condition import Condition
from asrlife.data.utterance import Utterance
from asrlife.files import atomic
from asrlife.recipe.embedded import conformer, ctc, whisper
from asrlife.recipe.embedded.export import export_ctc, export_whisper
from asrlife.recipe.embedded.fitting import SHARES, load_weights
from asrlife.recipe.embedded.speech import HELD_OUT, RATE, Speech, is_open
from asrlife.recipe.embedded.statistics import write_statistics

if TYPE_CHECKING:
    from asrlife.models.handle import Recogniser
    from asrlife.recipe.embedded.build import Embedded, Name

NAMES = {"tts": "synthetic, held-out sentences and voices", "grid": "real commands", "digits": "real digit strings"}
TRAININGS = {
    "ctc-tts": ["ctc-tts"],
    "ctc": ["ctc-tts", "ctc-mixed", "ctc"],
    "whisper": ["ctc-tts", "whisper-encoder", "whisper"],
    "conformer-tts": ["ctc-tts", "conformer-tts"],
    "whisper-tts": ["ctc-tts", "whisper-tts-encoder", "whisper-tts"],
}
ARCHITECTURES = {"whisper": "Whisper", "ctc": "wav2vec2 CTC", "conformer": "wav2vec2-conformer CTC"}
NOISE_DB = 5.0
Heard = Callable[[Waveform, str], Waveform]
WARNING = "Small models for learning and testing, trained from scratch; real work names a real checkpoint."


def finish(name: Name, settings: Embedded, speech: dict[str, Speech], out: Path) -> dict[str, Any]:
    """Write OUT/models/NAME with float16 weights, score what was written and put the scores on its card."""
    folder = out / "models" / name
    if name.startswith("whisper"):
        teacher = whisper.Teacher(whisper.build(**settings.size[name]))
        load_weights(teacher, out / f"{name}.pt")
        export_whisper(teacher.model, folder, {})
    else:
        model = (conformer if name.startswith("conformer") else ctc).build(**settings.size["ctc"])
        load_weights(model, out / f"{name}.pt")
        export_ctc(model, folder, {})
    if name.startswith("ctc"):
        write_statistics(name, folder, speech)
    card = {**describe(name, settings, speech), "scores": score(folder, speech, settings.noise)}
    path = folder / "card.json"
    card = {**json.loads(path.read_text(encoding="utf-8")), **card}
    with atomic(path, "w") as file:
        file.write(json.dumps(card, indent=2) + "\n")
    return card


def describe(name: Name, settings: Embedded, speech: dict[str, Speech]) -> dict[str, Any]:
    """What the model is and what it heard."""
    kinds = ("tts", *(kind for kind in ("grid", "digits") if kind in SHARES[name]))
    heard = {kind: speech[f"{kind}_train"] for kind in kinds if f"{kind}_train" in speech}
    data = {
        NAMES[kind].split(",")[0]: {"utterances": len(s), "hours": round(float(s.seconds.sum()) / 3600, 2)} for kind, s in heard.items()
    }
    return {
        "name": f"embedded:{name}",
        "architecture": ARCHITECTURES[name.split("-")[0]],
        "training": {
            "data": data,
            "steps": {training: settings.steps[training] for training in TRAININGS[name]},
            "voices_held_out": HELD_OUT,
            "real_splits": "train only; dev watched; test never used",
        },
        "adaptation": settings.adaptation.get(name, {}),
        "warning": WARNING,
    }


def score(folder: Path, speech: dict[str, Speech], noise: Path | None = None) -> list[dict[str, Any]]:
    """WER and CER, as fractions, of greedy decoding without a language model on every test set, the real commands under noise as well."""
    import asrlife

    model = asrlife.load(str(folder))
    sets = {title: speech[f"{kind}_test"] for kind, title in NAMES.items() if f"{kind}_test" in speech}
    sets["synthetic, sentences of many words alone"] = speech["tts_test"].only(is_open)
    rows = [rated(model, title, test, lambda wave, _: wave) for title, test in sets.items() if len(test)]
    if noise is not None and noise.is_file() and "grid_test" in speech:
        condition = Condition(str(noise), NOISE_DB, 0)
        rows.append(rated(model, f"real commands, {condition.name}", speech["grid_test"], condition_of(condition)))
    return rows


def condition_of(condition: Condition) -> Heard:
    """A function that puts the noise of a condition into a waveform; the excerpt follows from the name it is given."""
    return lambda wave, name: condition.apply(Utterance(name, wave)).waveform(RATE)


def rated(model: Recogniser, title: str, test: Speech, heard: Heard) -> dict[str, Any]:
    """One row of scores: what `model` makes of a set as it is heard."""
    import jiwer

    waves = [heard(Waveform(np.ascontiguousarray(test[i]), RATE), str(i)) for i in range(len(test))]
    texts = [hypothesis.text for hypothesis in model.transcribe(waves)]
    wer, cer = (round(float(rate(test.texts, texts)), 4) for rate in (jiwer.wer, jiwer.cer))
    return {"set": title, "utterances": len(test), "wer": wer, "cer": cer}
