"""Which entries of a task vector stay: by magnitude, by lot, or by a lot that favours magnitude."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.merge.philox import uniform

Rescale = Literal["none", "paper", "l1"]
_BINS = 1 << 16
_BLOCK = 1024  # what the kernels work on at once
_CHUNK = 1 << 18


def largest(values: Tensor, count: int) -> Tensor:
    """A mask in the shape of `values` of its `count` largest entries; of equal ones those that come first."""
    flat = values.reshape(-1)
    if count >= flat.numel():
        return torch.ones_like(values, dtype=torch.bool)
    if count <= 0:
        return torch.zeros_like(values, dtype=torch.bool)
    edge = torch.kthvalue(flat, flat.numel() - count + 1).values
    mask = flat > edge
    level = torch.nonzero(flat == edge).flatten()
    mask[level[: count - int(mask.sum())]] = True
    return mask.reshape(values.shape)


def by_magnitude(vector: Tensor, density: float) -> Tensor:
    """Keep the share `density` of the entries that are largest in magnitude: int(density * n) of them, one at least, as mergekit does."""
    if density >= 1 or density <= 0:
        return torch.full_like(vector, density >= 1, dtype=torch.bool)
    return largest(vector.abs(), max(1, int(density * vector.numel())))


def without_outliers(vector: Tensor, density: float, gamma: float) -> Tensor:
    """Keep the share `density` below the share `gamma` that is largest in magnitude; everything where `density` is 1.

    Where the two do not fit together, fewer outliers go, as in mergekit.
    """
    if density >= 1:
        return torch.ones_like(vector, dtype=torch.bool)
    total = vector.numel()
    kept = int(density * total)
    outliers = min(int(gamma * total), total - kept)
    size = vector.abs()
    return largest(size, kept + outliers) & ~largest(size, outliers)


def by_lot(vector: Tensor, chance: Tensor | float, seed: int, name: str, index: int) -> Tensor:
    """Keep each entry with its `chance`; a larger chance keeps what a smaller one does, and more."""
    drawn = uniform(seed, name, index, vector.numel(), device=vector.device).reshape(vector.shape)
    return drawn < chance


def ranked_chance(vector: Tensor, density: float, epsilon: float) -> Tensor:
    """DELLA's chance of each entry: from density - epsilon to density + epsilon in even steps by its rank of magnitude in its row.

    A row is what belongs to one index of the first dimension; a vector is one row. A row of one entry has the chance `density`.
    Raises InputError where a chance would leave (0, 1).
    """
    if density - epsilon <= 0 or density + epsilon >= 1:
        raise InputError(f"density {density} with epsilon {epsilon}: density - epsilon must be above 0 and density + epsilon below 1")
    rows = vector.abs().reshape(vector.shape[0] if vector.dim() > 1 else 1, -1)
    ranks = rows.argsort(dim=1, stable=True).argsort(dim=1).to(vector.dtype)
    if rows.shape[1] == 1:
        return torch.full_like(vector, density)
    return (density - epsilon + ranks / (rows.shape[1] - 1) * (2 * epsilon)).reshape(vector.shape)


def rescaled(vector: Tensor, mask: Tensor, rescale: Rescale, chance: Tensor | float = 1.0) -> Tensor:
    """What the mask leaves of the vector, made up for what it took: divided by the `chance` ("paper"), or with the L1 norm of before."""
    kept = torch.where(mask, vector, torch.zeros((), dtype=vector.dtype, device=vector.device))
    if rescale == "paper":
        return torch.where(mask, kept / chance, kept)
    if rescale == "l1":
        left = length(kept)
        return kept * (length(vector) / left) if float(left) > 0 else kept
    return kept


def length(vector: Tensor) -> Tensor:
    """The L1 norm, in the vector's dtype: sums in float64 of blocks of 1024 by halves, then of these one after the other.

    The same on any machine, by any number of threads.
    """
    flat, sums = vector.abs().reshape(-1), []
    for start in range(0, flat.numel(), _CHUNK):
        piece = flat[start : start + _CHUNK].double()
        rows = torch.nn.functional.pad(piece, (0, -len(piece) % _BLOCK)).reshape(-1, _BLOCK)
        while rows.shape[1] > 1:
            rows = rows[:, : rows.shape[1] // 2] + rows[:, rows.shape[1] // 2 :]
        sums += rows[:, 0].tolist()
    return torch.tensor(total_of(sums), dtype=vector.dtype, device=vector.device)


def total_of(sums: Iterable[float]) -> float:
    """The sum from the first to the last, each step rounded to float64."""
    found = 0.0
    for number in sums:
        found += number
    return found


def threshold(vectors: Callable[[], Iterable[Tensor]], density: float) -> float:
    """The magnitude from which on the share `density` of all entries of several tensors lie: TIES's trim of a whole task vector.

    `vectors` is called twice, each time for the same tensors, one after the other: nothing larger than one of them is held.
    The result is exact in float32: the int(density * n)-th largest magnitude, one at least; `density` 0 gives infinity, 1 gives 0.
    """
    if density >= 1 or density <= 0:
        return 0.0 if density >= 1 else float("inf")
    coarse = _histogram(bits >> 16 for bits in _magnitudes(vectors))
    count = max(1, int(density * int(coarse.sum())))
    upper, count = _from_above(coarse, count)
    fine = _histogram(bits[bits >> 16 == upper] & 0xFFFF for bits in _magnitudes(vectors))
    lower, _ = _from_above(fine, count)
    return float(torch.tensor(upper << 16 | lower, dtype=torch.int32).view(torch.float32))


def _magnitudes(vectors: Callable[[], Iterable[Tensor]]) -> Iterable[Tensor]:
    # the bits of positive floats are ordered as the floats are
    return (vector.detach().float().abs().flatten().view(torch.int32) for vector in vectors())


def _histogram(parts: Iterable[Tensor]) -> Tensor:
    counts = torch.zeros(_BINS, dtype=torch.int64)
    for part in parts:
        counts += torch.bincount(part.cpu(), minlength=_BINS)
    return counts


def _from_above(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The bin that holds the `wanted`-th largest, and which one of that bin it is."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, wanted))
    before = int(above[place - 1]) if place else 0
    return _BINS - 1 - place, wanted - before
