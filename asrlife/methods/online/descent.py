"""Going down the label-free losses on one utterance: what SUTA and Dynamic SUTA share."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from asrlife.audio.read import defects
from asrlife.audio.waveform import Waveform
from asrlife.delta.weights import Flat
from asrlife.methods.online import losses
from asrlife.methods.online.adam import ONCE, Adam, Span
from asrlife.methods.online.losses import Losses
from asrlife.methods.online.method import Event
from asrlife.methods.online.settings import Positive, Rate, Share, check
from asrlife.models.handle import Batch, Emissions, Recogniser
from asrlife.text.hypothesis import Hypothesis

_SLACK = 4  # tokens that a short hypothesis may gain or lose whatever its length


@dataclass(frozen=True)
class Attempt:
    """The hypothesis for one utterance, what happened, and whether the utterance is fit to be learnt from."""

    hypothesis: Hypothesis
    event: Event
    fit: bool


@dataclass(frozen=True, eq=False)
class _Course:
    """Losses along a descent, (steps + 1, 3) as total, entropy, spoken; the scores before the first step and after the last."""

    record: Tensor
    first: Emissions
    last: Emissions

    def fault(self, values: Tensor) -> str:
        if not bool(torch.isfinite(self.record).all() & torch.isfinite(values).all() & torch.isfinite(self.last.logits).all()):
            return "diverged"
        if not self.record[0, 2].item():
            return "no speech"
        return "" if bool(self.record[:, 2].all()) else "collapsed"

    def detail(self, before: Hypothesis) -> dict[str, float | int | str]:
        (start, start_entropy, _), (end, end_entropy, _) = self.record[[0, -1]].tolist()
        entropies = {"entropy_before": start_entropy, "entropy_after": end_entropy}
        return {"steps": len(self.record) - 1, "loss_before": start, "loss_after": end, **entropies, "before": before.text}


@dataclass(frozen=True)
class Descent:
    """Settings of SUTA (arXiv 2203.14222): the loss, the step and the tuned parameters.

    `preset` "suta-paper" repeats Adam on tensors that the published code lists several times (4 times for the convolutions, twice for
    the feature projection). `length_change` and `compression_change` are relative: a sequence-to-sequence model whose hypothesis
    changes more is taken for hallucinating, and its unadapted hypothesis stands.
    """

    name: ClassVar[str]
    lr: Rate = 2e-5
    temperature: Positive = 2.5
    em_weight: Share = 0.3
    scope: str = "norms+features"
    preset: Literal["clean", "suta-paper"] = "clean"
    length_change: Positive = 0.5
    compression_change: Positive = 0.5

    def __post_init__(self) -> None:
        check(self)

    def losses(self, model: Recogniser, emissions: Emissions) -> Losses:
        """The losses of every utterance of a batch."""
        return losses.suta(emissions.logits, emissions.lengths, model.blank, self.temperature, self.em_weight)

    def adam(self, model: Recogniser, flat: Flat, first: Tensor, second: Tensor, count: int) -> Adam:
        """The optimiser on the tuned weights, going on from moments (P,)."""
        return Adam(flat.values, first, second, count, self.lr, ONCE if self.preset == "clean" else _listed(model.module, flat.names))

    def attempt(self, model: Recogniser, flat: Flat, adam: Adam, waveform: Waveform, steps: int) -> Attempt:
        """Adapt the weights in `flat` to one utterance by `steps` updates, steps + 1 forwards in all, and recognise it.

        The hypothesis from before the first update stands, and "skipped" says why, when the audio is "short" or "silent", when the
        model hears "no speech" in it, when anything became not finite ("diverged"), when an update left only blanks ("collapsed"), and
        when a hypothesis outgrew its guard ("length", "compression").
        """
        batch = model.prepare([waveform])
        for defect in defects(waveform):
            if defect in ("short", "silent"):
                return _skipped(model.decode(batch)[0], defect, fit=False)
        path = model.path(batch)
        start = model.decode(batch)[0] if path is not None else None
        course = self._descend(model, flat, adam, batch, path, steps)
        before = start or model.decode(batch, course.first)[0]
        fault = course.fault(flat.values)
        if fault:
            return _skipped(before, fault, fit=fault != "diverged")
        after = model.decode(batch, course.last if path is None else None)[0]
        fault = "" if path is None else self._guard(before, after)
        return _skipped(before, fault, fit=True) if fault else Attempt(after, Event("stepped", course.detail(before)), fit=True)

    def _descend(self, model: Recogniser, flat: Flat, adam: Adam, batch: Batch, path: Tensor | None, steps: int) -> _Course:
        """Stop before the first update where no speech is heard; nothing later is waited for, so that a GPU never stands still."""
        record: list[Tensor] = []
        first: Emissions | None = None
        for _ in range(steps):
            emissions = model.emissions(batch, path)
            found = self.losses(model, emissions)
            record.append(_row(found))
            if first is None:
                first = Emissions(emissions.logits.detach(), emissions.lengths)
                if not found.spoken.item() or not torch.isfinite(found.total).item():
                    return _Course(torch.stack(record), first, first)
            flat.gradient.zero_()
            found.total.sum().backward()
            adam.step(flat.gradient)
        with torch.no_grad():
            last = model.emissions(batch, path)
            record.append(_row(self.losses(model, last)))
        return _Course(torch.stack(record), first or last, last)

    def _guard(self, before: Hypothesis, after: Hypothesis) -> str:
        length, longer = len(before.tokens), abs(len(after.tokens) - len(before.tokens))
        if longer > max(_SLACK, self.length_change * length):
            return "length"
        return "compression" if abs(_compression(after) / _compression(before) - 1) > self.compression_change else ""


def _row(found: Losses) -> Tensor:
    return torch.stack([found.total[0], found.entropy[0], found.spoken[0].to(found.entropy)]).detach()


def _skipped(hypothesis: Hypothesis, reason: str, fit: bool) -> Attempt:
    return Attempt(hypothesis, Event("skipped", {"reason": reason, "stage": "fast", "before": hypothesis.text}), fit)


def _compression(hypothesis: Hypothesis) -> float:
    data = hypothesis.text.encode()
    return max(len(data), 1) / len(zlib.compress(data))


def _listed(module: nn.Module, names: tuple[str, ...]) -> tuple[Span, ...]:
    """How often the published code lists each parameter: once for every module around it from the front-end's own on."""
    spans: list[Span] = []
    start = 0
    for name in names:
        stop = start + module.get_parameter(name).numel()
        parts = name.split(".")
        front = len(parts) > 2 and parts[1] in ("feature_extractor", "feature_projection")
        spans.append((slice(start, stop), len(parts) - 2 if front else 1))
        start = stop
    return tuple(spans)
