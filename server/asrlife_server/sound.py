"""Bytes of a stream to samples, and samples to 16 kHz while they come in."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Protocol

import numpy as np

from asrlife.audio.waveform import Waveform
from asrlife_server.g711 import A_LAW, MU_LAW, expanded
from asrlife_server.refusal import invalid

LISTENING_RATE = 16_000  # Hz, what the voice activity detector and the recognisers hear
_LOUDEST = 1e6  # 120 dB above full scale; nothing that was recorded
_MARGIN = 8e-3  # s of context on either side of a block; wider than the resampling kernel at 8 kHz


def finest(rate: int) -> int:
    """The smallest number of samples at `rate` that is a whole number of samples at 16 kHz."""
    return rate // gcd(rate, LISTENING_RATE)


class Decoder(Protocol):
    """Turns chunks of bytes, cut anywhere, into float32 samples."""

    @property
    def left_over(self) -> int:
        """Bytes of a sample whose end has not come."""

    def decode(self, data: bytes) -> np.ndarray:
        """Samples (n,) that are certain now."""

    def finish(self) -> np.ndarray:
        """The samples that were held back; refuses what cannot end here."""


class Raw:
    """Samples without a header, `width` bytes each; one that a chunk's end cuts in two waits for its other part.

    `any_bytes`: there are none that `parse` refuses, so that they can be decoded later.
    """

    def __init__(self, parse: Callable[[bytes], np.ndarray], width: int, any_bytes: bool = True) -> None:
        self.any_bytes = any_bytes
        self.parse = parse
        self._width = width
        self._carry = b""

    @property
    def left_over(self) -> int:
        """Bytes of a sample whose end has not come."""
        return len(self._carry)

    def whole(self, data: bytes) -> int | None:
        """How many samples the bytes are; None where one of them is cut in two, or was before."""
        return None if self._carry or len(data) % self._width else len(data) // self._width

    def decode(self, data: bytes) -> np.ndarray:
        """Samples (n,) that are whole now."""
        data = self._carry + data if self._carry else data
        odd = len(data) % self._width
        self._carry = data[len(data) - odd :] if odd else b""
        return self.parse(data[: len(data) - odd])

    def finish(self) -> np.ndarray:
        """Nothing: what is whole is out already."""
        return np.zeros(0, np.float32)


def pcm16() -> Raw:
    """Signed 16-bit little-endian, scaled as Waveform.from_pcm16 does it; no bytes can be wrong, so that nothing is looked for."""
    return Raw(_scaled, 2)


def _scaled(data: bytes) -> np.ndarray:
    samples = np.frombuffer(data, "<i2").astype(np.float32)
    samples *= np.float32(1 / 32_768)  # a power of two: exact
    return samples


def float32() -> Raw:
    """Little-endian float32; NaN and infinity are refused, and so is what no recording reaches."""
    return Raw(lambda data: finite(np.frombuffer(data, "<f4").astype(np.float32)), 4, any_bytes=False)


def mulaw() -> Raw:
    """Eight-bit mu-law of G.711."""
    return Raw(lambda data: expanded(data, MU_LAW), 1)


def alaw() -> Raw:
    """Eight-bit A-law of G.711."""
    return Raw(lambda data: expanded(data, A_LAW), 1)


def finite(samples: np.ndarray) -> np.ndarray:
    """The samples, refused where one is no number or is far above full scale."""
    if not np.isfinite(samples).all():
        raise invalid(
            "audio.content", "FLOAT32 samples hold NaN or infinity; send finite samples with full scale at 1, or integers as PCM16"
        )
    if len(samples) and np.abs(samples).max() > _LOUDEST:
        loudest = f"{np.abs(samples).max():.0e}"
        raise invalid("audio.content", f"samples reach {loudest}, where full scale is 1; divide by full scale, or send integers as PCM16")
    return samples


class Resampler:
    """Samples at `rate` Hz to samples at 16 kHz as they come; joined, the pieces equal the whole resampled at once up to its last 8 ms."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._unit = finest(rate)
        self._unit_out = LISTENING_RATE * self._unit // rate
        self._margin = int(-(-rate * _MARGIN // self._unit))  # in units
        self._buffer = np.zeros(0, np.float32)
        self._context = 0  # units at the buffer's start that are out already

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """The samples at 16 kHz that `samples` make certain."""
        if self._rate == LISTENING_RATE:
            return samples
        self._buffer = np.concatenate([self._buffer, samples])
        ready = len(self._buffer) // self._unit - self._margin - self._context
        if ready <= 0:
            return np.zeros(0, np.float32)
        whole = Waveform(self._buffer, self._rate).resampled(LISTENING_RATE).samples
        out = whole[self._context * self._unit_out : (self._context + ready) * self._unit_out]
        keep = min(self._margin, self._context + ready)
        self._buffer = self._buffer[(self._context + ready - keep) * self._unit :]
        self._context = keep
        return out

    def rest(self) -> np.ndarray:
        """The samples that waited for what comes behind them, when nothing does."""
        if self._rate == LISTENING_RATE or not len(self._buffer):
            return np.zeros(0, np.float32)
        out = Waveform(self._buffer, self._rate).resampled(LISTENING_RATE).samples[self._context * self._unit_out :]
        self._buffer, self._context = np.zeros(0, np.float32), 0
        return out
