"""CEA: trust sure frames more, then let neighbouring frames agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from asrlife.delta.rows import Rows
from asrlife.errors import InputError
from asrlife.methods.online import entropies, losses
from asrlife.methods.online.adam import Adam, Span
from asrlife.methods.online.descent import Course, Heard, Tuning, go_down
from asrlife.methods.online.losses import Losses
from asrlife.methods.online.method import Step, held
from asrlife.methods.online.state import State
from asrlife.methods.settings import CountOrZero, Positive, Rate, Share, Weight
from asrlife.models.handle import Batch, Emissions, Recogniser
from asrlife.models.wav2vec2 import Network


@dataclass(frozen=True)
class Cea(Tuning):
    """Confidence-enhanced adaptation, episodic (arXiv 2310.09505), in two phases with an optimiser each.

    First `steps` of size `lr` on em_weight * mean(H / (1 + exp(-H))) over the frames that are not blank + (1 - em_weight) * MCC,
    then `later_steps` of size `later_lr` of the norms of the scope alone, on em_weight * mean(H) over all frames
    + (1 - em_weight) * MCC + consistency * S, with softmax(logits / temperature) in H and MCC. S is the mean of ||s_t - s_(t-1)|| over
    the frames t that are not blank, s = softmax(x x') x + x of the front-end's frames x (frames, width).
    S needs norms inside the front-end: where the scope has none, as in a re-implementation that takes the LayerNorms of
    wav2vec2-base alone (arXiv 2506.07078), it has no gradient and is left out.
    """

    name: ClassVar[str] = "cea"
    steps: CountOrZero = 10
    later_lr: Rate = 2e-4
    later_steps: CountOrZero = 10
    temperature: Positive = 2.5
    em_weight: Share = 0.3
    consistency: Weight = 0.3

    def start(self, model: Recogniser) -> State:
        """A state that holds nothing; raises InputError for an unknown scope and for a front-end whose frames cannot be read."""
        model.select(self.scope)
        with held(model):
            readable = Network.of(model.module, {}) is not None
        if self.consistency and self.later_steps and not readable:
            raise InputError(f"cea reads the frames of wav2vec2 and HuBERT only, {model.name} is neither: set consistency=0")
        return State(model.fingerprint())

    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Adapt from the source to each utterance alone."""
        names = model.select(self.scope)
        rows, adam = self.fresh(model, names, len(heard))
        later = Adam.fresh(rows.values, self.later_lr, of_norms(model.module, names))
        phases = _Phases(self, model, rows, adam, later)
        attempts, _ = self.tried(model, [one.waveform for one in heard], rows, phases.course)
        return [(attempt.hypothesis, one.state, (attempt.event,)) for one, attempt in zip(heard, attempts, strict=True)]

    def sure(self, model: Recogniser, emissions: Emissions) -> Losses:
        """The loss of the first phase."""
        spoken = entropies.spoken(emissions, model.blank)
        entropy = entropies.shannon(emissions.logits, self.temperature)
        found = losses.suta(emissions.logits, emissions.lengths, model.blank, self.temperature, self.em_weight)
        weighted = entropies.mean(entropy * torch.sigmoid(entropy), spoken)
        return replace(found, blend=self.em_weight * weighted + (1 - self.em_weight) * found.confusion)

    def steady(self, model: Recogniser, emissions: Emissions, frames: Tensor | None) -> Losses:
        """The loss of the second phase."""
        found = losses.suta(emissions.logits, emissions.lengths, None, self.temperature, self.em_weight)
        spoken = entropies.spoken(emissions, model.blank)
        blend = found.blend if frames is None else found.blend + self.consistency * roughness(frames, entropies.valid(emissions), spoken)
        return replace(found, blend=blend, spoken=spoken.any(1))


@dataclass(eq=False)
class _Phases:
    """Where a batch is on its way through the two phases, and the front-end's frames of the forward that was last."""

    method: Cea
    model: Recogniser
    rows: Rows
    first: Adam
    second: Adam
    taken: int = 0
    frames: Tensor | None = field(default=None)

    def course(self, batch: Batch, path: Tensor | None) -> Course:
        """Both phases as one descent, so that the last forward of one is the first of the other."""
        steps = self.method.steps + self.method.later_steps
        return go_down(lambda: self._forward(batch, path), self.rows, self._update, steps, self._objective)

    @property
    def _late(self) -> bool:
        return self.taken >= self.method.steps and self.method.later_steps > 0

    def _forward(self, batch: Batch, path: Tensor | None) -> Emissions:
        network = Network.of(self.model.module, self.rows.tensors, batch.fixed)
        if self._late and self.method.consistency and network is not None and "frames" not in batch.known:
            self.frames = network.front(batch.inputs, batch.lengths)
            batch = replace(batch, known={**batch.known, "frames": self.frames})
        return self.model.emissions(batch, path, self.rows.tensors)

    def _objective(self, emissions: Emissions) -> Losses:
        return self.method.steady(self.model, emissions, self.frames) if self._late else self.method.sure(self.model, emissions)

    def _update(self, slope: Tensor) -> None:
        (self.second if self._late else self.first).step(slope)
        self.taken += 1


def roughness(frames: Tensor, valid: Tensor, spoken: Tensor) -> Tensor:
    """S of frames (batch, frames, width), (batch,): mean of ||s_t - s_(t-1)|| over `spoken` t, s = softmax(x x') x + x over the `valid`."""
    scores = (frames @ frames.transpose(1, 2)).masked_fill(~valid[:, None], -torch.inf)
    smooth = scores.softmax(-1) @ frames + frames
    return entropies.mean(torch.linalg.vector_norm(smooth[:, 1:] - smooth[:, :-1], dim=-1), spoken[:, 1:])


def of_norms(module: nn.Module, names: Sequence[str]) -> tuple[Span, ...]:
    """Where the LayerNorms and GroupNorms among `names` lie in a row."""
    spans: list[Span] = []
    start = 0
    for name in names:
        stop = start + module.get_parameter(name).numel()
        if isinstance(module.get_submodule(name.rpartition(".")[0]), nn.LayerNorm | nn.GroupNorm):
            spans.append((slice(start, stop), 1))
        start = stop
    return tuple(spans)
