"""Steps on an exercise that stands for the utterance: what test-time training in its older senses shares."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from asrlife.data.utterance import Utterance
from asrlife.delta.rows import Rows, source
from asrlife.errors import InputError
from asrlife.methods.online.adam import Adam
from asrlife.methods.online.descent import Heard, skipped, unfit
from asrlife.methods.online.method import RATE, Event, Online, Step, held
from asrlife.methods.online.state import State
from asrlife.methods.settings import CountOrZero, Rate, check
from asrlife.models.handle import Recogniser, Weights
from asrlife.text.hypothesis import Hypothesis

_LOG = logging.getLogger("asrlife")

Detail = Mapping[str, float | int | str]


@dataclass(frozen=True, eq=False)
class Exercise:
    """A loss (nats) under weights (1, *shape), with gradient, and what the event says of it. At `enough` or less it is done already."""

    loss: Callable[[Weights], Tensor]
    detail: Detail = field(default_factory=dict)
    enough: float = -math.inf


@dataclass(frozen=True)
class Practice(Online):
    """Adam on an exercise, then the hypothesis. `forgetful` methods start every utterance from the source."""

    name: ClassVar[str]
    lr: Rate = 2e-4
    steps: CountOrZero = 5
    scope: str = "norms+features"

    def __post_init__(self) -> None:
        check(self)

    @property
    def forgetful(self) -> bool:
        """Whether nothing is carried to the next utterance."""
        return True

    @abstractmethod
    def ready(self, model: Recogniser) -> None:
        """Raise InputError where the method cannot be used."""

    @abstractmethod
    def exercise(self, model: Recogniser, heard: Heard, names: Sequence[str]) -> Exercise | str:
        """What to practise on for this utterance, or why there is nothing."""

    def start(self, model: Recogniser) -> State:
        """Nothing, or the source weights of the scope with fresh moments; raises InputError for an unknown scope and by `ready`."""
        self.ready(model)
        names = model.select(self.scope)
        return State(model.fingerprint()) if self.forgetful else State.of(model, names, count=0)

    def together(self, model: Recogniser, states: Sequence[State], utterances: Sequence[Utterance]) -> list[Step]:
        """Stream after stream: each has a batch of its own to practise on, under one row of weights."""
        with held(model):
            return [self._alone(model, *stream) for stream in zip(states, utterances, strict=True)]

    def _alone(self, model: Recogniser, state: State, utterance: Utterance) -> Step:
        heard = Heard(state, utterance, utterance.waveform(RATE))
        batch = model.prepare([heard.waveform])
        rows, adam = self._resumed(model, state)
        before = model.decode(batch, weights=rows.tensors if state.names else None)[0]
        told = unfit(heard.waveform) or self._practised(model, heard, rows, adam)
        if isinstance(told, str):
            return _refused(before, state, told)
        after = model.decode(batch, weights=rows.tensors)[0] if self.steps else before
        if before.text and not after.text:
            return _refused(before, state, "collapsed")
        kept = state if self.forgetful else state.updated(adam.row(0), count=adam.counts[0])
        return after, kept, (Event("stepped", {"steps": self.steps, "before": before.text, **told}),)

    def _resumed(self, model: Recogniser, state: State) -> tuple[Rows, Adam]:
        if not state.names:
            names = model.select(self.scope)
            rows = Rows.of(model.module, names, source(model.module, names)[None])
            return rows, Adam.fresh(rows.values, self.lr)
        weights, first, second = (state[key][None].clone() for key in ("weights", "first", "second"))
        rows = Rows.of(model.module, state.names, weights)
        return rows, Adam(rows.values, first, second, [int(state.record["count"])], self.lr)

    def _practised(self, model: Recogniser, heard: Heard, rows: Rows, adam: Adam) -> Detail | str:
        """What the event says of the steps, or why they came to nothing."""
        try:
            todo = self.exercise(model, heard, rows.names)
            if isinstance(todo, str):
                return todo
            losses = practise(rows, adam, todo, self.steps)
        except InputError as error:  # what is practised on may be gone, too long, or hold letters that the model does not have
            _LOG.warning("%s learns nothing from %s: %s", self.name, heard.utterance.id, error)
            return "exercise"
        if not losses:
            return "sure"
        if not (all(map(math.isfinite, losses)) and bool(torch.isfinite(rows.values).all())):
            return "diverged"
        return {"loss_before": losses[0], "loss_after": losses[-1], **todo.detail}


def practise(rows: Rows, adam: Adam, exercise: Exercise, steps: int) -> list[float]:
    """Take the steps; the losses before each and after the last, none at all where there is nothing to learn."""
    losses: list[Tensor] = []
    for _ in range(steps):
        loss = exercise.loss(rows.tensors)
        # Adam's steps are as long for a loss of nothing; asked once, so that a GPU waits once
        if not losses and bool(loss <= exercise.enough):
            return []
        losses.append(loss.detach())
        rows.backward(loss)
        adam.step(rows.gradient)
    with torch.no_grad():
        losses.append(exercise.loss(rows.tensors))
    return torch.stack(losses).tolist()


def _refused(before: Hypothesis, state: State, reason: str) -> Step:
    return before, state, (skipped(before, reason, fit=False).event,)
