"""Methods that see a task vector's matrix by its singular directions.

A tensor of two dimensions or more is the matrix (first dimension, all others); what has fewer gets the plain mean of the task vectors.
Decompositions are in float64; directions whose singular value is rounding noise are left out, where published code keeps whatever the
decomposition fills them with.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from asrlife.methods.merge.consensus import Divide, Elect, elected, summed
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.merge.sparsify import by_magnitude, rescaled
from asrlife.methods.settings import Finite, Share


class Svd(NamedTuple):
    """A matrix as `u @ diag(s) @ v`, u (m, r) and v (r, n), r its numerical rank."""

    u: Tensor
    s: Tensor
    v: Tensor

    def top(self, count: int) -> Svd:
        """The `count` largest, or all there are."""
        return Svd(self.u[:, :count], self.s[:count], self.v[:count])


def decomposed(matrix: Tensor) -> Svd:
    """The singular triples above float64's rounding of the largest."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > s[0] * torch.finfo(s.dtype).eps * max(matrix.shape)).sum())
    return Svd(u[:, :rank], s[:rank], v[:rank])


def orthonormal(matrix: Tensor) -> Tensor:
    """The polar factor: the nearest matrix whose singular values are all 1, on the span of `matrix` alone."""
    # what two experts share shows as singular values of about 1e-8: squares of what float64 cannot tell from 0
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    kept = s > 1e-7 * s.max().clamp_min(1e-300) if s.numel() else s > 0
    return u[:, kept] @ v[kept]


@dataclass(frozen=True)
class Spectral(Method):
    """What the family shares: W = W0 + scale * mix(weight_i * (W_i - W0)), the mix of matrices by their singular directions."""

    base: ClassVar[Literal["needed"]] = "needed"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0}
    scale: Finite = 1.0

    def combine(self, stack: Stack) -> Tensor:
        """Decompose, mix, scale, add."""
        assert stack.base is not None
        weights = self.own(stack, "weight")
        vectors = [(expert - stack.base).double() * weight for expert, weight in zip(stack.experts, weights, strict=True)]
        if stack.base.dim() < 2 or not any(bool(vector.any()) for vector in vectors):
            mixed = summed(vectors, [1 / len(vectors)] * len(vectors), False)
        else:
            mixed = self.mix([vector.reshape(vector.shape[0], -1) for vector in vectors]).reshape(stack.base.shape)
        return stack.base + (mixed * self.scale).to(stack.base.dtype)

    @abstractmethod
    def mix(self, matrices: Sequence[Tensor]) -> Tensor:
        """One matrix (m, n) of several, in float64, not all of them zero."""


