"""Low-rank differences merged as factors: nothing of the size of a parameter is ever made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asrlife.delta.delta import Change, Delta, LowRank
from asrlife.errors import InputError

CUT = 1e-4
"""Singular values below it are dropped, as in the authors' code of KnOTS."""

Merge = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class Aligned:
    """Differences of one parameter in one basis: difference i is `basis @ blocks[i]`, basis (out, k) orthonormal, blocks (k, in), float64.

    `values` (k,) are the singular values of the differences laid side by side.
    """

    basis: Tensor
    blocks: tuple[Tensor, ...]
    values: Tensor


def aligned(changes: Sequence[LowRank], cut: float = CUT) -> Aligned:
    """The basis of KnOTS (arXiv 2410.19735): the SVD of [tau_1 .. tau_n], exactly, by way of QR([up_1 .. up_n]) and a core of their ranks.

    Directions with singular values below `cut` are left out. O((sum of ranks)^2 n in) instead of O(out^2 n in).
    """
    ups = torch.cat([change.up.double() for change in changes], dim=1)
    basis, mixed = torch.linalg.qr(ups)
    ranks = [change.rank for change in changes]
    cores = [part @ change.down.double() for part, change in zip(mixed.split(ranks, dim=1), changes, strict=True)]
    left, values, right = torch.linalg.svd(torch.cat(cores, dim=1), full_matrices=False)
    kept = values >= cut
    blocks = (values[kept, None] * right[kept]).split(changes[0].shape[1], dim=1)
    return Aligned(basis @ left[:, kept], blocks, values[kept])


def knots(deltas: Sequence[Delta], merge: Merge, cut: float = CUT) -> Delta:
    """KnOTS: each parameter's differences in their common basis, merged there by `merge` (TIES, a mean ...), low rank again.

    A parameter that not every delta moves has zeros for the others. InputError for dense differences (named) or deltas of several bases.
    """
    _check(deltas)
    names = list(dict.fromkeys(name for delta in deltas for name in delta.tensors))
    tensors: dict[str, Change] = {}
    for name in names:
        changes = [_factored(name, delta.tensors.get(name)) for delta in deltas]
        some = next(change for change in changes if change is not None)
        every = [change or LowRank(some.up[:, :0], some.down[:0]) for change in changes]
        found = aligned(every, cut)
        tensors[name] = LowRank(found.basis.to(some.up.dtype), merge(found.blocks).to(some.up.dtype))
    return Delta(deltas[0].base, tensors, {"method": "knots", "cut": cut, "parents": [dict(delta.note) for delta in deltas]})


def concatenated(deltas: Sequence[Delta], weights: Sequence[float]) -> Delta:
    """The weighted sum with factors laid side by side: exact, and the rank is the sum of ranks; as peft's `cat`."""
    _check(deltas)
    if len(deltas) != len(weights):
        raise InputError(f"{len(deltas)} deltas and {len(weights)} weights: give one weight for each")
    total = deltas[0] * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total = total + delta * weight
    return Delta(total.base, total.tensors, {"method": "sum", "weights": list(weights), "parents": [dict(delta.note) for delta in deltas]})


def compressed(delta: Delta, rank: int | None = None, tolerance: float = 0.0) -> Delta:
    """The nearest delta (Frobenius) of at most `rank` in each parameter, without singular values of at most `tolerance` of the largest.

    Without either only what is exactly superfluous goes, to rounding: factors that sums laid side by side. Dense differences stay.
    """
    if rank is not None and rank < 1:
        raise InputError(f"rank {rank}: keep at least one direction")
    tensors = {
        name: _compressed(change, rank, tolerance) if isinstance(change, LowRank) else change for name, change in delta.tensors.items()
    }
    return Delta(delta.base, tensors, {"method": "compression", "rank": rank, "tolerance": tolerance, "parents": [dict(delta.note)]})


def _compressed(change: LowRank, rank: int | None, tolerance: float) -> LowRank:
    left, one = torch.linalg.qr(change.up.double())
    right, other = torch.linalg.qr(change.down.double().T)
    inner_left, values, inner_right = torch.linalg.svd(one @ other.T, full_matrices=False)
    # what cancels in a sum leaves rounding of the size of its terms, not of the sum
    least = torch.maximum(tolerance * values[:1], 1e-12 * one.norm() * other.norm())
    kept = max(1, int((values > least).sum()))
    kept = min(kept, rank or kept)
    roots = values[:kept].sqrt()
    up, down = left @ inner_left[:, :kept] * roots, roots[:, None] * (inner_right[:kept] @ right.T)
    return LowRank(up.to(change.up.dtype), down.to(change.up.dtype))


def _factored(name: str, change: Change | None) -> LowRank | None:
    if change is None or isinstance(change, LowRank):
        return change
    raise InputError(
        f"{name!r} is dense in one delta: factor-space merging needs low rank; restrict the deltas, or merge them as checkpoints"
    )


def _check(deltas: Sequence[Delta]) -> None:
    if not deltas:
        raise InputError("no deltas to merge: give at least one")
    for delta in deltas[1:]:
        if delta.base != deltas[0].base:
            raise InputError(f"deltas of different bases, {deltas[0].base[:12]} and {delta.base[:12]}: only deltas of one base combine")
        for name in deltas[0].tensors.keys() & delta.tensors.keys():
            mine, theirs = tuple(deltas[0].tensors[name].shape), tuple(delta.tensors[name].shape)
            if mine != theirs:
                raise InputError(f"{name!r} has shape {mine} in one delta and {theirs} in the other")
