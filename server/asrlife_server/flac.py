"""FLAC as it comes: the stream is cut into frames, and each batch of whole frames is decoded by libsndfile as a small file of its own."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from asrlife_server.wav import EMPTY, broken

_INFO = 34  # bytes of STREAMINFO
_LONGEST_HEADER = 16  # bytes of a frame's
_LARGEST_FRAME = 1 << 20  # bytes; one of 65,535 samples of 32 bits has a quarter of it
_LEAST_FRAME = 9  # bytes: header, a constant, CRC-16


@dataclass(frozen=True)
class Frame:
    """What a frame's header says: `samples` in it, and its `number` or (`variable`) that of its first sample."""

    samples: int
    number: int
    variable: bool

    def precedes(self, other: Frame) -> bool:
        """Whether `other` may stand right behind."""
        return other.variable == self.variable and other.number == self.number + (self.samples if self.variable else 1)


class Flac:
    """Bytes of a FLAC file to samples; `rate` (Hz) and `channels` are 0 until its header is whole."""

    left_over = 0

    def __init__(self) -> None:
        self.rate = self.channels = 0
        self._info = b""
        self._promised = 0  # samples, 0 where the header does not say
        self._given = 0
        self._buffer = b""
        self._skip = 4  # bytes to pass over: the marker, then what other blocks of the header hold
        self._last = False  # the block under way is the header's last
        self._frame: Frame | None = None  # that the buffer begins with
        self._scanned = 0

    def feed(self, data: bytes) -> np.ndarray:
        """Samples (n,) of the frames that are whole now."""
        self._buffer += data
        if not self._past_header():
            return EMPTY
        return self._decoded(*self._whole(_LONGEST_HEADER))

    def finish(self) -> np.ndarray:
        """The last frame's samples; refuses a file that is cut short."""
        if not self._past_header():
            raise broken("ended inside its header")
        frames, samples = self._whole(_LEAST_FRAME)  # the last frames may be shorter than the longest header
        if self._frame is not None:
            frames, samples = frames + self._buffer, samples + self._frame.samples
        found = self._decoded(frames, samples)
        if self._given < self._promised:
            raise broken(f"is cut short: {self._given} of {self._promised} samples came")
        return found

    def _whole(self, room: int) -> tuple[bytes, int]:
        """The frames behind which another begins, and their samples; a header is looked for where there is `room` for it."""
        frames, samples = b"", 0
        while (cut := self._next(room)) is not None:
            frames, samples = frames + cut[0], samples + cut[1]
        return frames, samples

    def _past_header(self) -> bool:
        while not (self._last and not self._skip):
            if self._skip:
                passed = min(self._skip, len(self._buffer))
                self._buffer, self._skip = self._buffer[passed:], self._skip - passed
            if self._skip or (not self._last and not self._next_block()):
                return False
        return True

    def _next_block(self) -> bool:
        if len(self._buffer) < 4:
            return False
        kind, size = self._buffer[0], int.from_bytes(self._buffer[1:4], "big")
        if not self._info:
            if kind & 0x7F or size != _INFO:
                raise broken("has no STREAMINFO at its start")
            if len(self._buffer) < 4 + _INFO:
                return False
            self._describe(self._buffer[4 : 4 + _INFO])
        self._last, self._skip = bool(kind & 0x80), 4 + size
        return True

    def _describe(self, info: bytes) -> None:
        packed = int.from_bytes(info[10:18], "big")
        self.rate, self.channels, self._promised = packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1
        self._info = info

    def _next(self, room: int) -> tuple[bytes, int] | None:
        """Cut the first frame off, once the header of the next one is here."""
        if self._frame is None and not self._first(room):
            return None
        assert self._frame is not None
        at = self._scanned
        while (at := self._buffer.find(b"\xff", max(at, _LEAST_FRAME))) >= 0 and len(self._buffer) - at >= room:
            found = header(self._buffer[at : at + _LONGEST_HEADER])
            if found is not None and self._frame.precedes(found):
                cut, self._buffer = self._buffer[:at], self._buffer[at:]
                samples, self._frame, self._scanned = self._frame.samples, found, 0
                return cut, samples
            at += 1
        self._scanned = len(self._buffer) if at < 0 else at
        if len(self._buffer) > _LARGEST_FRAME:
            raise broken("is damaged: no frame begins where one should")
        return None

    def _first(self, room: int) -> bool:
        if len(self._buffer) < room:
            return False
        self._frame = header(self._buffer[:_LONGEST_HEADER])
        if self._frame is None:
            raise broken("is damaged: its first frame has no valid header")
        return True

    def _decoded(self, frames: bytes, samples: int) -> np.ndarray:
        import soundfile

        if not frames:
            return EMPTY
        count = int.from_bytes(self._info[10:18], "big") >> 36 << 36 | samples
        info = self._info[:10] + count.to_bytes(8, "big") + bytes(16)  # a digest of zeros is not checked
        try:
            with soundfile.SoundFile(io.BytesIO(b"fLaC\x80\0\0\x22" + info + frames)) as file:
                found = file.read(samples, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise broken(f"is damaged ({error.error_string.strip(' .')})") from error
        if found.shape != (samples,):
            raise broken(f"is damaged or cut short: {len(found)} of {samples} samples could be decoded")
        self._given += samples
        return found


def header(data: bytes) -> Frame | None:
    """The frame header that `data` begins with, None where there is no valid one; 16 bytes hold the longest."""
    data = data.ljust(_LONGEST_HEADER, b"\0")
    if data[0] != 0xFF or data[1] & 0xFE != 0xF8 or data[3] & 1 or not data[2] >> 4 or data[2] & 15 == 15:
        return None
    number, at = _number(data)
    if at is None:
        return None
    size, rate = data[2] >> 4, data[2] & 15
    extra = (size in (6, 7)) * (size - 5) + (1 if rate == 12 else 2 if rate > 12 else 0)
    if _crc8(data[: at + extra]) != data[at + extra]:
        return None
    return Frame(_samples(size, data[at:]), number, bool(data[1] & 1))


def _samples(code: int, behind: bytes) -> int:
    if code == 1:
        return 192
    if code < 6:
        return 576 << code - 2
    return int.from_bytes(behind[: code - 5], "big") + 1 if code < 8 else 256 << code - 8


def _number(data: bytes) -> tuple[int, int | None]:
    """The number behind the fourth byte, coded as UTF-8 does it, and where it ends; None where it is none."""
    first = data[4]
    length = next((bit for bit in range(8) if not first & 0x80 >> bit), 8)
    if length in (1, 8):
        return 0, None
    count = max(length, 1)
    number = first & (0x7F >> length)
    for byte in data[5 : 4 + count]:
        if byte & 0xC0 != 0x80:
            return 0, None
        number = number << 6 | byte & 0x3F
    return number, 4 + count


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
