"""The two companding laws of telephony, ITU-T G.711, as tables of 256 samples."""

from __future__ import annotations

import numpy as np

_FULL_SCALE = 32_768  # of the 16-bit values that both laws stand for
_BIAS = 132  # what mu-law adds before it takes the logarithm


def _mu() -> np.ndarray:
    code = ~np.arange(256, dtype=np.int32) & 0xFF  # every bit is sent inverted
    size = (((code & 15) << 3) + _BIAS << (code >> 4 & 7)) - _BIAS
    return np.where(code & 0x80, -size, size)


def _a() -> np.ndarray:
    code = np.arange(256, dtype=np.int32) ^ 0x55  # every other bit is sent inverted
    segment, step = code >> 4 & 7, (code & 15) << 4
    size = np.where(segment == 0, step + 8, step + 264 << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, size, -size)


MU_LAW = (_mu() / _FULL_SCALE).astype(np.float32)
A_LAW = (_a() / _FULL_SCALE).astype(np.float32)


def expanded(data: bytes, table: np.ndarray) -> np.ndarray:
    """Samples (n,) with full scale at 1 of n bytes."""
    return table[np.frombuffer(data, np.uint8)]
