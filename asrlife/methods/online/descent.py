"""Going down label-free losses on a batch of utterances, each with weights of its own: what the gradient methods share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from asrlife.audio.read import defects
from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.delta.rows import Rows, source
from asrlife.methods.online import losses
from asrlife.methods.online.adam import ONCE, Adam, Span, listed
from asrlife.methods.online.losses import Losses
from asrlife.methods.online.method import RATE, Event, Online, Step, held
from asrlife.methods.online.sequence import Whole, among_the_best, opening, runaway, seeded, writer
from asrlife.methods.online.state import State
from asrlife.methods.settings import Count, Positive, Rate, Share, check
from asrlife.models.handle import Batch, Emissions, Recogniser
from asrlife.text.hypothesis import Hypothesis

Objective = Callable[[Emissions], Losses]
Update = Callable[[Tensor], None]
Forward = Callable[[], Emissions]


@dataclass(frozen=True, eq=False)
class Heard:
    """An utterance of one stream, and what the stream has learnt before it."""

    state: State
    utterance: Utterance
    waveform: Waveform


@dataclass(frozen=True)
class Attempt:
    """The hypothesis for one utterance, what happened, and whether the utterance is fit to be learnt from."""

    hypothesis: Hypothesis
    event: Event
    fit: bool

    @property
    def hears(self) -> bool:
        """Whether there was speech before the first step."""
        return self.event.detail.get("reason") != "no speech"


@dataclass(frozen=True, eq=False)
class Course:
    """Losses along a descent, (steps + 1, rows, 3) as total, entropy, spoken; the scores before the first step and after the last.

    `slope` (rows, P) is the gradient before the first step.
    """

    record: Tensor
    first: Emissions
    last: Emissions
    slope: Tensor

    def faults(self, values: Tensor) -> list[str]:
        """Why a row has to be dropped; "" where it is sound. The one place that waits for the device."""
        finite = torch.isfinite(self.record).all(2).all(0) & torch.isfinite(values).all(1) & torch.isfinite(self.last.logits).all(2).all(1)
        spoken = self.record[..., 2] > 0
        signs = torch.stack([~finite, ~spoken[0], ~spoken.all(0)]).tolist()
        names = ("diverged", "no speech", "collapsed")
        return [next((name for name, sign in zip(names, row, strict=True) if sign), "") for row in zip(*signs, strict=True)]

    def details(self, before: Sequence[Hypothesis]) -> list[dict[str, float | int | str]]:
        """What a "stepped" event says of each row."""
        found: list[dict[str, float | int | str]] = []
        for start, end, text in zip(self.record[0].tolist(), self.record[-1].tolist(), before, strict=True):
            changes = {"loss_before": start[0], "loss_after": end[0], "entropy_before": start[1], "entropy_after": end[1]}
            found.append({"steps": len(self.record) - 1, **changes, "before": text.text})
        return found


Walk = Callable[[Batch, Tensor | None], Course]


def descend(model: Recogniser, batch: Batch, path: Tensor | None, rows: Rows, update: Update, steps: int, objective: Objective) -> Course:
    """Go down `objective` of what `model` says of a batch under `rows`."""
    return go_down(lambda: model.emissions(batch, path, rows.tensors), rows, update, steps, objective)


def go_down(forward: Forward, rows: Rows, update: Update, steps: int, objective: Objective) -> Course:
    """Take `steps` updates of all rows, steps + 1 forwards in all; stop before the first one where no row hears speech.

    Nothing later is waited for, so that a GPU never stands still.
    """
    record: list[Tensor] = []
    first: Emissions | None = None
    slope = torch.zeros_like(rows.gradient)
    for step in range(max(1, steps)):  # who takes no step may still ask for the slope
        emissions = forward()
        found = objective(emissions)
        record.append(_row(found))
        first = first or Emissions(emissions.logits.detach(), emissions.lengths)
        if not step and not found.spoken.any():
            return Course(torch.stack(record), first, first, slope)
        rows.backward(found.total.sum())
        if not step:
            slope = rows.gradient.clone()
        if not steps:
            return Course(torch.stack(record), first, first, slope)
        update(rows.gradient)
    with torch.no_grad():
        last = forward()
        record.append(_row(objective(last)))
    return Course(torch.stack(record), first or last, last, slope)


@dataclass(frozen=True)
class Learner(Online):
    """What every method that learns has in common: what it does not learn from, and what it does not believe.

    `length_growth`, `length_change` and `compression_change` are relative: a sequence-to-sequence model whose hypothesis changes more, or
    loops, is taken for hallucinating: its unadapted hypothesis stands, and nothing is learnt.
    """

    name: ClassVar[str]
    length_growth: Positive = 0.1
    length_change: Positive = 0.5
    compression_change: Positive = 0.5

    def __post_init__(self) -> None:
        check(self)

    def together(self, model: Recogniser, states: Sequence[State], utterances: Sequence[Utterance]) -> list[Step]:
        """Learn from what is fit, together; what is short or silent is only decoded, under the weights that its stream carries."""
        waveforms = [utterance.waveform(RATE) for utterance in utterances]
        reasons = [unfit(waveform) for waveform in waveforms]
        sound = [index for index, reason in enumerate(reasons) if not reason]
        with held(model):
            learnt = self.learn(model, [Heard(states[i], utterances[i], waveforms[i]) for i in sound]) if sound else []
            found = dict(zip(sound, learnt, strict=True))
            for index, reason in enumerate(reasons):
                if reason:
                    found[index] = _refused(model, states[index], waveforms[index], reason)
        return [found[index] for index in range(len(states))]

    @abstractmethod
    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Recognise a batch of utterances that are fit to be learnt from, and learn from them."""

    def guard(self, before: Hypothesis, after: Hypothesis) -> str:
        """Why a hypothesis is not believed; "" where it is."""
        return runaway(before, after, self.length_growth, self.length_change, self.compression_change)


