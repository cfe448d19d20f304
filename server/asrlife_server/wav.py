"""WAV as it comes: chunks before the sound are read or passed over, the sound itself is decoded piece by piece."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

import numpy as np

from asrlife_server.g711 import A_LAW, MU_LAW, expanded
from asrlife_server.refusal import Refusal, invalid
from asrlife_server.sound import Raw, finite

EMPTY = np.zeros(0, np.float32)
_UNKNOWN_LENGTH = 0x7FFF_0000  # bytes; writers to a pipe leave about 2^31 or 2^32, or nothing
_ENDLESS = 1 << 62
_LARGEST_CHUNK = 1 << 20  # bytes before the sound that are held at once
_EXTENSIBLE = 0xFFFE


def broken(why: str) -> Refusal:
    """Refuse a container, now or when it ends; what was heard before stays valid."""
    return invalid("audio.content", f"the container {why}; export the sound again as WAV or FLAC", settles=True)


def _pcm24(data: bytes) -> np.ndarray:
    parts = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
    return ((parts[:, 0] << 8 | parts[:, 1] << 16 | parts[:, 2] << 24) >> 8).astype(np.float32) / (1 << 23)


def _scaled(kind: str, full: float, middle: float = 0.0) -> Callable[[bytes], np.ndarray]:
    return lambda data: ((np.frombuffer(data, kind) - middle) / full).astype(np.float32)


_FORMATS: Mapping[tuple[int, int], Callable[[bytes], np.ndarray]] = {  # by the tag and the bits of a sample
    (1, 8): _scaled("u1", 128.0, 128.0),
    (1, 16): _scaled("<i2", 1 << 15),
    (1, 24): _pcm24,
    (1, 32): _scaled("<i4", 1 << 31),
    (3, 32): lambda data: finite(np.frombuffer(data, "<f4").astype(np.float32)),
    (3, 64): lambda data: finite(np.frombuffer(data, "<f8").astype(np.float32)),
    (6, 8): lambda data: expanded(data, A_LAW),
    (7, 8): lambda data: expanded(data, MU_LAW),
}


class Wav:
    """Bytes of a RIFF file to samples; `rate` (Hz) and `channels` are 0 until its header is whole."""

    def __init__(self) -> None:
        self.rate = self.channels = 0
        self._buffer = b""
        self._begun = False
        self._raw: Raw | None = None
        self._left: int | None = None  # bytes of sound to come, None before the sound

    @property
    def left_over(self) -> int:
        """Bytes of a sample whose end has not come."""
        return self._raw.left_over if self._raw else 0

    def feed(self, data: bytes) -> np.ndarray:
        """Samples (n,) that are whole now."""
        self._buffer += data
        while self._left is None and self._next_chunk():
            pass
        if self._left is None or self._raw is None:
            return EMPTY
        sound, self._buffer = self._buffer[: self._left], b""  # what stands behind the sound is not sound
        self._left -= len(sound)
        return self._raw.decode(sound)

    def finish(self) -> np.ndarray:
        """Nothing; refuses a file that promised more."""
        if self._left is None:
            raise broken("ended before its sound began")
        if 0 < self._left <= _UNKNOWN_LENGTH:
            raise broken(f"is cut short: {self._left} bytes of sound are missing")
        return EMPTY

    def _next_chunk(self) -> bool:
        if not self._begun:
            return self._begin()
        if len(self._buffer) < 8:
            return False
        name, size = struct.unpack("<4sI", self._buffer[:8])
        if name == b"data":
            return self._begin_sound(size)
        if size > _LARGEST_CHUNK:
            raise broken(f"has a chunk {name!r} of {size} bytes before its sound")
        if len(self._buffer) < 8 + size + size % 2:
            return False
        if name == b"fmt ":
            self._describe(self._buffer[8 : 8 + size])
        self._buffer = self._buffer[8 + size + size % 2 :]
        return True

    def _begin(self) -> bool:
        if len(self._buffer) < 12:
            return False
        if self._buffer[8:12] != b"WAVE":
            raise broken("is a RIFF file, but not WAVE")
        self._buffer, self._begun = self._buffer[12:], True
        return True

    def _begin_sound(self, size: int) -> bool:
        if self._raw is None:
            raise broken("has sound before it says of what kind")
        self._buffer = self._buffer[8:]
        self._left = size if 0 < size < _UNKNOWN_LENGTH else _ENDLESS
        return False

    def _describe(self, data: bytes) -> None:
        if len(data) < 16:
            raise broken("has a format chunk that is too short")
        tag, self.channels, self.rate, _, _, bits = struct.unpack("<HHIIHH", data[:16])
        if tag == _EXTENSIBLE and len(data) >= 26:
            (tag,) = struct.unpack("<H", data[24:26])
        if (tag, bits) not in _FORMATS:
            raise broken(f"holds samples of a kind that is not supported (WAV format {tag}, {bits} bits)")
        self._raw = Raw(_FORMATS[tag, bits], bits // 8)
