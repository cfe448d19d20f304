"""The trainings: CTC on synthetic speech, then with real speech added; Whisper with its passing CTC head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from asrlife.recipe.embedded import conformer, ctc, whisper
from asrlife.recipe.embedded.speech import Speech, is_open
from asrlife.recipe.embedded.training import Mixture, Schedule, batches, error_rates, fit

if TYPE_CHECKING:
    from transformers import Wav2Vec2ForCTC

    from asrlife.recipe.embedded.build import Embedded

LONGEST = 4.5  # s; slowed down and padded it still fits the window of six
LATER = {"open": 0.62, "tts": 0.08, "grid": 0.14, "digits": 0.16}
LAST = {"open": 0.35, "tts": 0.05, "grid": 0.32, "digits": 0.28}
FEW_WORDS = {"conformer-tts": {"closed": 0.7, "open": 0.3}, "whisper-tts": {"closed": 1.0}}  # of one stage with ctc-tts, and sooner there
SHARES = {"ctc-tts": {"tts": 1.0}, "ctc-mixed": LATER, "ctc": LAST, "whisper": LATER, **FEW_WORDS}
ORIGIN = {"ctc-mixed": "ctc-tts", "ctc": "ctc-mixed"}
SEEDS = {"ctc-tts": 1, "ctc-mixed": 2, "whisper-encoder": 3, "whisper": 4, "ctc": 5, "conformer-tts": 6}


def mixture(name: str, speech: dict[str, Speech]) -> Mixture:
    """Training sets with their shares; real ones only where they are, "open" for synthetic sentences of many words, "closed" of few."""
    kinds = SHARES[name]
    if "open" in kinds:
        speech = {**speech, "open_train": speech["tts_train"].only(is_open)}
    if "closed" in kinds:
        speech = {**speech, "closed_train": speech["tts_train"].only(lambda text: not is_open(text))}
    return [(speech[f"{kind}_train"], share) for kind, share in SHARES[name].items() if f"{kind}_train" in speech]


def development(speech: dict[str, Speech]) -> dict[str, Speech]:
    """The sets that watch a training."""
    return {name.removesuffix("_dev"): s for name, s in speech.items() if name.endswith("_dev")}


def load_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """Put the weights of a training checkpoint into `model`."""
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])


def fit_ctc(name: str, settings: Embedded, speech: dict[str, Speech], out: Path) -> None:
    """Train "ctc-tts" from the sinusoid bank, "ctc-mixed" from its end with real speech added, "ctc" from there with more of it."""
    if name == "ctc":
        fit_ctc("ctc-mixed", settings, speech, out)
    torch.manual_seed(1)
    model = ctc.build(**settings.size["ctc"])
    if name in ORIGIN:
        load_weights(model, out / f"{ORIGIN[name]}.pt")
    warmup = 20 if name == "ctc" else 100
    schedule = Schedule(settings.steps[name], settings.peak[name], settings.matrices.get(name), warmup, seed=SEEDS[name])
    watch = development(speech)
    fit(
        model,
        lambda batch: ctc.loss(model, batch),
        lambda: error_rates(watch, lambda waves: ctc.transcribe(model, waves)),
        mixture(name, speech),
        schedule,
        out / f"{name}.pt",
    )


def guide_of(settings: Embedded, out: Path) -> Wav2Vec2ForCTC:
    """The recogniser "ctc-tts" as it was trained here, or as it ships."""
    checkpoint = out / "ctc-tts.pt"
    if not checkpoint.is_file():
        from asrlife.models.load import load

        shipped: Wav2Vec2ForCTC = load("embedded:ctc-tts").module.float().eval()
        return shipped
    guide = ctc.build(**settings.size["ctc"]).eval()
    load_weights(guide, checkpoint)
    return guide


def fit_conformer(name: str, settings: Embedded, speech: dict[str, Speech], out: Path) -> None:
    """Train a conformer that starts from "ctc-tts" and is guided by it frame by frame."""
    torch.manual_seed(1)
    guide, mixed = guide_of(settings, out), mixture(name, speech)
    model = conformer.build(guide.config.hidden_size, guide.config.num_hidden_layers)
    some = next(batches(mixed, 20.0, SEEDS[name], 6.0))
    conformer.inherit(model, guide, conformer.deviations(guide, some))
    watch = development(speech)
    fit(
        model,
        lambda batch: conformer.loss(model, batch, guide),
        lambda: error_rates(watch, lambda waves: ctc.transcribe(model, waves)),
        mixed,
        Schedule(settings.steps[name], settings.peak[name], settings.matrices.get(name), 20, seconds=24.0, longest=6.0, seed=SEEDS[name]),
        out / f"{name}.pt",
    )


def fit_whisper(name: str, settings: Embedded, speech: dict[str, Speech], out: Path) -> None:
    """Train an encoder that starts from "ctc-tts" and is guided by it frame by frame, then encoder and decoder together."""
    torch.manual_seed(1)
    guide, watch, small = guide_of(settings, out), development(speech), name in FEW_WORDS
    teacher = whisper.Teacher(whisper.build(**settings.size[name]))
    whisper.inherit(teacher, guide)
    first = "whisper-encoder" if name == "whisper" else f"{name}-encoder"
    seconds, warmup = ((24.0, 30.0), (20, 50)) if small else ((60.0, 60.0), (50, 100))
    rates = settings.peak[name], settings.matrices.get(name)
    fit(
        teacher,
        lambda batch: teacher.guided(batch, guide),
        lambda: error_rates(watch, lambda waves: whisper.transcribe_head(teacher, waves)),
        mixture(name, speech),
        Schedule(settings.steps[first], *rates, warmup[0], 0.3, seconds[0], LONGEST, SEEDS["whisper-encoder"]),
        out / f"{first}.pt",
    )
    fit(
        teacher,
        teacher,
        lambda: error_rates(watch, lambda waves: whisper.transcribe(teacher, waves)),
        mixture(name, speech),
        Schedule(settings.steps[name], *rates, warmup[1], seconds=seconds[1], longest=LONGEST, seed=SEEDS["whisper"]),
        out / f"{name}.pt",
        every=1000,
    )
