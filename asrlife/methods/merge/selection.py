"""Methods that go by what the weights of the experts have in common: agreement in direction, in variance, in place."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor

from asrlife.methods.merge.consensus import elected, scalar, total
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.merge.sparsify import largest
from asrlife.methods.settings import Positive, Share

_SINGULAR = 1e-6


def _vectors(stack: Stack) -> list[Tensor]:
    assert stack.base is not None
    return [expert - stack.base for expert in stack.experts]


@dataclass(frozen=True)
class ModelStock(Method):
    """Model stock (arXiv 2403.19522): W = t * mean_i(W_i) + (1-t) W0 with t = N c / (1 + (N-1) c).

    c is the mean cosine over the pairs of the N task vectors, of the whole tensor or, under `filter_wise`, along its last dimension.
    Where 1 + (N-1) c vanishes, the base stays. One expert alone is taken whole. A zero task vector has the cosine 0.
    Bit for bit mergekit 0.1.5's where the product of two lengths is above 1e-6, which mergekit takes it for otherwise.
    """

    name: ClassVar[str] = "model_stock"
    paper: ClassVar[str] = "2403.19522"
    base: ClassVar[Literal["needed"]] = "needed"
    filter_wise: bool = False

    def combine(self, stack: Stack) -> Tensor:
        """Go as far towards the mean as the experts agree."""
        assert stack.base is not None
        rows = self.filter_wise and stack.base.dim() > 1
        base, *experts = (tensor if rows else tensor.reshape(-1) for tensor in (stack.base, *stack.experts))
        share = self._share([expert - base for expert in experts]).unsqueeze(-1)
        return share * (total(experts) / len(experts)) + (1 - share) * base

    def _share(self, vectors: list[Tensor]) -> Tensor:
        if len(vectors) == 1:
            return torch.ones(vectors[0].shape[:-1], dtype=vectors[0].dtype, device=vectors[0].device)
        cosine = torch.stack([_cosine(one, other) for one, other in combinations(vectors, 2)]).mean(dim=0)
        divisor = 1 + (len(vectors) - 1) * cosine
        lost = divisor.abs() < _SINGULAR
        return torch.where(lost, 0, len(vectors) * cosine / divisor.where(~lost, 1))


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    lengths = torch.norm(one, dim=-1) * torch.norm(other, dim=-1)
    return torch.where(lengths > 0, (one * other).sum(dim=-1) / lengths.where(lengths > 0, 1), 0).clamp(-1, 1)


@dataclass(frozen=True)
class Sce(Method):
    """SCE (arXiv 2408.07990): select by variance, calculate weights, erase what disagrees.

    Of the entries that vary over the experts the share `select_topk` that varies most stays (1: all entries). The weight of an expert
    is the mean of its tau^2 over that of all; entries whose sign lost are left out; W = W0 + sum(w tau) / sum(w) over those that agree.
    mergekit 0.1.5 gives experts equal weights where those means sum to less than 1e-6; here they count whatever their size.
    """

    name: ClassVar[str] = "sce"
    paper: ClassVar[str] = "2408.07990"
    base: ClassVar[Literal["needed"]] = "needed"
    select_topk: Share = 1.0

    def combine(self, stack: Stack) -> Tensor:
        """Select, calculate, erase."""
        assert stack.base is not None
        vectors = _vectors(stack)
        if self.select_topk < 1:
            kept = self._selected(torch.stack(vectors))
            vectors = [vector.where(kept, 0) for vector in vectors]
        powers = [vector.double().square().mean() for vector in vectors]
        whole = float(sum(powers))
        weights = [float(power) / whole if whole > 0 else 1 / len(powers) for power in powers]
        return stack.base + elected(vectors, weights, True, "plain", "weights")

    def _selected(self, vectors: Tensor) -> Tensor:
        variance = torch.var(vectors, dim=0, unbiased=False)
        return largest(variance, int(int(torch.count_nonzero(variance)) * self.select_topk))


@dataclass(frozen=True)
class Ram(Method):
    """RAM (arXiv 2601.13572): what one expert alone changed is added whole, what several changed is averaged over those.

    An entry counts as changed where |tau| > `epsilon`.
    """

    name: ClassVar[str] = "ram"
    paper: ClassVar[str] = "2601.13572"
    base: ClassVar[Literal["needed"]] = "needed"
    epsilon: Positive = 1e-5

    def combine(self, stack: Stack) -> Tensor:
        """Add what is unique, average what is shared."""
        assert stack.base is not None
        vectors = _vectors(stack)
        changed = [vector.abs() > self.epsilon for vector in vectors]
        counts = torch.stack(changed).sum(dim=0)
        parts = []
        for vector, mask in zip(vectors, changed, strict=True):
            alone = mask & (counts == 1)
            shared = mask & (counts > 1)
            boost = self.boost(int(shared.sum()), int(alone.sum()))
            parts.append(torch.where(alone, vector * scalar(boost, vector), torch.where(shared, vector / counts.clamp_min(1), 0)))
        return stack.base + total(parts)

    def boost(self, shared: int, alone: int) -> float:
        """By how much the entries that an expert changed alone are multiplied."""
        return 1.0


@dataclass(frozen=True)
class RamPlus(Ram):
    """RAM+ (arXiv 2601.13572), tensor by tensor: what an expert changed alone counts 1 + `r` * min(shared / alone, `alpha`) times.

    `shared` and `alone` are the numbers of entries of its tensor that it changed with others and by itself.
    """

    name: ClassVar[str] = "ramplus_tl"
    r: Positive = 0.1
    alpha: Positive = 0.2

    def boost(self, shared: int, alone: int) -> float:
        """More, the more of its changes it shares."""
        return 1 + self.r * min(shared / max(alone, self.epsilon), self.alpha)


@dataclass(frozen=True)
class NearSwap(Method):
    """Nearswap: the expert's entries where they are near the base's, the base's where they are far.

    W = s W_1 + (1-s) W0 with s = min(1, `t` / |W_1 - W0|), so that no entry moves by more than `t`.
    """

    name: ClassVar[str] = "nearswap"
    base: ClassVar[Literal["needed"]] = "needed"
    experts: ClassVar[tuple[int, int | None]] = (1, 1)
    t: Positive = 1e-4

    def combine(self, stack: Stack) -> Tensor:
        """Swap what is near."""
        assert stack.base is not None
        expert = stack.experts[0]
        share = (self.t / (stack.base - expert).abs().clamp_min(1e-6)).clamp(0, 1)
        return share * expert + (1 - share) * stack.base


@dataclass(frozen=True)
class ArceeFusion(Method):
    """Arcee fusion: take from the expert the entries of outstanding importance, keep the base's others.

    Importance is |W_1 - W0| times the Kullback-Leibler divergence (nats) of softmax(W_1) from softmax(W0) along the last dimension;
    outstanding is what reaches median + 1.5 * (third - first quartile). Quartiles are exact; mergekit draws a sample above 10^6 entries.
    """

    name: ClassVar[str] = "arcee_fusion"
    base: ClassVar[Literal["needed"]] = "needed"
    experts: ClassVar[tuple[int, int | None]] = (1, 1)

    def combine(self, stack: Stack) -> Tensor:
        """Score, cut, fuse."""
        assert stack.base is not None
        vector = stack.experts[0] - stack.base
        score = vector.abs() * _divergence(stack.experts[0], stack.base)
        ordered = score.reshape(-1).sort().values
        first, middle, third = (ordered[int(share * (ordered.numel() - 1))] for share in (0.25, 0.5, 0.75))
        return stack.base + vector.where(score >= middle + 1.5 * (third - first), 0)


def _divergence(one: Tensor, other: Tensor) -> Tensor:
    p, q = torch.softmax(one, dim=-1) + 1e-8, torch.softmax(other, dim=-1) + 1e-8
    return (p * torch.log(p / q)).sum(dim=-1, keepdim=True)
