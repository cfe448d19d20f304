"""The method every other is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from asrlife.data.utterance import Utterance
from asrlife.methods.online.method import RATE, Event
from asrlife.methods.online.state import State
from asrlife.models.handle import Recogniser
from asrlife.text.hypothesis import Hypothesis


@dataclass(frozen=True)
class Unadapted:
    """The recogniser as it is."""

    name: ClassVar[str] = "none"

    def start(self, model: Recogniser) -> State:
        """A state that holds nothing."""
        return State(model.fingerprint())

    def step(self, model: Recogniser, state: State, utterance: Utterance) -> tuple[Hypothesis, State, tuple[Event, ...]]:
        """Decode greedily."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return model.decode(model.prepare([utterance.waveform(RATE)]))[0], state, ()