@dataclass(frozen=True)
class Tuning(Learner):
    """A method with gradients: its step and its tuned parameters."""

    lr: Rate = 2e-5
    scope: str = "norms+features"

    def spans(self, model: Recogniser, names: Sequence[str]) -> Sequence[Span]:
        """How often the optimiser applies each part of the tuned weights."""
        return ONCE

    def fresh(self, model: Recogniser, names: Sequence[str], count: int) -> tuple[Rows, Adam]:
        """`count` rows at the source, and an optimiser that has seen nothing."""
        rows = Rows.of(model.module, names, source(model.module, names).expand(count, -1))
        return rows, Adam.fresh(rows.values, self.lr, self.spans(model, names))

    def resumed(self, model: Recogniser, heard: Sequence[Heard]) -> tuple[Rows, Adam]:
        """Rows and an optimiser that go on from what each stream carries."""
        names = heard[0].state.names
        weights, first, second = (torch.stack([one.state[key] for one in heard]) for key in ("weights", "first", "second"))
        rows = Rows.of(model.module, names, weights)
        counts = [int(one.state.record["count"]) for one in heard]
        return rows, Adam(rows.values, first, second, counts, self.lr, self.spans(model, names))

    def slow(self, model: Recogniser, state: State, slope: Tensor) -> Adam:
        """What a stream carries, one step further against `slope` (P,)."""
        weights, first, second = (state[key][None].clone() for key in ("weights", "first", "second"))
        adam = Adam(weights, first, second, [int(state.record["count"])], self.lr, self.spans(model, state.names))
        adam.step(slope[None])
        return adam

    def tried(
        self, model: Recogniser, waveforms: Sequence[Waveform], rows: Rows, walk: Walk, beam: int = 1
    ) -> tuple[list[Attempt], Tensor]:
        """Adapt the rows to an utterance each as `walk` does and recognise them; the slopes (rows, P) before the first update.

        The hypothesis from before the first update stands, and "skipped" says why, when the model hears "no speech" in it, when
        anything became not finite ("diverged"), when an update left no word ("collapsed"), and when a hypothesis ran away ("loop",
        "length", "compression"). `beam` is the width of the search of sequence-to-sequence models.
        """
        batch = model.cached(model.prepare(waveforms), rows.names)
        start, path = opening(model, batch, rows.tensors, beam)
        course = walk(batch, path)
        before = start or model.decode(batch, course.first)
        after = model.decode(batch, course.last if path is None else None, beam=1 if path is None else beam, weights=rows.tensors)
        tried = zip(course.faults(rows.values), before, after, course.details(before), strict=True)
        judged = [
            (fault or (_emptied(old, new) if path is None else self.guard(old, new)), old, new, detail) for fault, old, new, detail in tried
        ]
        return [_attempt(*row) for row in judged], course.slope


