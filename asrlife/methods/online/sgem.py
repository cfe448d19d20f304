"""SGEM: sharpen what a beam search found, push down what it would never say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from asrlife.delta.rows import Rows
from asrlife.errors import InputError
from asrlife.methods.online import entropies
from asrlife.methods.online.adam import Adam
from asrlife.methods.online.descent import Course, Heard, Tuning, descend
from asrlife.methods.online.losses import Losses
from asrlife.methods.online.method import Step
from asrlife.methods.online.state import State
from asrlife.methods.settings import Count, CountOrZero, Positive, Rate, Weight
from asrlife.models.align import align_labels
from asrlife.models.handle import Batch, Emissions, Recogniser


@dataclass(frozen=True)
class Sgem(Tuning):
    """Sequence-level generalised entropy minimisation, episodic, for CTC recognisers (arXiv 2306.01981).

    Loss: the mean of the Renyi entropy of order `alpha` over the frames at which the best path of a beam search is not blank, plus
    negative * the mean over all frames of -log(1 - sum of p_c over the classes with softmax(logits)_c < 10 * threshold / C), where
    p = softmax(logits / temperature) and C is the number of classes. AdamW, the rate falling to a half along a cosine.
    The path is found once for each utterance, from the scores before the first step: the published code searches again in each step,
    which is most of its time. `lm` (a KenLM n-gram over letters) speaks through the path alone; there it is added to the scores, too.
    """

    files: ClassVar[frozenset[str]] = frozenset({"lm"})
    name: ClassVar[str] = "sgem"
    lr: Rate = 4e-5
    scope: str = "features"
    steps: CountOrZero = 10
    temperature: Positive = 2.5
    alpha: Positive = 1.5
    negative: Weight = 1.0
    # from 0.1 on every class of a flat frame would be negative, and the logarithm infinite
    threshold: Annotated[float, Field(ge=0, lt=0.1)] = 0.04
    beam: Count = 5
    lm: str | None = None

    def start(self, model: Recogniser) -> State:
        """A state that holds nothing; raises InputError for an unknown scope and for a recogniser without CTC."""
        if model.blank is None:
            raise InputError(f"sgem works with CTC recognisers only, and {model.name} is none: use suta")
        model.select(self.scope)
        return State(model.fingerprint())

    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Adapt from the source to each utterance alone."""
        rows, adam = self.fresh(model, model.select(self.scope), len(heard))
        attempts, _ = self.tried(model, [one.waveform for one in heard], rows, lambda b, p: self._course(model, b, p, rows, adam))
        return [(attempt.hypothesis, one.state, (attempt.event,)) for one, attempt in zip(heard, attempts, strict=True)]

    def _course(self, model: Recogniser, batch: Batch, path: Tensor | None, rows: Rows, adam: Adam) -> Course:
        on_path: Tensor | None = None

        def objective(emissions: Emissions) -> Losses:
            nonlocal on_path
            on_path = self.on_path(model, batch, emissions) if on_path is None else on_path
            return self.losses(model, emissions, on_path)

        def update(slope: Tensor) -> None:
            adam.lr = annealed(self.lr, adam.counts[0], self.steps)
            adam.step(slope)

        return descend(model, batch, path, rows, update, self.steps, objective)

    def losses(self, model: Recogniser, emissions: Emissions, on_path: Tensor) -> Losses:
        """The loss of every utterance, given the frames (batch, frames) that are on its path and not blank."""
        entropy = entropies.mean(entropies.renyi(emissions.logits, self.alpha, self.temperature), on_path)
        unlikely = entropies.mean(negative_sampling(emissions.logits, self.threshold, self.temperature), entropies.valid(emissions))
        heard = on_path.any(1) & entropies.spoken(emissions, model.blank).any(1)
        return Losses(entropy, torch.zeros_like(entropy), entropy + self.negative * unlikely, heard)

    def on_path(self, model: Recogniser, batch: Batch, emissions: Emissions) -> Tensor:
        """Frames (batch, frames) at which the likeliest alignment of the beam search's labels is not blank."""
        found = model.decode(batch, emissions, self.beam, self.lm)
        scores = emissions.logits.detach().nan_to_num().log_softmax(-1).cpu()  # torchaudio aligns nothing with NaN
        mask = torch.zeros(scores.shape[:2], dtype=torch.bool)
        for row, (hypothesis, frames) in enumerate(zip(found, emissions.lengths.tolist(), strict=True)):
            alignment = align_labels(scores[row, :frames], list(hypothesis.tokens), int(model.blank or 0))
            mask[row, :frames] = torch.tensor(alignment) != model.blank
        return mask.to(emissions.logits.device)


def negative_sampling(logits: Tensor, threshold: float, temperature: float) -> Tensor:
    """-log(1 - sum of softmax(logits / temperature)_c over classes c with softmax(logits)_c < 10 * threshold / C), (batch, frames)."""
    likely = (logits.detach().softmax(-1) >= 10 * threshold / logits.shape[-1]).to(logits)
    # the classes that stay: their sum is above zero where the difference from one would be rounded away
    return -((logits / temperature).softmax(-1) * likely).sum(-1).log()


def annealed(lr: float, step: int, steps: int) -> float:
    """lr * (3 + cos(pi * step / steps)) / 4: from lr at step 0 to a half of it."""
    return lr * (3 + math.cos(math.pi * step / max(1, steps))) / 4
