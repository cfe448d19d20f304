"""auto: adaptation that can be left switched on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from asrlife.audio.floor import noise_floor
from asrlife.audio.waveform import Waveform
from asrlife.delta.rows import Rows, source
from asrlife.methods.online.bank import Bank
from asrlife.methods.online.choice import average, confidence, votes
from asrlife.methods.online.descent import Descent, Heard
from asrlife.methods.online.method import Event, Step
from asrlife.methods.online.sequence import opening
from asrlife.methods.online.state import State, fresh
from asrlife.methods.online.trial import Candidate, Heeded, Trial, Tried
from asrlife.methods.settings import Count, Finite, NotNegative, Positive, Share
from asrlife.models.handle import Emissions, Recogniser
from asrlife.text.hypothesis import Hypothesis

_VECTORS = ("weights", "first", "second", "slope")
_MEMORY = 0.9  # of how sure somebody has been: some ten utterances
_LEAST_SAID = 0.5  # of what the source says
_STEP = 3.0  # forwards that a step costs, its backward among them


@dataclass(frozen=True)
class Auto(Descent):
    """Three recognisers at once, and a choice between them that needs no labels; steps are spent where they can help.

    For each utterance: the source as it is; SUTA from the source (`steps`); fast steps (`fast_steps`) from weights that the stream has
    learnt slowly in this sound, as Dynamic SUTA does (one step for every `buffer` utterances). Their hypotheses are put to the vote of
    all, and of the slow weights before any step, by likelihood. Where the slow weights have lately been surer than the source, in nats
    less than `lead` times as unsure, the stream is believed without a vote and SUTA spared: no step sharpens that comparison.

    Learnt weights are kept in a bank by noise floor. A sound met before gets its own back. A new one gets a place when a test that may
    be looked at for ever says so: a false alarm in `alarm` utterances at most, and nothing within `radius` dB counts. It starts from
    the source. Places of what only seems to be another sound share their weights: one in which the weights at hand are less than
    `carry` times as unsure as the source, and two that take turns within `buffer` utterances. The bank has `places`.

    No step on silence, none where the source is surer than `confident`, no more where the loss has `converged` (relative), none that
    would end after `max_latency_ms`. Where even the adapted recognisers are less sure than `unheard` nobody has understood anything
    yet: the source's hypothesis stands, while the slow weights learn on. `confident` and `unheard` are mean log-probabilities (nats) of
    the best class.
    Learnt weights stay within `drift` of the source, relative to its norm.
    """

    name: ClassVar[str] = "auto"
    steps: Count = 10
    fast_steps: Count = 5
    buffer: Count = 5
    lead: NotNegative = 0.85
    places: Count = 4
    radius: Positive = 3.0
    alarm: Positive = 100.0
    carry: NotNegative = 0.5
    drift: Positive = 0.5
    confident: Finite = -0.002
    unheard: Finite = -0.06
    converged: Share = 0.0
    max_latency_ms: Positive | None = None

    def start(self, model: Recogniser) -> State:
        """The source weights of the scope with fresh moments and an empty bank."""
        return State.of(model, model.select(self.scope), count=0, waiting=0, bank=asdict(Bank()))

    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Put each utterance where it belongs, try, choose, and let the slow weights learn from what was understood."""
        own = source(model.module, heard[0].state.names)
        placed = [self._placed(model, one, own) for one in heard]
        trial = Trial(self, model, own, [replace(one, state=state) for one, (state, _) in zip(heard, placed, strict=True)])
        tried = trial.run(self._budget(model, heard))
        return [self._told(model, state, events, one, own) for (state, events), one in zip(placed, tried, strict=True)]

    def _told(self, model: Recogniser, state: State, events: tuple[Event, ...], tried: Tried, own: Tensor) -> Step:
        hypothesis, judged, event = self._chosen(model, state, tried)
        learnt, later = self._learnt(model, judged, tried, event, own)
        return hypothesis, learnt, (*events, event, *later)

    def _budget(self, model: Recogniser, heard: Sequence[Heard]) -> int:
        """Steps that fit into the latency allowed, from the time that one forward takes."""
        if self.max_latency_ms is None:
            return self.steps
        began = time.perf_counter()
        with torch.no_grad():
            model.emissions(model.prepare([one.waveform for one in heard]))
        forward = 1000 * (time.perf_counter() - began)
        left = self.max_latency_ms - 5 * forward  # this one, the first and the last of both rows
        together = min(self.fast_steps, int(max(0.0, left) / (2 * _STEP * forward)))
        alone = int(max(0.0, left - 2 * _STEP * forward * together) / (_STEP * forward)) if together == self.fast_steps else 0
        return min(self.steps, together + alone)

    def _placed(self, model: Recogniser, one: Heard, own: Tensor) -> tuple[State, tuple[Event, ...]]:
        """The state in the sound of this utterance: the sound's own weights, or those at hand where they suit it better."""
        before, floor = Bank.of(one.state.record["bank"]), noise_floor(one.waveform)
        bank = before.heard(floor, self.radius)
        if bank.evidence >= self.alarm:
            (bank, state), reason = self._opened(model, one, own, before, bank, floor), "new sound"
        elif before.places and bank.here.weights != before.here.weights:
            (bank, state), reason = self._recalled(model, one, before, bank), "known sound"
        else:
            return one.state.updated(bank=asdict(bank)), ()
        if bank.here.weights == before.here.weights:
            return state.updated(bank=asdict(bank)), ()
        event = Event("retrieved", {"entry": bank.now, "reason": reason, "utterance": bank.clock})
        return state.updated(bank=asdict(replace(bank, arrived=bank.clock))), (event,)

    def _opened(self, model: Recogniser, one: Heard, own: Tensor, before: Bank, bank: Bank, floor: np.ndarray) -> tuple[Bank, State]:
        """A new place: what was learnt in another noise is surer in this one than the source, and yet learns worse from there."""
        both = torch.stack([own, one.state["weights"]])
        source, hand = confidence(self._heard(model, one.state.names, both, one.waveform)).tolist()
        if hand >= self.carry * source:
            bank = bank.opened(floor, self.places, before.here.weights)
            return bank, _tidied(one.state, bank)
        bank = bank.opened(floor, self.places)
        left = _tidied(_left(one.state, before.here.weights), bank)
        return bank, left.updated({**fresh(own), "slope": None}, count=0, waiting=0)

    def _recalled(self, model: Recogniser, one: Heard, before: Bank, bank: Bank) -> tuple[Bank, State]:
        """In a sound met before: its own weights, even where others look surer.

        Sounds that take turns too fast for a buffer to fill are states of one noise, and share the weights at hand if these suit both.
        """
        state, here, there = one.state, before.here.weights, bank.here.weights
        if bank.clock - before.arrived <= self.buffer:
            known = torch.stack([state["weights"], state[f"{there}.weights"]])
            at_hand, kept = self._losses(model, state.names, known, one.waveform).tolist()
            if at_hand < kept:
                bank = bank.sharing(here)
                return bank, _tidied(state, bank)
        return bank, _back(_left(state, here), there)

    def _losses(self, model: Recogniser, names: tuple[str, ...], weights: Tensor, waveform: Waveform) -> Tensor:
        """The loss of one utterance under each of several weights (n, P), (n,)."""
        return self.losses(model, self._heard(model, names, weights, waveform)).blend

    def _heard(self, model: Recogniser, names: tuple[str, ...], weights: Tensor, waveform: Waveform) -> Emissions:
        rows = Rows.of(model.module, names, weights).tensors
        batch = model.cached(model.prepare([waveform]), names).rows([0] * len(weights))
        _, path = opening(model, batch, rows, self.beam)
        with torch.no_grad():
            return model.emissions(batch, path, rows)

    def standing(self, state: State, source: Candidate, slow: Candidate) -> tuple[tuple[float, ...], bool]:
        """How sure the source and the slow weights have lately been in this sound (nats), and whether the stream leads."""
        before = Bank.of(state.record["bank"]).here.sureness
        now = source.confidence, slow.confidence
        if not all(isfinite(value) for value in now):
            return before, False
        sureness = average(before, now, _MEMORY)
        # weights that have collapsed into silence are surer than any
        says = len(slow.hypothesis.tokens) > len(source.hypothesis.tokens) * _LEAST_SAID
        return sureness, says and sureness[1] >= self.lead * sureness[0]

    def _chosen(self, model: Recogniser, state: State, tried: Tried) -> tuple[Hypothesis, State, Event]:
        """The hypothesis to believe, the state with the standing of source and stream, and what to say."""
        heeded, believable = tried.heeded, tried.believable
        bank = Bank.of(state.record["bank"]).judged(heeded.sureness)
        state, plain = state.updated(bank=asdict(bank)), heeded.source.hypothesis
        if not tried.stepped:
            return plain, state, _skipped("confident", tried)
        if max((one.confidence for one in believable.values()), default=-inf) < self.unheard:
            fault = next(iter(tried.stepped.values())).fault
            return plain, state, _skipped(fault or "unheard", tried)
        if not heeded.led:
            believable = _elected(model, heeded, believable)
        name = next(iter(believable))
        return believable[name].hypothesis, state, _stepped(tried, name)

    def _learnt(self, model: Recogniser, state: State, tried: Tried, event: Event, own: Tensor) -> tuple[State, tuple[Event, ...]]:
        """What was tried goes into the buffer; a stream whose own weights fail where the source does not goes back to the source."""
        failed = tried.slope is not None and "stream" not in tried.believable
        # in heavy noise learning begins with what is not understood
        tells = event.kind == "stepped" or event.detail["reason"] == "unheard"
        if tried.slope is None or (not tells and not (failed and tried.heeded.led)):
            return state, ()
        if failed:
            back = state.updated({**fresh(own), "slope": None}, count=0, waiting=0)
            return back, (Event("reset", {"reason": "collapsed", "utterance": state.record["bank"]["clock"]}),)
        slopes, waiting = state.vectors.get("slope", 0.0) + tried.slope / self.buffer, state.record["waiting"] + 1
        if waiting < self.buffer:
            return state.updated({"slope": slopes}, waiting=waiting), ()
        return self._committed(model, state, slopes, own)

    def _committed(self, model: Recogniser, state: State, slopes: Tensor, own: Tensor) -> tuple[State, tuple[Event, ...]]:
        """One Adam step of the slow weights on the mean gradient of a full buffer."""
        adam = self.slow(model, state, slopes)
        far = float((adam.values[0] - own).norm() / own.norm())
        if far > self.drift:
            adam.values.lerp_(own[None], 1 - self.drift / far)
        detail: dict[str, float | int | str] = {"utterances": self.buffer, "count": adam.counts[0], "drift": min(far, self.drift)}
        return state.updated({**adam.row(0), "slope": None}, count=adam.counts[0], waiting=0), (Event("slow_committed", detail),)


