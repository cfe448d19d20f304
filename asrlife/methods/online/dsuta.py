"""Dynamic SUTA: fast steps for each utterance, a slow step for every few, and a way back to the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from asrlife.audio.waveform import Waveform
from asrlife.delta.rows import Rows, source
from asrlife.errors import InputError
from asrlife.methods.online.descent import Attempt, Descent, Heard
from asrlife.methods.online.losses import Losses
from asrlife.methods.online.method import Event, Step
from asrlife.methods.online.state import State, fresh
from asrlife.methods.online.watch import Watch
from asrlife.methods.settings import Count, CountOrZero, Positive
from asrlife.models.handle import Recogniser

_EMPTY = {"waiting": 0, "hears": False, "source_hears": False, "loss": 0.0}  # of a buffer
_FRESH = {"count": 0, "watch": asdict(Watch()), **_EMPTY}
_WORST = 10.0  # nats; what a loss that is not finite counts as
_LEAST_WINDOW = 6  # utterances; window / 2 - 1 gaps must have a sample deviation


@dataclass(frozen=True)
class Dsuta(Descent):
    """Continual adaptation with fast and slow weights (arXiv 2406.11064).

    Each utterance starts from the slow weights and the slow Adam moments, takes `fast_steps` and is recognised; what it learnt is
    dropped. Every `buffer` utterances the slow weights take one step on their mean gradient, which is that of each utterance's first
    fast step: the slow weights have not moved since, so that nothing has to be computed twice, nor any audio kept.
    `reset` "dynamic" learns for half a `window` of utterances, keeps a snapshot, measures it for the other half, and goes back to the
    source when `patience` buffers in a row deviate by more than `threshold`; "fixed" goes back at the first full buffer after every
    `every` utterances; "oracle" where `utterance.domain` changes between two buffers.
    """

    name: ClassVar[str] = "dsuta"
    fast_steps: CountOrZero = 5
    buffer: Count = 5
    reset: Literal["none", "dynamic", "fixed", "oracle"] = "none"
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
        return State.of(model, model.select(self.scope), seen=0, domain=None, **_FRESH)

    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Recognise with fast weights, then let the slow ones learn; an utterance that cannot be learnt from leaves its state as it is."""
        own = source(model.module, heard[0].state.names)
        turned = [self._turned(one, own) for one in heard]
        heard = [Heard(state, one.utterance, one.waveform) for one, (state, _) in zip(heard, turned, strict=True)]
        rows, adam = self.resumed(model, heard)
        attempts, slopes = self.attempts(model, [one.waveform for one in heard], rows, adam, self.fast_steps)
        gaps = self._gaps(model, heard, own)
        found: list[Step] = []
        for one, attempt, slope, gap, (_, events) in zip(heard, attempts, slopes, gaps, turned, strict=True):
            state, later = self._kept(model, one, attempt, slope, gap, own) if attempt.fit else (one.state, ())
            found.append((attempt.hypothesis, state, (*events, attempt.event, *later)))
        return found

    def _turned(self, one: Heard, own: Tensor) -> tuple[State, tuple[Event, ...]]:
        """The state to start from: the source's where an oracle says that the domain has changed since the last full buffer."""
        before, now = one.state.record["domain"], one.utterance.domain
        if self.reset != "oracle" or before == now:
            return one.state, ()
        state = one.state.updated(domain=now)
        return self._back(state, own, "oracle") if before is not None and not state.record["waiting"] else (state, ())

    def _gaps(self, model: Recogniser, heard: Sequence[Heard], own: Tensor) -> list[float | None]:
        """LII of each utterance that its watch asks for, None of the others."""
        asked = [index for index, one in enumerate(heard) if self.reset == "dynamic" and self._asks(one.state)]
        found = dict(zip(asked, self.gaps(model, [heard[index] for index in asked], own), strict=True)) if asked else {}
        return [found.get(index) for index in range(len(heard))]

    def gaps(self, model: Recogniser, heard: Sequence[Heard], own: Tensor) -> list[float]:
        """LII: the loss of each utterance under its stream's domain snapshot less its loss under the source `own` (P,)."""
        domain = torch.stack([one.state["domain"] for one in heard])
        weights = torch.cat([domain, own.expand(len(heard), -1)])
        found = self._measured(model, heard[0].state.names, weights, [one.waveform for one in heard] * 2).blend
        found = torch.nan_to_num(found, nan=_WORST, posinf=_WORST)
        return (found[: len(heard)] - found[len(heard) :]).tolist()

    def _measured(self, model: Recogniser, names: tuple[str, ...], weights: Tensor, waveforms: Sequence[Waveform]) -> Losses:
        rows = Rows.of(model.module, names, weights).tensors
        with torch.no_grad():
            batch = model.cached(model.prepare(waveforms), names)
            return self.losses(model, model.emissions(batch, model.path(batch, rows), rows))

    def _asks(self, state: State) -> bool:
        watch = Watch.of(state.record["watch"])
        return "domain" in state.vectors and (watch.ready or self.window // 2 < watch.age + 1 < self.window)

    def _kept(
        self, model: Recogniser, one: Heard, attempt: Attempt, slope: Tensor, gap: float | None, own: Tensor
    ) -> tuple[State, tuple[Event, ...]]:
        """What follows the hypothesis: wait for a full buffer, use it, go on watching; the order is the published one."""
        record, detail = one.state.record, attempt.event.detail
        hears = attempt.hears
        # slow weights that hear nothing have no gradient and would stay so for ever, though the source may hear
        source_hears = not hears and bool(self._measured(model, one.state.names, own[None], [one.waveform]).spoken)
        watch = Watch.of(record["watch"]).older()
        counts = {
            "seen": record["seen"] + 1,
            "waiting": record["waiting"] + 1,
            "hears": record["hears"] or hears,
            "source_hears": record["source_hears"] or source_hears,
            "loss": record["loss"] + float(detail.get("loss_before", 0.0)) / self.buffer,
            "watch": asdict(watch if gap is None else watch.collected(gap)),
        }
        slopes = one.state.vectors.get("slope", 0.0) + slope / self.buffer
        state, events = one.state.updated({"slope": slopes}, **counts), tuple[Event, ...]()
        if counts["waiting"] >= self.buffer:
            state, events = self._due(state, own, model)
            state = state.updated({"slope": None}, **_EMPTY)
        return (self._watched(state) if self.reset == "dynamic" else state), events

    def _due(self, state: State, own: Tensor, model: Recogniser) -> tuple[State, tuple[Event, ...]]:
        """Use a full buffer: go back where the watch or the clock says so, else take one step on its mean gradient."""
        seen = state.record["seen"]
        if self.reset == "fixed" and seen // self.every > (seen - self.buffer) // self.every:
            return self._back(state, own, "fixed")
        watch = Watch.of(state.record["watch"])
        if self.reset == "dynamic" and watch.ready:
            deviation = watch.deviation(watch.gaps)
            watch = watch.judged(deviation, self.threshold)
            state = state.updated(watch=asdict(watch))
            if watch.fails == self.patience:
                return self._back(state, own, "shift", deviation=deviation)
        if not state.record["hears"]:
            deaf = Event("skipped", {"reason": "no speech", "stage": "slow"})
            return self._back(state, own, "collapsed") if state.record["source_hears"] else (state, (deaf,))
        return self._stepped(state, model)

    def _stepped(self, state: State, model: Recogniser) -> tuple[State, tuple[Event, ...]]:
        if not bool(torch.isfinite(state["slope"]).all()):
            return state, (Event("skipped", {"reason": "diverged", "stage": "slow"}),)
        adam = self.slow(model, state, state["slope"])
        detail = {"utterances": self.buffer, "loss": state.record["loss"], "count": adam.counts[0]}
        return state.updated(adam.row(0), count=adam.counts[0]), (Event("slow_committed", detail),)

    def _back(self, state: State, own: Tensor, reason: str, **detail: float) -> tuple[State, tuple[Event, ...]]:
        """At the source with empty moments, all forgotten but how much was heard."""
        state = state.updated({**fresh(own), "domain": None, "slope": None}, **_FRESH)
        return state, (Event("reset", {"reason": reason, "utterance": state.record["seen"], **detail}),)

    def _watched(self, state: State) -> State:
        watch = Watch.of(state.record["watch"])
        if watch.age == self.window // 2:
            return state.updated({"domain": state["weights"]})
        return state.updated(watch=asdict(watch.measured())) if watch.age == self.window else state
