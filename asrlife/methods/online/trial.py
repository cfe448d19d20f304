"""Recognising utterances by the source, by SUTA from the source and by fast steps from a stream's own weights, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asrlife.delta.rows import Rows
from asrlife.methods.online.adam import Adam
from asrlife.methods.online.choice import confidence
from asrlife.methods.online.descent import Course, Heard, descend
from asrlife.methods.online.sequence import opening
from asrlife.models.handle import Batch, Emissions, Recogniser
from asrlife.text.hypothesis import Hypothesis

if TYPE_CHECKING:
    from asrlife.methods.online.auto import Auto


@dataclass(frozen=True, eq=False)
class Candidate:
    """What one recogniser made of one utterance: emissions of one row, losses before and after its steps, and why not to believe it."""

    emissions: Emissions
    hypothesis: Hypothesis
    fault: str = ""
    steps: int = 0
    losses: tuple[float, float] = (0.0, 0.0)
    entropies: tuple[float, float] = (0.0, 0.0)

    @property
    def confidence(self) -> float:
        """How sure it is, in nats."""
        return float(confidence(self.emissions))


@dataclass(frozen=True, eq=False)
class Heeded:
    """What the source and the weights of the stream say of an utterance before any step, how sure the two have been lately in this
    sound (nats), and whether the stream is to be believed without a vote."""

    source: Candidate
    slow: Candidate
    sureness: tuple[float, ...]
    led: bool

    @property
    def sure(self) -> float:
        """How sure the source is, in nats."""
        return self.source.confidence


@dataclass(frozen=True, eq=False)
class Tried:
    """One utterance as heard before any step, what SUTA ("alone") and the fast weights of the stream made of it in theirs, and the
    gradient (P,) at the stream's weights. No step is needed where the source is sure, and no SUTA where the stream leads."""

    heeded: Heeded
    stepped: Mapping[str, Candidate] = field(default_factory=dict)
    slope: Tensor | None = None

    @property
    def believable(self) -> dict[str, Candidate]:
        """The candidates that took steps and may be believed, by name."""
        return {name: one for name, one in self.stepped.items() if not one.fault}


