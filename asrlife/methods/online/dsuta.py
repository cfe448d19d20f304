"""Dynamic SUTA: fast steps for each utterance, a slow step for every few, and a way back to the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.delta.weights import Flat
from asrlife.errors import InputError
from asrlife.methods.online.descent import Descent
from asrlife.methods.online.losses import Losses
from asrlife.methods.online.method import RATE, Event, tuning
from asrlife.methods.online.settings import Count, CountOrZero, Positive
from asrlife.methods.online.state import State
from asrlife.models.handle import Recogniser
from asrlife.text.hypothesis import Hypothesis

_LEAST_WINDOW = 6  # utterances; window / 2 - 1 gaps must have a sample deviation


@dataclass(frozen=True)
class Dsuta(Descent):
    """Continual adaptation with fast and slow weights (arXiv 2406.11064).

    Each utterance starts from the slow weights and the slow Adam moments, takes `fast_steps` and is recognised; what it learnt is
    dropped. Every `buffer` utterances the slow weights take one step on their mean gradient. `reset` "dynamic" learns for half a
    `window` of utterances, keeps a snapshot, measures it for the other half, and goes back to the source when `patience` buffers
    in a row deviate by more than `threshold`; "fixed" goes back at the first full buffer after every `every` utterances.
    `slow` "batched" pads a buffer to one batch, for models whose padding is exact.
    """

    name: ClassVar[str] = "dsuta"
    fast_steps: CountOrZero = 5
    buffer: Count = 5
    slow: Literal["single", "batched"] = "single"
    reset: Literal["none", "dynamic", "fixed"] = "none"
    window: Count = 100
    patience: Count = 2
    threshold: Positive = 2.0
    every: Count = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset == "dynamic" and (self.window < _LEAST_WINDOW or self.window % (2 * self.buffer)):
            # elsewhere the published snapshot holds whichever weights were measured last
            least = f"and window at least {_LEAST_WINDOW}; it is {self.window}"
            raise InputError(f"dsuta: window and window / 2 must be multiples of buffer ({self.buffer}) {least}")
        if self.reset == "fixed" and self.every < self.buffer:
            raise InputError(f"dsuta: every ({self.every}) must not be less than buffer ({self.buffer}), or nothing is ever learnt")

    def start(self, model: Recogniser) -> State:
        """The source weights of the scope with fresh moments."""
        return State.of(model, model.select(self.scope))

    def step(self, model: Recogniser, state: State, utterance: Utterance) -> tuple[Hypothesis, State, tuple[Event, ...]]:
        """Recognise with fast weights, then let the slow ones learn; an utterance that cannot be learnt from leaves the state as it is."""
        waveform = utterance.waveform(RATE)
        with tuning(model, state.names) as flat:
            source = flat.values.clone()
            flat.load(state.weights)
            adam = self.adam(model, flat, state.first, state.second, state.count)
            attempt = self.attempt(model, flat, adam, waveform, self.fast_steps)
            if not attempt.fit:
                return attempt.hypothesis, state, (attempt.event,)
            grown = replace(state, seen=state.seen + 1, buffer=(*state.buffer, waveform), watch=state.watch.older())
            new, events = SlowStep(self, model, flat, source, waveform).learn(grown)
        return attempt.hypothesis, new, (attempt.event, *events)


@dataclass(frozen=True, eq=False)
class SlowStep:
    """What follows the hypothesis of `latest`, while the weights may still move."""

    method: Dsuta
    model: Recogniser
    flat: Flat
    source: Tensor
    latest: Waveform

    def learn(self, state: State) -> tuple[State, tuple[Event, ...]]:
        """Use a full buffer, then go on watching for a change of domain; the order is the published one."""
        events: tuple[Event, ...] = ()
        if len(state.buffer) >= self.method.buffer:
            state, events = self._due(state)
            state = replace(state, buffer=())
        return (self._watched(state) if self.method.reset == "dynamic" else state), events

    def gaps(self, domain: Tensor, waveforms: Sequence[Waveform]) -> list[float]:
        """LII of each waveform: its loss under the snapshot `domain` (P,) less its loss under the source."""
        source = self._measured(self.source, waveforms)
        return [here.blend.item() - there.blend.item() for here, there in zip(self._measured(domain, waveforms), source, strict=True)]

    def _due(self, state: State) -> tuple[State, tuple[Event, ...]]:
        if self.method.reset == "fixed" and state.seen // self.method.every > (state.seen - len(state.buffer)) // self.method.every:
            return self._back(state, reason="fixed")
        if state.domain is not None and state.watch.ready:
            deviation = state.watch.deviation(self.gaps(state.domain, state.buffer))
            state = replace(state, watch=state.watch.judged(deviation, self.method.threshold))
            if state.watch.fails == self.method.patience:
                return self._back(state, reason="shift", deviation=deviation)
        return self._stepped(state)

    def _stepped(self, state: State) -> tuple[State, tuple[Event, ...]]:
        """One Adam step of the slow weights on the mean gradient of the buffer."""
        self.flat.load(state.weights)
        loss, heard = self._accumulated(state.buffer)
        if not heard:
            return self._deaf(state)
        if not bool(torch.isfinite(loss) & torch.isfinite(self.flat.gradient).all()):
            return state, (Event("skipped", {"reason": "diverged", "stage": "slow"}),)
        adam = self.method.adam(self.model, self.flat, state.first, state.second, state.count)
        adam.step(self.flat.gradient)
        state = replace(state, weights=self.flat.values.clone(), first=adam.first, second=adam.second, count=adam.count)
        detail = {"utterances": len(state.buffer), "loss": loss.item(), "count": state.count}
        return state, (Event("slow_committed", detail),)

    def _accumulated(self, buffer: Sequence[Waveform]) -> tuple[Tensor, bool]:
        self.flat.zero()
        total, heard = self.source.new_zeros(()), False
        groups = [buffer] if self.method.slow == "batched" else [[waveform] for waveform in buffer]
        for group in groups:
            batch = self.model.prepare(group)
            found = self.method.losses(self.model, self.model.emissions(batch, self.model.path(batch)))
            part = found.total.sum() / len(buffer)
            part.backward()
            total, heard = total + part.detach(), heard or bool(found.spoken.any())
        return total, heard

    def _deaf(self, state: State) -> tuple[State, tuple[Event, ...]]:
        """Slow weights that hear nothing have no gradient and would stay so for ever: go back if the source hears more."""
        if any(bool(found.spoken.any()) for found in self._measured(self.source, state.buffer)):
            return self._back(state, reason="collapsed")
        return state, (Event("skipped", {"reason": "no speech", "stage": "slow"}),)

    def _back(self, state: State, reason: str, **detail: float) -> tuple[State, tuple[Event, ...]]:
        return state.returned(self.source), (Event("reset", {"reason": reason, "utterance": state.seen, **detail}),)

    def _watched(self, state: State) -> State:
        half, age = self.method.window // 2, state.watch.age
        if age == half:
            return replace(state, domain=state.weights)
        if state.domain is not None and half < age < self.method.window:
            return replace(state, watch=state.watch.collected(self.gaps(state.domain, [self.latest])[0]))
        return replace(state, watch=state.watch.measured()) if age == self.method.window else state

    def _measured(self, weights: Tensor, waveforms: Sequence[Waveform]) -> list[Losses]:
        self.flat.load(weights)
        with torch.no_grad():
            batches = [self.model.prepare([waveform]) for waveform in waveforms]
            return [self.method.losses(self.model, self.model.emissions(batch, self.model.path(batch))) for batch in batches]
