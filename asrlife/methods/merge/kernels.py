"""Fused kernels: every number is read once for a sum, and once more for an exact selection; nothing is held but blocks.

Memory is given by addresses and codes of dtypes, so that one compiled function serves any number of models in any mixture of dtypes.
Sums are taken in float32, from the first model to the last, without contraction: the bits are those of torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, uint32

from asrlife.methods.merge.bits import LANES, as_word, between, fused, narrow, widen
from asrlife.methods.merge.lots import draw
from asrlife.methods.merge.rules import LOT, MIDDLE
from asrlife.methods.merge.team import BLOCK

PADDING = 80
"""Elements after a block; at distances of 4096 bytes a core takes a load for one of what is just being stored."""
# divisions by 0 as numpy has them: a check of every divisor would keep loops from working on many numbers at once
compiled = njit(nogil=True, cache=True, error_model="numpy")
WEIGHTED, PLAIN, FREQUENCY, NOBODY = 0, 1, 2, 3
"""Whose sign wins: that of the weighted sum, of the sum, of the majority; or all are added up."""


@compiled
def _rows(count: int) -> Any:
    """Rows of a block each, beginning at places that a core's cache keeps apart."""
    return np.empty((count, BLOCK + PADDING), np.float32)


@compiled
def blend(memory: Any, codes: Any, factors: Any, divisor: Any, out: Any, start: int, stop: int) -> bool:
    """out = sum_i factors[i] * x[i] / divisor for elements `start` to `stop`, each term added by a fused multiply-add.

    `memory` and `codes` of the models x; `out` is (address, code); a divisor of 1 changes nothing. Returns whether all is finite.
    """
    rows = _rows(2)
    x, total = rows[0], rows[1]
    finite = True
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        total[:count] = np.float32(0)
        for model in range(len(memory)):
            widen(memory[model], codes[model], first, count, x)
            factor = factors[model]
            for place in range(count):
                total[place] = fused(x[place], factor, total[place])
        for place in range(count):
            total[place] = total[place] / divisor
        finite &= narrow(total, count, out[0], out[1], first)
    return finite


@compiled
def combine(memory: Any, codes: Any, factors: Any, divisor: Any, scale: Any, out: Any, start: int, stop: int) -> bool:
    """out = b + scale * sum_i factors[i] * (x[i] - b) / divisor; the first of `memory` is the base b, the others are the models x."""
    rows = _rows(3)
    base, x, total = rows[0], rows[1], rows[2]
    finite = True
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        widen(memory[0], codes[0], first, count, base)
        for model in range(1, len(memory)):
            widen(memory[model], codes[model], first, count, x)
            factor = factors[model - 1]
            if model == 1:
                for place in range(count):
                    total[place] = (x[place] - base[place]) * factor
            else:
                for place in range(count):
                    total[place] += (x[place] - base[place]) * factor
        _finish(base, total, divisor, scale, count)
        finite &= narrow(total, count, out[0], out[1], first)
    return finite


@compiled
def _finish(base: Any, total: Any, divisor: Any, scale: Any, count: int) -> None:
    if divisor != np.float32(1):
        for place in range(count):
            total[place] = total[place] / divisor
    if scale != np.float32(1):
        for place in range(count):
            total[place] = total[place] * scale
    for place in range(count):
        total[place] = base[place] + total[place]


