"""The closed forms of editors: from keys and wanted changes of values to a low-rank change of one weight, without a dense d x d update.

A weight W (out, in) maps keys k (in,) to values. `keys` K is (in, n), a column for each edit; `residuals` R is (out, n), the wanted
values less W K. Every solver returns the factors of a change U D, U (out, r) and D (r, in), in the precision of its arguments: give
float64 where the identities have to hold to ten digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from asrlife.delta.delta import LowRank
from asrlife.errors import InputError


@dataclass(frozen=True, eq=False)
class Covariance:
    """The uncentred second moment C = E[k k'] (in, in) of keys, positive definite, factored once for all edits that use it."""

    matrix: Tensor

    def __post_init__(self) -> None:
        if self.matrix.dim() != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise InputError(f"a covariance of shape {tuple(self.matrix.shape)} is not square")

    @cached_property
    def factor(self) -> Tensor:
        """Cholesky's lower triangle; InputError where C is not positive definite, as of fewer tokens than dimensions."""
        factor, failed = torch.linalg.cholesky_ex(self.matrix)
        if int(failed):
            raise InputError("the covariance of keys is not positive definite: use more tokens, or shrinkage")
        return factor

    def solved(self, keys: Tensor) -> Tensor:
        """C^-1 K."""
        return torch.cholesky_solve(keys.to(self.matrix.dtype), self.factor)

    def shrunk(self, share: float) -> Covariance:
        """C + share tr(C) / d I, which is positive definite whatever the number of tokens (cf. Ledoit and Wolf, 2004)."""
        size = self.matrix.shape[0]
        return Covariance(self.matrix + share * self.matrix.diagonal().sum() / size * torch.eye(size, dtype=self.matrix.dtype))

    def unused(self, threshold: float | None = None, energy: float | None = None) -> Tensor:
        """U0 (in, r): the eigenvectors of C with eigenvalues below `threshold` (0.02 in arXiv 2410.02355), or that share `energy` of tr(C).

        The threshold is absolute, and so of the model's scale; `energy` 0.01 keeps the directions that hold a hundredth of what keys vary.
        """
        if (threshold is None) == (energy is None):
            raise InputError("give either a threshold of eigenvalues or a share of the energy")
        values, vectors = torch.linalg.eigh(self.matrix)
        if threshold is not None:
            return vectors[:, values < threshold]
        return vectors[:, values.clamp_min(0).cumsum(0) <= float(energy or 0.0) * values.clamp_min(0).sum()]


def rome(residual: Tensor, key: Tensor, covariance: Covariance) -> LowRank:
    """r (C^-1 k)' / (k' C^-1 k) for one edit, r (out,) and k (in,): the least in the norm of C with W'k = v (arXiv 2202.05262, eq. 2)."""
    direction = covariance.solved(key[:, None])[:, 0]
    return LowRank((residual / (direction @ key))[:, None], direction[None])


def emmet(residuals: Tensor, keys: Tensor, covariance: Covariance, ridge: float = 0.0) -> LowRank:
    """R (K' C^-1 K + ridge I)^-1 K' C^-1: the same for several edits at once (arXiv 2403.14236, eq. 7); with one edit it is `rome`."""
    solved = covariance.solved(keys)
    inner = keys.T @ solved + ridge * torch.eye(keys.shape[1], dtype=keys.dtype)
    return LowRank(torch.linalg.solve(inner, residuals.T).T, solved.T)


def memit(residuals: Tensor, keys: Tensor, covariance: Covariance, weight: float) -> LowRank:
    """R K' (weight C + K K')^-1, least squares over edits and what was known (arXiv 2210.07229, eq. 14).

    By Woodbury R (I + K' X)^-1 X' with X = (weight C)^-1 K: two triangular solves for each edit, and none of size in^3.
    """
    if weight <= 0:
        raise InputError(f"memit: the weight of the covariance is {weight}: it must be above 0; use emmet for exact edits")
    solved = covariance.solved(keys) / weight
    inner = torch.eye(keys.shape[1], dtype=keys.dtype) + keys.T @ solved
    return LowRank(torch.linalg.solve(inner, residuals.T, left=True).T, solved.T)


def alphaedit(residuals: Tensor, keys: Tensor, unused: Tensor, earlier: Tensor | None = None, ridge: float = 10.0) -> LowRank:
    """R K' P (P (K K' + Kp Kp') P + ridge I)^-1 with P = U0 U0' onto what keys do not use (arXiv 2410.02355, eq. 14).

    `unused` is U0 (in, r), `earlier` the keys Kp (in, m) of edits made before. With Q = U0' [K, Kp] the change is
    R E' (Q' Q + ridge I)^-1 Q' U0', E the first columns of I, or R Q1' (Q Q' + ridge I)^-1 U0' where r is smaller than the number of keys.
    """
    inside = unused.T @ (keys if earlier is None else torch.cat([keys, earlier], 1))
    rank, count = inside.shape
    if count <= rank:
        inner = inside.T @ inside + ridge * torch.eye(count, dtype=keys.dtype)
        chosen = torch.eye(count, keys.shape[1], dtype=keys.dtype)
        down = torch.linalg.solve(inner, chosen).T @ inside.T @ unused.T
    else:
        inner = inside @ inside.T + ridge * torch.eye(rank, dtype=keys.dtype)
        down = torch.linalg.solve(inner, inside[:, : keys.shape[1]]).T @ unused.T
    return LowRank(residuals, down)


def ultraedit(keys: Tensor, changes: Tensor) -> LowRank:
    """V' (K' K + I)^-1 K' of keys K (in, n) and changes of values V (n, out), ridge 1 (arXiv 2505.14679, eq. 7)."""
    inner = keys.T @ keys + torch.eye(keys.shape[1], dtype=keys.dtype)
    return LowRank(changes.T, torch.linalg.solve(inner, keys.T))
