"""Where a task vector is trimmed: its exact k-th largest magnitude, found while it is read once.

Some elements tell between which two magnitudes it lies, almost surely; the others are counted, and what lies between is kept and sorted.
Where the sample was misleading, all is kept and sorted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrlife.methods.merge.team import BLOCK, Team, memory

SAMPLE = 1 << 16
"""Elements that are looked at first."""
SIGMAS = 6
"""Standard deviations by which the sample may be wrong: more would happen once in 10^8 tensors."""
EVERYTHING = -1, 0x7FFFFFFF
"""No magnitude has these bits, nor lies outside them, but NaN of a kind that no arithmetic makes."""
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Sifted:
    """Magnitudes sorted by `bounds`: `tally` (blocks, 4) how many are above, at the upper, between, at the lower; the bits between."""

    bounds: tuple[int, int]
    tally: Any
    found: Any

    def cut(self, count: int) -> tuple[int, Any, int] | None:
        """The bits of the `count`-th largest, its equals in each block, how many of these are taken; None where it is outside."""
        above, top, between, bottom = (int(number) for number in self.tally.sum(0))
        if count <= above or count > above + top + between + bottom:
            return None
        if count <= above + top:
            return self.bounds[1], self.tally[:, 1], count - above
        if count > above + top + between:
            return self.bounds[0], self.tally[:, 3], count - above - top - between
        return self._within(count - above - top)

    def _within(self, wanted: int) -> tuple[int, Any, int]:
        place = len(self.found) - wanted
        edge = int(np.partition(self.found, place)[place])
        equals = np.flatnonzero(self.found == edge)
        before = np.searchsorted(equals, np.cumsum(self.tally[:, 2]))
        return edge, np.diff(before, prepend=0), wanted - int(np.count_nonzero(self.found > edge))


def selected(pair: Pair, count: int, team: Team) -> tuple[int, int]:
    """The bits of the `count`-th largest magnitude of x - b, for a pair (b, x), and the last element that is among the `count` with it.

    Of equal magnitudes the first are taken.
    """
    for bounds in (_bounds(pair, count), EVERYTHING):
        sifted = _sifted(pair, bounds, team)
        found = sifted.cut(count) if sifted else None
        if found:
            edge, equals, taken = found
            return edge, _last(pair, edge, np.cumsum(equals), taken)
    raise AssertionError(f"{count} of {pair[0].numel()} elements")


def _bounds(pair: Pair, count: int) -> tuple[int, int]:
    """Bits between which the `count`-th largest magnitude lies, by a sample of one element at an even place in each of even stretches."""
    total = pair[0].numel()
    if total < 4 * SAMPLE:
        return EVERYTHING
    places = torch.from_numpy(np.minimum(_ticks(SAMPLE) * (total / SAMPLE), total - 1).astype(np.int64))
    base, x = (tensor.reshape(-1)[places] for tensor in pair)
    share = count / total
    margin = SIGMAS * (1 + math.sqrt(SAMPLE * share * (1 - share)))
    upper, lower = math.floor(share * SAMPLE - margin), math.ceil(share * SAMPLE + margin)
    wanted = [SAMPLE - rank for rank in (lower, upper) if 0 < rank <= SAMPLE]
    ordered = np.partition(_sizes(base, x), wanted or 0)
    high = int(ordered[SAMPLE - upper]) if upper > 0 else EVERYTHING[1]
    low = int(ordered[SAMPLE - lower]) if lower <= SAMPLE else EVERYTHING[0]
    return min(low, high - 1), high


@cache
def _ticks(count: int) -> Any:
    # multiples of the golden ratio, modulo 1, resonate with nothing
    return np.arange(count) + np.arange(count) * ((5**0.5 - 1) / 2) % 1


def _sizes(base: Tensor, x: Tensor) -> Any:
    return (x.float() - base.float()).abs().view(torch.int32).numpy()


def _sifted(pair: Pair, bounds: tuple[int, int], team: Team) -> Sifted | None:
    from asrlife.methods.merge import kernels

    total = pair[0].numel()
    tally = np.zeros((-(-total // BLOCK), 4), np.int64)
    given = memory(pair)

    def work(start: int, stop: int) -> Any:
        room = stop - start if bounds == EVERYTHING else min(stop - start, total // 16 + BLOCK)
        found = np.empty(room, np.int32)
        taken = kernels.sift(*given, *bounds, start, stop, tally, found)
        return found[:taken] if taken >= 0 else None

    parts = team.run(work)
    return None if any(part is None for part in parts) else Sifted(bounds, tally, np.concatenate(parts))


def _last(pair: Pair, edge: int, equals: Any, taken: int) -> int:
    """The element that is the `taken`-th of magnitude `edge`, of which blocks hold `equals`, summed up."""
    block = int(np.searchsorted(equals, taken))
    first = block * BLOCK
    base, x = (tensor.reshape(-1)[first : first + BLOCK] for tensor in pair)
    rank = taken - (int(equals[block - 1]) if block else 0)
    return first + int(np.flatnonzero(_sizes(base, x) == edge)[rank - 1])
