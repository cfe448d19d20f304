"""AWMC: a chaser learns from the labels of an anchor that never moves and of a leader that follows it slowly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import ctc_loss

from asrlife.delta.rows import Rows, source
from asrlife.errors import InputError
from asrlife.methods.online import entropies
from asrlife.methods.online.adam import Adam
from asrlife.methods.online.descent import Course, Heard, Tuning, descend, kept
from asrlife.methods.online.losses import Losses
from asrlife.methods.online.method import Step
from asrlife.methods.online.state import State
from asrlife.methods.settings import CountOrZero, Rate
from asrlife.models.handle import Batch, Emissions, Recogniser

Labels = list[tuple[int, ...]]


@dataclass(frozen=True)
class Awmc(Tuning):
    """Anchor, leader and chaser, continual, for CTC recognisers (Lee et al., ASRU 2023, as re-implemented for arXiv 2406.11064).

    A step lowers the mean of the chaser's CTC losses per label against the greedy labels of the anchor, which is the source, and of the
    leader, which is source + v, v a moving average of chaser - source: v <- alpha * v + (1 - alpha) * (chaser - source) after each step.
    Labels that are empty have no say. `corrected` divides v by 1 - alpha^k after k steps, as Adam does with its moments: without it, as
    published, the leader stays near the source for about 1 / (1 - alpha) steps. Evaluation mode throughout, where the published code
    drops units at random. Of the biases in the scope only those of the encoder's layers are tuned.
    """

    name: ClassVar[str] = "awmc"
    lr: Rate = 2e-4
    scope: str = "norms+biases"
    steps: CountOrZero = 10
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.999
    corrected: bool = False

    def start(self, model: Recogniser) -> State:
        """The source weights with fresh moments and no average; raises InputError for a recogniser without CTC."""
        if model.blank is None:
            raise InputError(f"awmc works with CTC recognisers only, and {model.name} is none: use csuta")
        norms, biases = (set(model.groups()[group]) for group in ("norms", "biases"))
        names = tuple(name for name in model.select(self.scope) if name in norms or name not in biases or _within_layers(name))
        state = State.of(model, names, count=0)
        return state.updated({"average": torch.zeros_like(state["weights"])})

    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Teach the chasers, recognise with them, and go on from there."""
        rows, adam = self.resumed(model, heard)
        averages = torch.stack([one.state["average"] for one in heard])
        lesson = _Lesson(self, model, rows, adam, averages)
        attempts, _ = self.tried(model, [one.waveform for one in heard], rows, lesson.course)
        found = kept(heard, attempts, adam)
        return [
            (hypothesis, state.updated({"average": lesson.averages[row].clone()}) if attempt.fit else state, events)
            for row, (attempt, (hypothesis, state, events)) in enumerate(zip(attempts, found, strict=True))
        ]


@dataclass(eq=False)
class _Lesson:
    """A batch of chasers `rows`, and the averages (rows, P) of where they were."""

    method: Awmc
    model: Recogniser
    rows: Rows
    adam: Adam
    averages: Tensor

    def course(self, batch: Batch, path: Tensor | None) -> Course:
        """Learn from the labels of anchors and leaders."""
        anchor = source(self.model.module, self.rows.names)
        anchored = self._labels(batch, anchor[None])
        led = self._labels(batch, self._leaders(anchor))

        def objective(emissions: Emissions) -> Losses:
            return self._losses(emissions, anchored, led)

        def update(slope: Tensor) -> None:
            nonlocal led
            self.adam.step(slope)
            self.averages = self.method.alpha * self.averages + (1 - self.method.alpha) * (self.rows.values.detach() - anchor)
            led = self._labels(batch, self._leaders(anchor))

        return descend(self.model, batch, path, self.rows, update, self.method.steps, objective)

    def _leaders(self, anchor: Tensor) -> Tensor:
        if not self.method.corrected:
            return anchor + self.averages
        shares = torch.tensor([1 - self.method.alpha**count if count else 1.0 for count in self.adam.counts])
        return anchor + self.averages / shares.to(anchor)[:, None]

    def _labels(self, batch: Batch, weights: Tensor) -> Labels:
        """Greedy labels under weights (rows, P)."""
        tensors = Rows.of(self.model.module, self.rows.names, weights).tensors
        return [hypothesis.tokens for hypothesis in self.model.decode(batch, weights=tensors)]

    def _losses(self, emissions: Emissions, anchored: Labels, led: Labels) -> Losses:
        blank = int(self.model.blank or 0)
        said = torch.tensor([[bool(a), bool(b)] for a, b in zip(anchored, led, strict=True)], device=emissions.logits.device)
        both = torch.stack([per_label(emissions, labels, blank) for labels in (anchored, led)], 1)
        loss = entropies.mean(both, said)
        entropy = entropies.mean(entropies.shannon(emissions.logits), entropies.spoken(emissions, blank))
        return Losses(entropy, torch.zeros_like(entropy), loss, said.any(1))


def _within_layers(name: str) -> bool:
    return ".encoder." in name and ".pos_conv_embed." not in name


def per_label(emissions: Emissions, labels: Labels, blank: int) -> Tensor:
    """The CTC loss of each row in nats for each of its labels, (batch,); zero for a row without any, and for more than its frames hold."""
    log_probs = emissions.logits.log_softmax(-1).transpose(0, 1)
    device = log_probs.device
    counts = torch.tensor([len(row) for row in labels], device=device)
    targets = torch.tensor([label for row in labels for label in row], dtype=torch.long, device=device)
    losses = ctc_loss(log_probs, targets, emissions.lengths.to(device), counts, blank, reduction="none", zero_infinity=True)
    return torch.where(counts > 0, losses / counts.clamp_min(1), torch.zeros_like(losses))
