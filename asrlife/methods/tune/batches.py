"""The order in which utterances are seen: every epoch anew, lengths alike within a batch, all of it from the seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from asrlife.methods.tune.task import Item

_POOL = 16  # batches whose utterances are sorted by length together


def epoch(sizes: Sequence[float], most: float, seed: int, number: int) -> list[list[int]]:
    """Batches of places in `sizes` for one epoch: count * longest <= `most` in each (one utterance may exceed it alone).

    Utterances are shuffled, sorted by size among about 16 batches at a time, cut, and the batches shuffled.
    """
    rng = np.random.default_rng([seed, number])
    order = rng.permutation(len(sizes))
    reach = max(1, round(_POOL * most / max(float(np.mean(sizes)), 1e-9)))
    groups: list[list[int]] = []
    for first in range(0, len(order), reach):
        groups += _cut(sorted(map(int, order[first : first + reach]), key=lambda place: (sizes[place], place)), sizes, most)
    return [groups[place] for place in rng.permutation(len(groups))]


def _cut(places: Sequence[int], sizes: Sequence[float], most: float) -> list[list[int]]:
    groups: list[list[int]] = []
    for place in places:
        if groups and (len(groups[-1]) + 1) * sizes[place] <= most:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def stream(items: Sequence[Item], most: float, seed: int, skipped: int = 0) -> Iterator[list[Item]]:
    """Batches for ever, without the first `skipped`."""
    sizes, number = [item.size for item in items], 0
    while True:
        groups = epoch(sizes, most, seed, number)
        yield from ([items[place] for place in group] for group in groups[skipped:])
        skipped, number = max(0, skipped - len(groups)), number + 1


def batches_of(items: Sequence[Item], most: float, seed: int, epochs: int) -> int:
    """How many batches so many epochs have."""
    sizes = [item.size for item in items]
    return sum(len(epoch(sizes, most, seed, number)) for number in range(epochs))