@dataclass(frozen=True, eq=False)
class Trial:
    """A batch of utterances, each heard by the source `own` (P,) and by what its stream has learnt."""

    method: Auto
    model: Recogniser
    own: Tensor
    heard: Sequence[Heard]

    def run(self, steps: int) -> list[Tried]:
        """Hear everything once, then take up to `steps` steps for what the source is not sure of."""
        count = len(self.heard)
        names = self.heard[0].state.names
        rows = Rows.of(self.model.module, names, torch.cat([self.own.expand(count, -1), self._stacked("weights", range(count))]))
        heeded, path = self._heeded(rows)
        unsure = [index for index, one in enumerate(heeded) if steps and one.sure < self.method.confident]
        tried = self._stepped(unsure, heeded, rows, path, steps) if unsure else {}
        return [tried.get(index, Tried(one)) for index, one in enumerate(heeded)]

    def _heeded(self, rows: Rows) -> tuple[list[Heeded], Tensor | None]:
        count = len(self.heard)
        batch = self.batch.rows([*range(count)] * 2)
        start, path = opening(self.model, batch, rows.tensors, self.method.beam)
        with torch.no_grad():
            first = self.model.emissions(batch, path, rows.tensors)
        texts = start or self.model.decode(batch, first)
        found = [Candidate(_row(first, row), text) for row, text in enumerate(texts)]
        pairs = zip(self.heard, found[:count], found[count:], strict=True)
        return [Heeded(plain, slow, *self.method.standing(one.state, plain, slow)) for one, plain, slow in pairs], path

    def _stepped(self, members: Sequence[int], heeded: Sequence[Heeded], rows: Rows, path: Tensor | None, steps: int) -> dict[int, Tried]:
        """The candidates of each member; SUTA's, where there is a choice, and the stream's take their first steps side by side."""
        alone = [index for index in members if not heeded[index].led]
        order = [*alone, *members]
        chosen = [*alone, *(len(self.heard) + index for index in members)]
        before = [(heeded[row].source if at < len(alone) else heeded[row].slow).hypothesis for at, row in enumerate(order)]
        on = Rows.of(self.model.module, rows.names, rows.values[chosen])
        adam = self._adam(on.values, len(alone), members)
        part = None if path is None else path[chosen]
        batch = self.batch.rows(order)
        course = self._course(batch, part, on, adam, min(steps, self.method.fast_steps))
        found = self._candidates(batch, part, on, course, before, 0)
        if alone and steps > self.method.fast_steps:
            found[: len(alone)] = self._further(alone, on, adam, part, found[: len(alone)], before, steps - self.method.fast_steps)
        mine = {index: {"alone": one} for index, one in zip(alone, found, strict=False)}
        theirs = zip(members, found[len(alone) :], course.slope[len(alone) :], strict=True)
        return {index: Tried(heeded[index], {**mine.get(index, {}), "stream": one}, slope) for index, one, slope in theirs}

    def _adam(self, values: Tensor, alone: int, members: Sequence[int]) -> Adam:
        """Fresh moments for the first `alone` rows, those of its stream for each other."""
        kept = {key: self._stacked(key, members) for key in ("first", "second")}
        first, second = (torch.cat([torch.zeros_like(values[:alone]), kept[key]]) for key in ("first", "second"))
        counts = [0] * alone + [int(self.heard[index].state.record["count"]) for index in members]
        return Adam(values, first, second, counts, self.method.lr, self.method.spans(self.model, self.heard[0].state.names))

    def _further(
        self, members: Sequence[int], rows: Rows, adam: Adam, path: Tensor | None, found: Sequence[Candidate],
        before: Sequence[Hypothesis], steps: int,
    ) -> list[Candidate]:  # fmt: skip
        """The rest of SUTA's steps, for those that have not converged."""
        going = [index for index, one in enumerate(found) if not one.fault and self._moves(one)]
        if not going:
            return list(found)
        on = Rows.of(self.model.module, rows.names, rows.values[going])
        counts = [adam.counts[index] for index in going]
        rest = Adam(on.values, adam.first[going], adam.second[going], counts, self.method.lr, adam.spans)
        batch = self.batch.rows([members[index] for index in going])
        part = None if path is None else path[going]
        course = self._course(batch, part, on, rest, steps)
        later = self._candidates(batch, part, on, course, [before[index] for index in going], self.method.fast_steps)
        merged = dict(enumerate(found)) | dict(zip(going, later, strict=True))
        return [merged[index] for index in range(len(found))]

    def _moves(self, one: Candidate) -> bool:
        return one.losses[0] - one.losses[1] > self.method.converged * abs(one.losses[0])

    def _course(self, batch: Batch, path: Tensor | None, rows: Rows, adam: Adam, steps: int) -> Course:
        return descend(self.model, batch, path, rows, adam.step, steps, lambda emissions: self.method.losses(self.model, emissions))

    def _candidates(
        self, batch: Batch, path: Tensor | None, rows: Rows, course: Course, before: Sequence[Hypothesis], earlier: int
    ) -> list[Candidate]:
        after = self.model.decode(batch, course.last if path is None else None, weights=rows.tensors)
        faults = course.faults(rows.values)
        found = []
        for index, (old, new, start, end) in enumerate(
            zip(before, after, course.record[0].tolist(), course.record[-1].tolist(), strict=True)
        ):
            fault = faults[index] or ("" if path is None else self.method.guard(old, new))
            losses, entropies = (start[0], end[0]), (start[1], end[1])
            found.append(Candidate(_row(course.last, index), new, fault, earlier + len(course.record) - 1, losses, entropies))
        return found

    @cached_property
    def batch(self) -> Batch:
        """The utterances, with what no tuned weight changes."""
        return self.model.cached(self.model.prepare([one.waveform for one in self.heard]), self.heard[0].state.names)

    def _stacked(self, key: str, members: Sequence[int]) -> Tensor:
        return torch.stack([self.heard[index].state[key] for index in members])


def _row(emissions: Emissions, index: int) -> Emissions:
    return Emissions(emissions.logits[index : index + 1].detach(), emissions.lengths[index : index + 1])
