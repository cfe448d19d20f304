"""The trainings: CTC on synthetic speech, then with real speech added; Whisper with its passing CTC head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from asrlife.recipe.embedded import ctc, whisper
from asrlife.recipe.embedded.speech import Speech, is_open
from asrlife.recipe.embedded.training import Mixture, Schedule, error_rates, fit

if TYPE_CHECKING:
    from asrlife.recipe.embedded.build import Embedded

LONGEST = 4.5  # s; slowed down and padded it still fits the window of six
LATER = {"open": 0.62, "tts": 0.08, "grid": 0.14, "digits": 0.16}
LAST = {"open": 0.35, "tts": 0.05, "grid": 0.32, "digits": 0.28}
SHARES = {"ctc-tts": {"tts": 1.0}, "ctc-mixed": LATER, "ctc": LAST, "whisper": LATER}
ORIGIN = {"ctc-mixed": "ctc-tts", "ctc": "ctc-mixed"}
SEEDS = {"ctc-tts": 1, "ctc-mixed": 2, "whisper-encoder": 3, "whisper": 4, "ctc": 5}


def mixture(name: str, speech: dict[str, Speech]) -> Mixture:
    """Training sets with their shares; real ones only where they are, and "open" for the synthetic sentences of many words."""
    speech = {**speech, "open_train": speech["tts_train"].only(is_open)}
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


def fit_whisper(name: str, settings: Embedded, speech: dict[str, Speech], out: Path) -> None:
    """Train an encoder that starts from "ctc-tts" and is guided by it frame by frame, then encoder and decoder together."""
    torch.manual_seed(1)
    guide = ctc.build(**settings.size["ctc"]).eval()
    load_weights(guide, out / "ctc-tts.pt")
    teacher = whisper.Teacher(whisper.build(**settings.size["whisper"]))
    whisper.inherit(teacher, guide)
    first, watch = "whisper-encoder", development(speech)
    fit(
        teacher,
        lambda batch: teacher.guided(batch, guide),
        lambda: error_rates(watch, lambda waves: whisper.transcribe_head(teacher, waves)),
        mixture(name, speech),
        Schedule(settings.steps[first], settings.peak[name], settings.matrices.get(name), 50, 0.3, 60.0, LONGEST, SEEDS[first]),
        out / f"{first}.pt",
    )
    fit(
        teacher,
        teacher,
        lambda: error_rates(watch, lambda waves: whisper.transcribe(teacher, waves)),
        mixture(name, speech),
        Schedule(settings.steps[name], settings.peak[name], settings.matrices.get(name), seconds=60.0, longest=LONGEST, seed=SEEDS[name]),
        out / f"{name}.pt",
        every=1000,
    )