@compiled
def sift(memory: Any, codes: Any, low: int, high: int, start: int, stop: int, tally: Any, found: Any) -> int:
    """Sort the magnitudes |x - b| by the bits of their float32: how many lie above `high`, at it, between, at `low`; what lies between.

    `memory` is (b, x); `start` is the first element of a block. `tally` (blocks, 4) gets the numbers block by block, `found` in their
    order the bits that lie between. Returns how many these are, or -1 where `found` is too short for them.
    """
    rows = _rows(3)
    base, x, third = rows[0], rows[1], rows[2]
    sizes, taken = third.view(np.int32), 0
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        if taken + count > len(found):
            return -1
        widen(memory[0], codes[0], first, count, base)
        widen(memory[1], codes[1], first, count, x)
        for place in range(count):
            sizes[place] = np.int32(as_word(x[place] - base[place]) & uint32(0x7FFFFFFF))
        _count(sizes, np.int32(low), np.int32(high), count, tally[first // BLOCK])
        here = _take(sizes, np.int32(low), np.int32(high), count, found[taken:])
        tally[first // BLOCK, 2] = here
        taken += here
    return taken


@compiled
def _count(sizes: Any, low: Any, high: Any, count: int, tally: Any) -> None:
    # int32 at every step: more of them fit in a register
    above, top, bottom = np.int32(0), np.int32(0), np.int32(0)
    for place in range(count):
        above = np.int32(above + np.int32(sizes[place] > high))
        top = np.int32(top + np.int32(sizes[place] == high))
        bottom = np.int32(bottom + np.int32(sizes[place] == low))
    tally[0], tally[1], tally[3] = above, top, bottom


@compiled
def _take(sizes: Any, low: Any, high: Any, count: int, found: Any) -> Any:
    taken = np.uintp(0)
    for first in range(0, count, LANES):
        # most groups have none
        if first + LANES <= count and between(sizes.ctypes.data + 4 * first, low, high) == 0:
            continue
        for place in range(first, min(first + LANES, count)):
            found[taken] = sizes[place]  # without a branch: what does not lie between is written over
            taken += np.uintp((sizes[place] > low) & (sizes[place] < high))
    return np.int64(taken)


@compiled
def mix(
    memory: Any, codes: Any, rules: Any, factors: Any, shares: Any, voting: int, normalize: bool, divisor: Any, scale: Any, out: Any,
    start: int, stop: int,
) -> bool:  # fmt: skip
    """out = b + scale * (the mean or sum, over those that agree in sign with the winner, of the thinned x - b, weighed) / divisor.

    `rules` say what of each x - b stays, as columns of `rules.Rule`; `shares` are what a mean divides by. Returns whether all is finite.
    """
    models, finite = len(memory) - 1, True
    vectors = _rows(models + 5)
    base, total, weights, votes, lots = vectors[models], vectors[models + 1], vectors[models + 2], vectors[models + 3], vectors[models + 4]
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        widen(memory[0], codes[0], first, count, base)
        for model in range(models):
            widen(memory[model + 1], codes[model + 1], first, count, vectors[model])
            _thin(vectors[model], base, rules, model, lots.view(np.uint32), first, count)
            _rescale(vectors[model], rules, model, count)
            if voting != NOBODY:
                _vote(vectors[model], factors[model], voting, model == 0, votes, count)
        for model in range(models):
            if voting == NOBODY:
                _add(vectors[model], factors[model], model == 0, total, count)
            else:
                _agree(vectors[model], factors[model], shares[model], voting, model == 0, votes, (total, weights), count)
        if normalize:
            for place in range(count):
                total[place] = total[place] / (weights[place] if weights[place] != 0 else np.float32(1))
        _finish(base, total, divisor, scale, count)
        finite &= narrow(total, count, out[0], out[1], first)
    return finite


@compiled
def lengths(memory: Any, codes: Any, rules: Any, model: int, start: int, stop: int, sums: Any) -> None:
    """The L1 norms of x - b, and of what its rule leaves, block by block into `sums` (blocks, 2) in float64, as `sparsify.length` adds."""
    base, x, lots = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint32)
    work = np.empty(BLOCK, np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        widen(memory[0], codes[0], first, count, base)
        widen(memory[model + 1], codes[model + 1], first, count, x)
        for place in range(count):
            work[place] = np.abs(x[place] - base[place])
        sums[first // BLOCK, 0] = _sum(work, count)
        _thin(x, base, rules, model, lots, first, count)
        for place in range(count):
            work[place] = np.abs(x[place])
        sums[first // BLOCK, 1] = _sum(work, count)


@compiled
def _sum(work: Any, count: int) -> float:
    work[count:] = 0
    width = BLOCK // 2
    while width > 0:
        for place in range(width):
            work[place] += work[place + width]
        width //= 2
    return work[0]


@compiled
def _thin(x: Any, base: Any, rules: Any, model: int, lots: Any, first: int, count: int) -> None:
    kinds, edges, lasts, tops, keys, limits = rules[:6]
    if kinds[model] == LOT:
        draw(keys[model, 0], keys[model, 1], first, count, lots)
        _keep(x, base, lots, uint32(limits[model]), count)
        return
    middle = min(max(lasts[model] + 1 - first, 0), count)
    _subtract(x[:middle], base[:middle], edges[model])
    _subtract(x[middle:count], base[middle:count], edges[model] + 1)
    if kinds[model] == MIDDLE:
        middle = min(max(tops[model, 1] + 1 - first, 0), count)
        _behead(x[:middle], tops[model, 0])
        _behead(x[middle:count], tops[model, 0] + 1)


@compiled
def _subtract(x: Any, base: Any, edge: int) -> None:
    """x - b where its magnitude has the bits `edge` or more, else 0."""
    if edge > 0x7FFFFFFF:
        x[:] = np.float32(0)
        return
    least = np.int32(edge)
    for place in range(len(x)):
        number = x[place] - base[place]
        x[place] = number if np.int32(as_word(number) & uint32(0x7FFFFFFF)) >= least else np.float32(0)


@compiled
def _behead(x: Any, edge: int) -> None:
    """0 where the magnitude has the bits `edge` or more."""
    for place in range(len(x)):
        x[place] = x[place] if np.int64(as_word(x[place]) & uint32(0x7FFFFFFF)) < edge else np.float32(0)


@compiled
def _keep(x: Any, base: Any, lots: Any, limit: Any, count: int) -> None:
    for place in range(count):
        x[place] = x[place] - base[place] if lots[place] < limit else np.float32(0)


@compiled
def _rescale(x: Any, rules: Any, model: int, count: int) -> None:
    chance, multiplier = rules[6][model], rules[7][model]
    if chance != np.float32(1):
        for place in range(count):
            x[place] = x[place] / chance
    if multiplier != np.float32(1):
        for place in range(count):
            x[place] = x[place] * multiplier


@compiled
def _add(vector: Any, factor: Any, fresh: bool, total: Any, count: int) -> None:
    for place in range(count):
        part = vector[place] * factor
        total[place] = part if fresh else total[place] + part


@compiled
def _vote(vector: Any, factor: Any, voting: int, fresh: bool, votes: Any, count: int) -> None:
    for place in range(count):
        vote = vector[place] if voting == PLAIN else vector[place] * factor
        if voting == FREQUENCY:
            vote = np.float32(1) if vote > 0 else np.float32(-1) if vote < 0 else np.float32(0)
        votes[place] = vote if fresh else votes[place] + vote


@compiled
def _agree(vector: Any, factor: Any, share: Any, voting: int, fresh: bool, votes: Any, sums: Any, count: int) -> None:
    total, divisor = sums
    for place in range(count):
        weighed = vector[place] * factor
        voter = weighed if voting == WEIGHTED else vector[place]
        against = voter <= 0 if votes[place] >= 0 else voter >= 0
        part, weight = (np.float32(0), np.float32(0)) if against else (weighed, share)
        total[place] = part if fresh else total[place] + part
        divisor[place] = weight if fresh else divisor[place] + weight