def _left(state: State, here: int) -> State:
    """With a copy of what has been learnt put away as number `here`, the buffer that has begun at these weights with it."""
    kept = {f"{here}.{key}": state.vectors.get(key) for key in _VECTORS}
    return state.updated(kept, **{f"{here}.{key}": state.record[key] for key in ("count", "waiting")})


def _back(state: State, there: int) -> State:
    """With what has been put away as number `there` at hand, and no longer there."""
    taken = {key: state.vectors.get(f"{there}.{key}") for key in _VECTORS}
    counts = {key: state.record[f"{there}.{key}"] for key in ("count", "waiting")}
    return state.updated({**taken, **{f"{there}.{key}": None for key in _VECTORS}}, **counts)


def _tidied(state: State, bank: Bank) -> State:
    """Without weights whose places are gone, and those that have come to hand."""
    kept = {str(place.weights) for place in bank.places if place.weights != bank.here.weights}
    gone = [key for key in state.vectors if "." in key and key.partition(".")[0] not in kept]
    return state.updated(dict.fromkeys(gone))


def _elected(model: Recogniser, heeded: Heeded, believable: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """The one with the most likely hypothesis, in the judgement of all; the slow weights judge while what comes of them is believable."""
    voters = {"source": heeded.source, **believable}
    judges = [*voters.values(), *([heeded.slow] if "stream" in believable else [])]
    scores = votes(model, [one.emissions for one in judges], [one.hypothesis for one in voters.values()])
    name = max(voters, key=dict(zip(voters, scores, strict=True)).__getitem__)
    return {name: voters[name]}


def _skipped(reason: str, tried: Tried) -> Event:
    return Event("skipped", {"reason": reason, "stage": "fast", "before": tried.heeded.slow.hypothesis.text})


def _stepped(tried: Tried, name: str) -> Event:
    """What the chosen candidate's steps did; where the source won, those that were taken in vain."""
    one = tried.stepped.get(name) or next(iter(tried.stepped.values()))
    changes = {
        "loss_before": one.losses[0],
        "loss_after": one.losses[1],
        "entropy_before": one.entropies[0],
        "entropy_after": one.entropies[1],
    }
    return Event("stepped", {"steps": one.steps, **changes, "before": tried.heeded.slow.hypothesis.text, "chosen": name})
