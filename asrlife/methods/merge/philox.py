"""Random numbers that depend on nothing but a seed, a name and a place: Philox 4x32-10 of Salmon et al. (SC 2011)."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_CHUNK = 1 << 18  # counters worked on at once: what the caches hold


def key(seed: int, name: str, index: int) -> tuple[int, int]:
    """The two words that start the stream of one expert's tensor: the first 8 bytes, little-endian, of BLAKE2b of "seed/index/name"."""
    digest = hashlib.blake2b(f"{seed}/{index}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def words(words_of_key: tuple[int, int], counters: Tensor) -> Tensor:
    """The four words (n, 4), each 0..2^32-1 in int64, of the `counters` (n,) in int64, whose upper 64 bits are zero."""
    zero = torch.zeros_like(counters)
    state = (counters & _WORD, (counters >> 32) & _WORD, zero, zero)
    return torch.stack(rounds(words_of_key, state), dim=1)


def rounds(words_of_key: tuple[int, int], state: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds on the four words of a counter."""
    low, high = words_of_key
    for _ in range(_ROUNDS):
        left, right = state[0] * _MULTIPLIERS[0], state[2] * _MULTIPLIERS[1]
        state = (
            ((right >> 32) & _WORD) ^ state[1] ^ low,
            right & _WORD,
            ((left >> 32) & _WORD) ^ state[3] ^ high,
            left & _WORD,
        )
        low, high = (low + _STEPS[0]) & _WORD, (high + _STEPS[1]) & _WORD
    return state


def uniform(seed: int, name: str, index: int, count: int, start: int = 0, device: torch.device | None = None) -> Tensor:
    """Numbers in [0, 1), multiples of 2^-24 in float32, for the elements `start` to `start + count` of expert `index`'s tensor `name`.

    Element e is word e % 4 of counter e // 4, its upper 24 bits: any part can be had by itself, on any device.
    """
    first, stop = start // 4, (start + count + 3) // 4
    own = key(seed, name, index)
    found = torch.empty((stop - first) * 4, dtype=torch.float32, device=device)
    for begin in range(first, stop, _CHUNK):
        end = min(stop, begin + _CHUNK)
        drawn = words(own, torch.arange(begin, end, device=device)) >> 8
        found[(begin - first) * 4 : (end - first) * 4] = drawn.reshape(-1).to(torch.float32) * 2.0**-24
    return found[start - first * 4 : start - first * 4 + count]