@dataclass(frozen=True)
class TsvM(Spectral):
    """Task singular vectors (arXiv 2412.00081): the top r/N triples of each task matrix, made orthonormal across tasks, then added.

    r is min(m, n), N the number of experts; at least one triple of each counts. U = [U_1 ... U_N] and V are replaced by their polar
    factors; W = W0 + scale * U diag(s) V.
    """

    name: ClassVar[str] = "tsv_m"
    paper: ClassVar[str] = "2412.00081"

    def mix(self, matrices: Sequence[Tensor]) -> Tensor:
        """Keep the top, decorrelate, add."""
        count = max(1, min(matrices[0].shape) // len(matrices))
        parts = [decomposed(matrix).top(count) for matrix in matrices]
        u, v = torch.cat([part.u for part in parts], dim=1), torch.cat([part.v for part in parts])
        return orthonormal(u) @ (torch.cat([part.s for part in parts])[:, None] * orthonormal(v))


@dataclass(frozen=True)
class IsoC(Spectral):
    """Isotropic merging in the common space (arXiv 2502.04959): the sum of the task matrices with all its singular values made equal.

    Their mean replaces each of them: W = W0 + scale * mean(s) U V, U and V of sum_i weight_i tau_i.
    """

    name: ClassVar[str] = "iso_c"
    paper: ClassVar[str] = "2502.04959"

    def mix(self, matrices: Sequence[Tensor]) -> Tensor:
        """Add, flatten the spectrum."""
        common = decomposed(summed(matrices, [1.0] * len(matrices), False))
        return common.s.mean() * (common.u @ common.v) if common.s.numel() else torch.zeros_like(matrices[0])


@dataclass(frozen=True)
class IsoCts(Spectral):
    """Isotropic merging in common and task spaces (arXiv 2502.04959): `iso_c`, whose weakest directions make room for each task's own.

    The share `common_space_fraction` of the min(m, n) directions is the sum's; the rest, the same number for each task, are the top
    directions of what the task has outside the common space. Both bases are made orthonormal, all singular values their mean.
    """

    name: ClassVar[str] = "iso_cts"
    paper: ClassVar[str] = "2502.04959"
    common_space_fraction: Share = 0.8

    def mix(self, matrices: Sequence[Tensor]) -> Tensor:
        """Lay the task spaces beside the common one, orthonormalise, flatten the spectrum."""
        own = self._own_directions(min(matrices[0].shape), len(matrices))
        whole = decomposed(summed(matrices, [1.0] * len(matrices), False))
        common = whole.top(min(matrices[0].shape) - own * len(matrices))
        outside = [decomposed(matrix - common.u @ (common.u.T @ matrix)).top(own) for matrix in matrices] if own else []
        parts = [*outside, common]
        s = torch.cat([part.s for part in parts])
        if not s.numel():
            return torch.zeros_like(matrices[0])
        u, v = torch.cat([part.u for part in parts], dim=1), torch.cat([part.v for part in parts])
        return s.mean() * (orthonormal(u) @ orthonormal(v))

    def _own_directions(self, rank: int, count: int) -> int:
        """How many directions each task gets."""
        wanted = round((rank - int(rank * self.common_space_fraction)) / count)
        return min(wanted, rank // count)


@dataclass(frozen=True)
class Knots(Method):
    """KnOTS (arXiv 2410.19735): one basis for all task matrices, in which TIES, or a sum, is taken.

    [tau_1 ... tau_N], side by side, is U S [V_1 ... V_N]; the S V_i are merged and U put before them. `mixing` "linear" sums them,
    "ties" keeps the share `density` of each, elects signs and averages what agrees, under `elect` and `divide` as in `ties`.
    Tensors of less than two dimensions are mixed as they are.
    """

    name: ClassVar[str] = "knots"
    paper: ClassVar[str] = "2410.19735"
    base: ClassVar[Literal["needed"]] = "needed"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0, "density": 0.2}
    scale: Finite = 1.0
    mixing: Literal["ties", "linear"] = "ties"
    elect: Elect = "weighted"
    divide: Divide = "weights"

    def combine(self, stack: Stack) -> Tensor:
        """Align, mix, turn back, scale, add."""
        assert stack.base is not None
        vectors = [(expert - stack.base).double() for expert in stack.experts]
        weights, densities = self.own(stack, "weight"), self.own(stack, "density")
        if stack.base.dim() < 2 or not any(bool(vector.any()) for vector in vectors):
            mixed = self._mixed(vectors, weights, densities)
        else:
            basis, blocks = aligned([vector.reshape(vector.shape[0], -1) for vector in vectors])
            mixed = (basis @ self._mixed(blocks, weights, densities)).reshape(stack.base.shape)
        return stack.base + (mixed * self.scale).to(stack.base.dtype)

    def _mixed(self, blocks: Sequence[Tensor], weights: Sequence[float], densities: Sequence[float]) -> Tensor:
        if self.mixing == "linear":
            return summed(blocks, weights, False)
        masks = [by_magnitude(block, density) for block, density in zip(blocks, densities, strict=True)]
        trimmed = [rescaled(block, mask, "none") for block, mask in zip(blocks, masks, strict=True)]
        return elected(trimmed, weights, True, self.elect, self.divide)


def aligned(matrices: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """U (m, r) and the blocks S V_i (r, n) of matrices (m, n): U times a block is its matrix."""
    whole = decomposed(torch.cat(list(matrices), dim=1))
    return whole.u, list((whole.s[:, None] * whole.v).split(matrices[0].shape[1], dim=1))
