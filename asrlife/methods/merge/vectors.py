"""Task vectors: what tuning added to a base, thinned out, agreed upon, scaled and added again.

Every method here is base + scale * consensus(sparsify(expert - base)): the classes only choose the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor

from asrlife.methods.merge.consensus import Divide, Elect, elected, summed
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.merge.sparsify import Rescale, by_lot, by_magnitude, ranked_chance, rescaled, without_outliers
from asrlife.methods.settings import Finite


def _named(value: Any) -> Any:
    """mergekit's `rescale` is yes or no, and yes means L1."""
    text = str(value).lower()
    return {"true": "l1", "false": "none"}.get(text, value)


Rescaling = Annotated[Rescale, BeforeValidator(_named)]
Restoring = Annotated[Literal["none", "l1"], BeforeValidator(_named)]


@dataclass(frozen=True)
class TaskVectors(Method):
    """What the family shares: W = W0 + scale * mix_i(weight_i * sparsify(W_i - W0)).

    `scale` is the paper's lambda, mergekit's too. `normalize` divides by the weights that took part: all of them in a sum, those of the
    agreeing experts in an election.
    """

    base: ClassVar[Literal["needed"]] = "needed"
    scale: Finite = 1.0
    normalize: bool = False

    def combine(self, stack: Stack) -> Tensor:
        """Sparsify, weigh, mix, scale, add."""
        assert stack.base is not None
        mixed = self.mixed(stack)
        return stack.base + (mixed if self.scale == 1 else mixed.mul_(self.scale))

    def mixed(self, stack: Stack) -> Tensor:
        """The one vector that `scale` multiplies, on memory of its own."""
        assert stack.base is not None
        vectors = [self.thinned(expert - stack.base, stack, index) for index, expert in enumerate(stack.experts)]
        return self.mix(vectors, self.own(stack, "weight"))

    def thinned(self, vector: Tensor, stack: Stack, index: int) -> Tensor:
        """What remains of the task vector of expert `index`: all of it, unless the method says otherwise."""
        return vector

    def mix(self, vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """One vector of several: their weighted sum, unless the method says otherwise."""
        return summed(vectors, weights, self.normalize)


@dataclass(frozen=True)
class Electing(TaskVectors):
    """The family's half that lets experts vote on the sign of every entry, and mixes those that agree."""

    normalize: bool = True
    elect: Elect = "weighted"
    divide: Divide = "weights"

    def mix(self, vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The weighted sum, or mean, of the entries whose sign won."""
        return elected(vectors, weights, self.normalize, self.elect, self.divide)


@dataclass(frozen=True)
class TaskArithmetic(TaskVectors):
    """Task arithmetic (arXiv 2212.04089): W = W0 + scale * sum_i weight_i * (W_i - W0).

    A negative weight takes a task away; +1, +1, -1 makes an analogy. Bit for bit what mergekit 0.1.5 gives for up to four experts;
    of more, mergekit's sum depends on where in the tensor an entry lies.
    """

    name: ClassVar[str] = "task_arithmetic"
    paper: ClassVar[str] = "2212.04089"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0}


class _Trimmed(TaskVectors):
    rescale: Restoring

    def thinned(self, vector: Tensor, stack: Stack, index: int) -> Tensor:
        limit = self.own(stack, "threshold")[index]
        mask = vector.abs() >= limit if limit > 0 else by_magnitude(vector, self.own(stack, "density")[index])
        return rescaled(vector, mask, self.rescale)


@dataclass(frozen=True)
class Ties(_Trimmed, Electing):
    """TIES (arXiv 2306.01708): trim, elect a sign, take the mean of those that agree.

    Of each task vector the share `density` that is largest in magnitude stays, tensor by tensor as in mergekit; `threshold`, where it is
    not 0, is a magnitude that entries must reach instead, so that `sparsify.threshold` of the whole task vector trims as the paper does.
    Of equal magnitudes at the cut the first stay; mergekit 0.1.5, bit for bit the same otherwise, leaves that to its sort, and weights
    that were rounded to bfloat16 have many.
    The sign of sum_i weight_i * tau_i wins; entries of that sign are averaged, sum(w tau) / sum(w). peft's variant elects by the
    unweighted sum ("plain", or "frequency" of signs) and divides by the count of those that agree.
    """

    name: ClassVar[str] = "ties"
    paper: ClassVar[str] = "2306.01708"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0, "density": 0.2, "threshold": 0.0}
    normalize: bool = True
    rescale: Restoring = "none"


class _Drawn(TaskVectors):
    rescale: Rescaling

    def thinned(self, vector: Tensor, stack: Stack, index: int) -> Tensor:
        density = self.own(stack, "density")[index]
        if density >= 1 or density <= 0:
            return vector if density >= 1 else torch.zeros_like(vector)
        chance = self.chance(vector, stack, index, density)
        return rescaled(vector, by_lot(vector, chance, stack.seed, stack.name, index), self.rescale, chance)

    def chance(self, vector: Tensor, stack: Stack, index: int, density: float) -> Tensor | float:
        return density


@dataclass(frozen=True)
class DareLinear(_Drawn):
    """DARE (arXiv 2311.03099): keep each entry with the chance `density` and divide it by that, then add.

    The lot falls by seed, tensor name, expert and place alone. `rescale` "l1" restores each tensor's L1 norm instead, mergekit's way.
    """

    name: ClassVar[str] = "dare_linear"
    paper: ClassVar[str] = "2311.03099"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0, "density": 0.1}
    symmetric: ClassVar[bool] = False
    rescale: Rescaling = "paper"


@dataclass(frozen=True)
class DareTies(_Drawn, Electing):
    """DARE (arXiv 2311.03099) in place of the trim of TIES: `dare_linear`'s lot, `ties`'s election."""

    name: ClassVar[str] = "dare_ties"
    paper: ClassVar[str] = "2311.03099"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0, "density": 0.1}
    symmetric: ClassVar[bool] = False
    normalize: bool = True
    rescale: Rescaling = "paper"


class _Crumbs(TaskVectors):
    rescale: Restoring

    def thinned(self, vector: Tensor, stack: Stack, index: int) -> Tensor:
        density, gamma = self.own(stack, "density")[index], self.own(stack, "gamma")[index]
        return rescaled(vector, without_outliers(vector, density, gamma), self.rescale)


@dataclass(frozen=True)
class Breadcrumbs(_Crumbs):
    """Model breadcrumbs (arXiv 2312.06795): leave out the share `gamma` that is largest in magnitude, keep the share `density` below it."""

    name: ClassVar[str] = "breadcrumbs"
    paper: ClassVar[str] = "2312.06795"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0, "density": 0.9, "gamma": 0.01}
    rescale: Restoring = "none"


@dataclass(frozen=True)
class BreadcrumbsTies(_Crumbs, Electing):
    """Breadcrumbs (arXiv 2312.06795) in place of the trim of TIES."""

    name: ClassVar[str] = "breadcrumbs_ties"
    paper: ClassVar[str] = "2312.06795"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0, "density": 0.9, "gamma": 0.01}
    normalize: bool = False
    rescale: Restoring = "none"


class _Ranked(_Drawn):
    def chance(self, vector: Tensor, stack: Stack, index: int, density: float) -> Tensor:
        return ranked_chance(vector, density, self.own(stack, "epsilon")[index])


@dataclass(frozen=True)
class DellaLinear(_Ranked):
    """DELLA (arXiv 2406.11617) without the election: a lot that favours what is large in its row, and a sum."""

    name: ClassVar[str] = "della_linear"
    paper: ClassVar[str] = "2406.11617"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0, "density": 0.5, "epsilon": 0.15}
    symmetric: ClassVar[bool] = False
    rescale: Rescaling = "paper"


@dataclass(frozen=True)
class Della(_Ranked, Electing):
    """DELLA (arXiv 2406.11617): entries stay with chances density - epsilon to density + epsilon by their rank in their row.

    What stays is divided by its own chance, or ("l1") the tensor's L1 norm restored, mergekit's way; then signs are elected.
    """

    name: ClassVar[str] = "della"
    paper: ClassVar[str] = "2406.11617"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0, "density": 0.5, "epsilon": 0.15}
    symmetric: ClassVar[bool] = False
    normalize: bool = True
    rescale: Rescaling = "paper"
