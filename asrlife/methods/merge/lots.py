"""Philox as numba sees it: the lots of `philox.uniform`, word for word, in a block's own memory.

numba keeps what it compiled by the date of a function's own file: whoever changes this file, bits.py or team.BLOCK must touch kernels.py.
"""

from __future__ import annotations

from typing import Any

from numba import njit, uint32, uint64

ROUNDS = 10


@njit(nogil=True, cache=True, inline="always")
def _round(a: Any, b: Any, c: Any, d: Any, low: Any, high: Any) -> Any:
    left, right = uint64(a) * uint64(0xD2511F53), uint64(c) * uint64(0xCD9E8D57)
    return (
        uint32(uint32(right >> uint64(32)) ^ b ^ low),
        uint32(right),
        uint32(uint32(left >> uint64(32)) ^ d ^ high),
        uint32(left),
    )


@njit(nogil=True, cache=True)
def draw(low: int, high: int, first: int, count: int, lots: Any) -> None:
    """The upper 24 bits of the words of elements `first`, a multiple of 4, to `first + count`, for a key of two words.

    `lots` is uint32 and has room for a multiple of 4.
    """
    for counter in range((count + 3) // 4):
        place = uint64(first // 4 + counter)
        a, b, c, d = uint32(place), uint32(place >> uint64(32)), uint32(0), uint32(0)
        one, other = uint32(low), uint32(high)
        for _ in range(ROUNDS):
            a, b, c, d = _round(a, b, c, d, one, other)
            one, other = uint32(one + uint32(0x9E3779B9)), uint32(other + uint32(0xBB67AE85))
        lots[4 * counter] = a >> uint32(8)
        lots[4 * counter + 1] = b >> uint32(8)
        lots[4 * counter + 2] = c >> uint32(8)
        lots[4 * counter + 3] = d >> uint32(8)
