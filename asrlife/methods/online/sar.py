"""SAR: less entropy where it is low already, towards flat ground, and back to the source before everything sounds alike."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from asrlife.delta.rows import Rows, source
from asrlife.errors import InputError
from asrlife.methods.online import entropies
from asrlife.methods.online.adam import Adam
from asrlife.methods.online.descent import Attempt, Course, Heard, Tuning, descend, skipped
from asrlife.methods.online.losses import Losses
from asrlife.methods.online.method import Event, Step
from asrlife.methods.online.state import State, fresh
from asrlife.methods.settings import Count, Positive, Share
from asrlife.models.handle import Batch, Emissions, Recogniser

_TINY = 1e-12
_BLOCK = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True)
class Sar(Tuning):
    """Sharpness-aware and reliable entropy minimisation (arXiv 2302.12400), over frames in place of images.

    The loss is the mean of H over the frames that are not blank and have H < margin * ln C, C classes. A step climbs by
    e = rho * g / (||g|| + 1e-12) along its gradient g, takes the gradient of the same loss there, over those of the frames that stay
    below the margin, and leaves from where it was. `decay` averages the losses found there; a stream whose average falls below `floor`
    (nats) goes back to the source. An utterance without a frame that counts takes no step: "skipped", "unsure".
    The norms of the last quarter of each stack of layers, and the one over the whole stack, stay as they are.
    """

    name: ClassVar[str] = "sar"
    scope: str = "norms"
    margin: Positive = 0.4
    rho: Positive = 0.05
    decay: Share = 0.9
    floor: Share = 0.2
    steps: Count = 1

    def start(self, model: Recogniser) -> State:
        """The source weights of the scope, without the top, with fresh moments."""
        names = below_the_top(model.select(self.scope))
        if not names:
            raise InputError(f"sar leaves the top of the network alone, and {self.scope!r} has nothing else: choose another scope")
        return State.of(model, names, count=0, seen=0, average=None)

    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Adapt and keep it; go back to the source where the average says so."""
        rows, adam = self.resumed(model, heard)
        climb = _Climb(self, model, rows, adam)
        attempts, _ = self.tried(model, [one.waveform for one in heard], rows, lambda b, p: climb.course(b, p, self.steps))
        own = source(model.module, rows.names)
        losses = climb.averages([one.state.record["average"] for one in heard])
        moved = zip(heard, attempts, losses, climb.moved(), strict=True)
        return [self._kept(one, attempt, adam, index, loss, went, own) for index, (one, attempt, loss, went) in enumerate(moved)]

    def losses(self, model: Recogniser, emissions: Emissions, among: Tensor | None = None) -> tuple[Losses, Tensor, Tensor]:
        """The loss of every utterance over its sure frames, `among` those given; which they are; the entropies (batch, steps)."""
        spoken = entropies.spoken(emissions, model.blank)
        entropy = entropies.shannon(emissions.logits)
        sure = (spoken if among is None else among) & (entropy < self.margin * math.log(emissions.logits.shape[-1]))
        mean = entropies.mean(entropy, sure)
        return Losses(mean, torch.zeros_like(mean), mean, spoken.any(1)), sure, entropy

    def _kept(self, one: Heard, attempt: Attempt, adam: Adam, row: int, average: float | None, moved: bool, own: Tensor) -> Step:
        if attempt.event.kind != "stepped" or not moved:
            silent = attempt if attempt.event.kind != "stepped" else skipped(attempt.hypothesis, "unsure", fit=False)
            return silent.hypothesis, one.state.updated(seen=one.state.record["seen"] + 1), (silent.event,)
        seen = one.state.record["seen"] + 1
        if average is not None and average < self.floor:
            back = one.state.updated(fresh(own), count=0, seen=seen, average=None)
            reset = Event("reset", {"reason": "low entropy", "utterance": seen, "average": average})
            return attempt.hypothesis, back, (attempt.event, reset)
        state = one.state.updated(adam.row(row), count=adam.counts[row], seen=seen, average=average)
        return attempt.hypothesis, state, (attempt.event,)


@dataclass(frozen=True, eq=False)
class _Climb:
    """Steps from `rows` along the gradients at `rows + e`, and what was found there: a loss (rows,) and who moved (rows,) for each step."""

    method: Sar
    model: Recogniser
    rows: Rows
    adam: Adam
    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def course(self, batch: Batch, path: Tensor | None, steps: int) -> Course:
        """Go down the losses."""
        sure = torch.zeros(0)

        def objective(emissions: Emissions) -> Losses:
            nonlocal sure
            losses, sure, _ = self.method.losses(self.model, emissions)
            return losses

        return descend(self.model, batch, path, self.rows, lambda slope: self._step(batch, path, slope, sure), steps, objective)

    def _step(self, batch: Batch, path: Tensor | None, slope: Tensor, sure: Tensor) -> None:
        start = self.rows.values.detach().clone()
        self.rows.load(start + ascent(slope, self.method.rho))
        emissions = self.model.emissions(batch, path, self.rows.tensors)
        losses, still, entropy = self.method.losses(self.model, emissions, sure)
        self.rows.backward(losses.entropy.sum())
        self.rows.load(start)
        moves = sure.any(1) & still.any(1)
        self.found.append((entropies.mean(entropy, sure).detach(), moves))
        _step_some(self.adam, self.rows.gradient, moves)

    def averages(self, before: Sequence[float | None]) -> list[float | None]:
        """The moving averages (rows,) after all steps, over the steps that moved a row."""
        averages = list(before)
        for losses, moves in self.found:
            for row, (loss, moved) in enumerate(zip(losses.tolist(), moves.tolist(), strict=True)):
                earlier = averages[row]
                if moved:
                    averages[row] = loss if earlier is None else self.method.decay * earlier + (1 - self.method.decay) * loss
        return averages

    def moved(self) -> list[bool]:
        """Which rows any step moved."""
        if not self.found:
            return [False] * len(self.rows.values)
        return torch.stack([moves for _, moves in self.found]).any(0).tolist()


def ascent(slope: Tensor, rho: float) -> Tensor:
    """rho * g / (||g|| + 1e-12) for each row of `slope` (rows, P); arXiv 2010.01412, eq. 2."""
    return rho * slope / (slope.norm(dim=1, keepdim=True) + _TINY)


def below_the_top(names: Sequence[str]) -> tuple[str, ...]:
    """Names in numbered layers and before them, without the last quarter of each stack and what is over the stack itself.

    All `names` where no layer is numbered.
    """
    places = {name: (found, name[: found.start()]) for name in names if (found := _BLOCK.search(name))}
    depths: dict[str, int] = {}
    for found, stack in places.values():
        depths[stack] = max(depths.get(stack, 0), int(found[1]) + 1)
    top = {stack: depth - max(1, depth // 4) for stack, depth in depths.items()}

    def stays(name: str) -> bool:
        if name in places:
            found, stack = places[name]
            return int(found[1]) >= top[stack]
        return name.rpartition(".")[0].rpartition(".")[0] in depths

    return tuple(name for name in names if not stays(name))


@torch.no_grad()
def _step_some(adam: Adam, gradient: Tensor, moves: Tensor) -> None:
    """One step of the rows that `moves` (rows,) names; moments would carry the others on."""
    matrices = (adam.values, adam.first, adam.second)
    before = [matrix.detach().clone() for matrix in matrices]
    adam.step(gradient)
    for matrix, earlier in zip(matrices, before, strict=True):
        matrix.copy_(torch.where(moves[:, None], matrix, earlier))
