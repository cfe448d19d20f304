"""SUTA: forget everything, take a few steps on this utterance, recognise it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from asrlife.data.utterance import Utterance
from asrlife.methods.online.descent import Descent
from asrlife.methods.online.method import RATE, Event, tuning
from asrlife.methods.online.settings import CountOrZero
from asrlife.methods.online.state import State
from asrlife.models.handle import Recogniser
from asrlife.text.hypothesis import Hypothesis


@dataclass(frozen=True)
class Suta(Descent):
    """Single-utterance test-time adaptation, episodic (arXiv 2203.14222); steps + 1 forwards where the published loop needs 2 steps + 1."""

    name: ClassVar[str] = "suta"
    steps: CountOrZero = 10

    def start(self, model: Recogniser) -> State:
        """A state that holds nothing; an unknown scope raises InputError here."""
        model.select(self.scope)
        return State(model.fingerprint())

    def step(self, model: Recogniser, state: State, utterance: Utterance) -> tuple[Hypothesis, State, tuple[Event, ...]]:
        """Adapt from the source to this utterance alone; the hypothesis of the source is the event's `before`."""
        waveform = utterance.waveform(RATE)
        with tuning(model, model.select(self.scope)) as flat:
            fresh = torch.zeros_like(flat.values)
            attempt = self.attempt(model, flat, self.adam(model, flat, fresh, fresh, 0), waveform, self.steps)
        return attempt.hypothesis, state, (attempt.event,)
