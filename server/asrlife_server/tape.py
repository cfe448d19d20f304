"""The sound of a stream that may still be needed, and what is cut from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Decode = Callable[[bytes], np.ndarray]


@dataclass(frozen=True, eq=False)
class Segment:
    """An utterance's samples [start, end) of the stream at the stream's own rate; `forced` when it was cut for its length."""

    samples: np.ndarray
    start: int
    end: int
    forced: bool = False


class Tape:
    """The samples of a stream from `start` on."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0  # one past the last sample
        self._pieces: list[np.ndarray] = []
        self._bytes: list[bytes] = []  # behind the pieces, not decoded yet
        self._decode: Decode

    def append(self, samples: np.ndarray) -> None:
        """Add samples at the end."""
        self._settle()
        self._pieces.append(samples)
        self.end += len(samples)

    def hold(self, data: bytes, count: int, decode: Decode) -> None:
        """Add so many samples at the end as bytes, which are decoded when they are looked at."""
        self._bytes.append(data)
        self._decode = decode
        self.end += count

    def cut(self, start: int, end: int, forced: bool = False) -> Segment:
        """Take [start, end) out and forget all before `end`."""
        samples = self._samples
        self._pieces, rest = [], samples[end - self.start :]
        segment = Segment(samples[start - self.start : end - self.start], start, end, forced)
        self.start = end
        if len(rest):
            self._pieces.append(rest.copy())  # or it would keep the whole utterance in memory
        return segment

    def copy(self, start: int, end: int) -> Segment:
        """The samples of [start, end)."""
        return Segment(self._samples[start - self.start : end - self.start].copy(), start, end)

    def forget(self, before: int) -> None:
        """Drop what came before sample `before`."""
        self._pieces = [self._samples[max(0, before - self.start) :]]
        self.start = self.end - len(self._pieces[0])

    def _settle(self) -> None:
        if self._bytes:
            self._pieces.append(self._decode(b"".join(self._bytes)))
            self._bytes = []

    @property
    def _samples(self) -> np.ndarray:
        self._settle()
        if len(self._pieces) != 1:  # joined when they are looked at: a long utterance is not copied for every chunk of it
            self._pieces = [np.concatenate(self._pieces)] if self._pieces else [np.zeros(0, np.float32)]
        return self._pieces[0]
