"""SUTA: forget everything, take a few steps on this utterance, recognise it; and the same without forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from asrlife.delta.rows import Rows, source
from asrlife.methods.online.adam import Adam
from asrlife.methods.online.descent import Descent, Heard, kept
from asrlife.methods.online.method import Step
from asrlife.methods.online.state import State
from asrlife.methods.settings import CountOrZero
from asrlife.models.handle import Recogniser


@dataclass(frozen=True)
class Suta(Descent):
    """Single-utterance test-time adaptation, episodic (arXiv 2203.14222); steps + 1 forwards where the published loop needs 2 steps + 1."""

    name: ClassVar[str] = "suta"
    steps: CountOrZero = 10

    def start(self, model: Recogniser) -> State:
        """A state that holds nothing; an unknown scope raises InputError here."""
        model.select(self.scope)
        return State(model.fingerprint())

    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Adapt from the source to each utterance alone; the hypothesis of the source is the event's `before`."""
        names = model.select(self.scope)
        own = source(model.module, names)
        rows = Rows.of(model.module, names, own.expand(len(heard), -1))
        adam = Adam.fresh(rows.values, self.lr, self.spans(model, names))
        attempts, _ = self.attempts(model, [one.waveform for one in heard], rows, adam, self.steps)
        return [(attempt.hypothesis, one.state, (attempt.event,)) for one, attempt in zip(heard, attempts, strict=True)]


@dataclass(frozen=True)
class Csuta(Descent):
    """SUTA that never forgets: weights and Adam moments go on to the next utterance (the CSUTA of arXiv 2406.11064)."""

    name: ClassVar[str] = "csuta"
    steps: CountOrZero = 1

    def start(self, model: Recogniser) -> State:
        """The source weights of the scope with fresh moments."""
        return State.of(model, model.select(self.scope), count=0)

    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Adapt and keep it; an utterance that makes anything diverge leaves its state as it was."""
        rows, adam = self.resumed(model, heard)
        attempts, _ = self.attempts(model, [one.waveform for one in heard], rows, adam, self.steps)
        return kept(heard, attempts, adam)