@dataclass(frozen=True)
class Descent(Tuning):
    """Settings of SUTA (arXiv 2203.14222).

    `preset` "paper" repeats Adam on tensors that the published code lists several times (4 times for the convolutions, twice for
    the feature projection). `top`: only so many of the best classes of each step count.
    Sequence-to-sequence models search with `beam`, and their losses follow what it finds ("forced"); `objective` "autoregressive"
    takes the entropy of whole hypotheses in its place, from `samples` drawn for every step (`Whole`).
    """

    temperature: Positive = 2.5
    em_weight: Share = 0.3
    preset: Literal["clean", "paper"] = "clean"
    top: Count | None = None
    beam: Count = 1
    objective: Literal["forced", "autoregressive"] = "forced"
    samples: Count = 4

    def losses(self, model: Recogniser, emissions: Emissions) -> Losses:
        """The losses of every utterance of a batch."""
        if self.top is not None:
            return among_the_best(emissions, self.top, model.blank, self.temperature, self.em_weight)
        return losses.suta(emissions.logits, emissions.lengths, model.blank, self.temperature, self.em_weight)

    def spans(self, model: Recogniser, names: Sequence[str]) -> Sequence[Span]:
        """How often the optimiser applies each part of the tuned weights."""
        return ONCE if self.preset == "clean" else listed(model, names)

    def course(self, model: Recogniser, batch: Batch, path: Tensor | None, rows: Rows, adam: Adam, steps: int) -> Course:
        """Go down the losses from where `rows` are."""
        return descend(model, batch, path, rows, adam.step, steps, lambda emissions: self.losses(model, emissions))

    def attempts(
        self, model: Recogniser, waveforms: Sequence[Waveform], rows: Rows, adam: Adam, steps: int
    ) -> tuple[list[Attempt], Tensor]:
        """Adapt the rows to an utterance each by `steps` updates and recognise them; the slopes (rows, P) before the first."""
        writes = writer(model, self.name if self.objective != "forced" or self.beam > 1 else "")

        def walk(batch: Batch, path: Tensor | None) -> Course:
            if writes is None or path is None or self.objective == "forced":
                return self.course(model, batch, path, rows, adam, steps)
            whole = Whole(writes, batch, path, rows.tensors, seeded(waveforms), self.samples, self.temperature, self.em_weight)
            return go_down(whole.forward, rows, adam.step, steps, whole.losses)

        return self.tried(model, waveforms, rows, walk, self.beam)


def unfit(waveform: Waveform) -> str:
    """Why nothing can be learnt from a waveform: "short" or "silent"; "" where it can."""
    return next((defect for defect in defects(waveform) if defect in ("short", "silent")), "")


def kept(heard: Sequence[Heard], attempts: Sequence[Attempt], adam: Adam) -> list[Step]:
    """Hypotheses with states that go on from where the optimiser is, or stay where the utterance was not fit to be learnt from."""
    found: list[Step] = []
    for index, (one, attempt) in enumerate(zip(heard, attempts, strict=True)):
        # where nothing is heard no step is taken, whatever the other rows of the batch do; nor one behind which nothing is
        moved = attempt.fit and attempt.event.detail.get("reason") not in ("no speech", "collapsed")
        state = one.state.updated(adam.row(index), count=adam.counts[index]) if moved else one.state
        found.append((attempt.hypothesis, state, (attempt.event,)))
    return found


def skipped(hypothesis: Hypothesis, reason: str, fit: bool) -> Attempt:
    """A hypothesis from before any update."""
    return Attempt(hypothesis, Event("skipped", {"reason": reason, "stage": "fast", "before": hypothesis.text}), fit)


def _refused(model: Recogniser, state: State, waveform: Waveform, reason: str) -> Step:
    rows = Rows.of(model.module, state.names, state["weights"][None]).tensors if state.names else None
    attempt = skipped(model.decode(model.prepare([waveform]), weights=rows)[0], reason, fit=False)
    return attempt.hypothesis, state, (attempt.event,)


def _emptied(before: Hypothesis, after: Hypothesis) -> str:
    return "collapsed" if before.text and not after.text else ""  # word boundaries alone are no blanks, and as empty


def _attempt(fault: str, before: Hypothesis, after: Hypothesis, detail: dict[str, float | int | str]) -> Attempt:
    if fault:
        # a path that leads a model astray in a few steps must not lead the next utterance's weights there
        return skipped(before, fault, fit=fault in ("no speech", "collapsed"))
    return Attempt(after, Event("stepped", detail), fit=True)


def _row(found: Losses) -> Tensor:
    return torch.stack([found.total, found.entropy, found.spoken.to(found.entropy)], -1).detach()
