from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.methods.online.method import Event
from asrlife.methods.online.state import State
from asrlife.text.hypothesis import Hypothesis

TEXTS = ("bin blue at f three soon", "lay white in z now please", "set red by a nine again", "place green with q one soon")


@dataclass(frozen=True, eq=False)
class FakeModel:
    """Knows each sentence by the length of its audio, and hears its last word only once its one weight is above 0."""

    texts: dict[int, str]
    name: str = "fake"
    module: nn.Linear = field(default_factory=lambda: nn.Linear(1, 1, bias=False))

    def __post_init__(self) -> None:
        nn.init.constant_(self.module.weight, -1.0)

    def fingerprint(self) -> str:
        return "fake"

    def transcribe(self, waveforms: Sequence[Waveform], batch_size: int = 8) -> list[Hypothesis]:
        words = [self.texts[len(w.samples)].split() for w in waveforms]
        known = self.module.weight.item() > 0
        return [Hypothesis(" ".join(w if known else w[:-1]), (), (), 0.0) for w in words]


@dataclass(frozen=True)
class Still:
    """Learns nothing; refuses the utterance called "refused"."""

    name: str = "none"

    def start(self, model: Any) -> State:
        return State("fake")

    def step(self, model: Any, state: State, utterance: Utterance) -> tuple[Hypothesis, State, tuple[Event, ...]]:
        if utterance.id == "refused":
            raise InputError("longer than the model's window; cut it")
        return model.transcribe([utterance.waveform()])[0], state, ()


@dataclass(frozen=True)
class Learner(Still):
    """Moves the weight above 0 at the second utterance, and hears the last word from then on; resets on the fourth."""

    name: str = "learner"

    def start(self, model: Any) -> State:
        return State.of(model, ("weight",))

    def step(self, model: Any, state: State, utterance: Utterance) -> tuple[Hypothesis, State, tuple[Event, ...]]:
        whole = model.texts[len(utterance.waveform().samples)]
        part = " ".join(whole.split()[:-1])
        before = whole if state.weights.item() > 0 else part
        moved = replace(state, weights=torch.ones(1) if state.seen else state.weights, seen=state.seen + 1)
        text = whole if moved.weights.item() > 0 else part
        events = (Event("stepped", {"steps": 1, "before": before}), *([Event("reset", {})] if state.seen == 3 else []))
        return Hypothesis(text, (), (), 0.0), moved, events


def _tone(number: int) -> Waveform:
    return Waveform(0.1 * np.sin(np.arange(8000 + number) / 10), 16_000)


@pytest.fixture
def corpus() -> Corpus:
    """Eight utterances, each of its own length."""
    return Corpus(tuple(Utterance(f"u{n}", _tone(n), TEXTS[n % 4]) for n in range(8)))


@pytest.fixture
def model() -> FakeModel:
    """Half a recogniser for that corpus."""
    return FakeModel({8000 + n: TEXTS[n % 4] for n in range(8)})


@pytest.fixture
def fakes() -> SimpleNamespace:
    """The two methods."""
    return SimpleNamespace(none=Still(), learner=Learner())
