"""Where utterances begin and end: by the server's ear (silero-vad), or by the client's word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asrlife_server.sound import LISTENING_RATE, Resampler
from asrlife_server.tape import Decode, Segment, Tape

WINDOW = 512  # samples at 16 kHz that the detector judges at once
Judge = Callable[[np.ndarray], float]  # a window (512,) at 16 kHz -> the probability of speech in it
_RELEASE = 0.15  # speech, once begun, holds down to this much below the threshold


@dataclass(frozen=True)
class Began:
    """Speech was noticed; `offset` is its first sample with the pre-roll, counted from the stream's start."""

    offset: int


@dataclass(frozen=True)
class Paused:
    """The utterance under way has probably ended at sample `offset`."""

    offset: int


Happening = Began | Paused | Segment


class Endpointer(Protocol):
    """Cuts a stream of samples into utterances."""

    @property
    def begun(self) -> int | None:
        """The first sample of the utterance under way."""

    @property
    def open(self) -> Segment | None:
        """The utterance under way."""

    @property
    def judge(self) -> Judge | None:
        """Who judges the windows; None where nobody has to."""

    def take(self, samples: np.ndarray) -> list[np.ndarray]:
        """Take samples at the stream's rate; the windows that are to be judged now."""

    def judged(self, speech: Sequence[float]) -> list[Happening]:
        """What began and ended, by the probability of speech in each of those windows."""

    def feed(self, samples: np.ndarray) -> list[Happening]:
        """Take samples, judge them, and say what began and ended in them."""

    def flush(self) -> list[Segment]:
        """End the utterance under way here."""


class External:
    """Ends an utterance only when told to, or when it has `longest` samples."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._tape = Tape()

    @property
    def begun(self) -> int | None:
        """Where the last utterance ended, once there is sound behind it."""
        return self._tape.start if self._tape.end > self._tape.start else None

    @property
    def open(self) -> Segment | None:
        """Everything since the last end."""
        return self._tape.copy(self._tape.start, self._tape.end) if self._tape.end > self._tape.start else None

    @property
    def judge(self) -> None:
        """Nobody."""
        return None

    def take(self, samples: np.ndarray) -> list[np.ndarray]:
        """Take samples."""
        self._tape.append(samples)
        return []

    def hold(self, data: bytes, count: int, decode: Decode) -> None:
        """Take so many samples as bytes, in which nothing is cut yet."""
        self._tape.hold(data, count, decode)

    @property
    def start(self) -> int:
        """Where the last utterance ended."""
        return self._tape.start

    @property
    def limit(self) -> int:
        """The last sample that the utterance under way may have."""
        return self._tape.start + self._longest

    def feed(self, samples: np.ndarray) -> list[Happening]:
        """Take samples and say what is cut."""
        self.take(samples)
        return self.judged([])

    def judged(self, speech: Sequence[float]) -> list[Happening]:
        """An utterance that has grown too long comes back cut."""
        cuts: list[Happening] = []
        while self._tape.end - self._tape.start > self._longest:
            cuts.append(self._tape.cut(self._tape.start, self._tape.start + self._longest, forced=True))
        return cuts

    def flush(self) -> list[Segment]:
        """End the utterance here; nothing where there are no samples."""
        return [self._tape.cut(self._tape.start, self._tape.end)] if self._tape.end > self._tape.start else []


@dataclass(frozen=True)
class Rules:
    """When speech counts as an utterance; ms, and a probability. After `eou_ms` of silence (0: never) it has probably ended."""

    start_ms: int = 96
    stop_ms: int = 480
    longest_ms: int = 20_000
    threshold: float = 0.5
    pre_roll_ms: int = 300
    post_roll_ms: int = 240
    eou_ms: int = 0


class Listening:
    """Ends utterances by `judge`, the probability of speech in one window of 512 samples at 16 kHz.

    Speech begins after `start_ms` above the threshold, with the pre-roll before it, and ends after `stop_ms` below.
    """

    def __init__(self, judge: Judge, rate: int, rules: Rules) -> None:
        self.judge: Judge | None = judge
        self._ear = judge
        self._rate = rate
        self._rules = rules
        self._resampler = Resampler(rate)
        self._tape = Tape()
        self._waiting = np.zeros(0, np.float32)  # at 16 kHz, less than a window
        self._windows = 0
        self._loud = 0  # windows of speech on end
        self._quiet = 0  # windows of silence on end
        self._spoken_until = 0
        self._began: int | None = None
        self._paused = False

    @property
    def begun(self) -> int | None:
        """The pre-roll before the speech, while somebody speaks."""
        return self._began

    @property
    def open(self) -> Segment | None:
        """From the pre-roll to the newest sample, while somebody speaks."""
        return None if self._began is None else self._tape.copy(self._began, self._tape.end)

    def take(self, samples: np.ndarray) -> list[np.ndarray]:
        """Take samples; every window that is whole now."""
        self._tape.append(samples)
        self._waiting = np.concatenate([self._waiting, self._resampler.feed(samples)])
        whole = len(self._waiting) // WINDOW * WINDOW
        windows, self._waiting = self._waiting[:whole].reshape(-1, WINDOW), self._waiting[whole:]
        return list(windows)

    def judged(self, speech: Sequence[float]) -> list[Happening]:
        """What began and ended in the windows."""
        return [event for probability in speech for event in self._turn(probability)]

    def feed(self, samples: np.ndarray) -> list[Happening]:
        """Judge every window that is whole now."""
        return self.judged([self._ear(window) for window in self.take(samples)])

    def flush(self) -> list[Segment]:
        """End the utterance at the newest sample; nothing where nobody speaks."""
        return [] if self._began is None else [self._end(self._tape.end)]

    def _turn(self, speech: float) -> list[Happening]:
        self._windows += 1
        now = min(self._tape.end, self._windows * WINDOW * self._rate // LISTENING_RATE)
        if self._began is None:
            return self._turn_in_silence(speech, now)
        return self._turn_in_speech(speech, now, self._began)

    def _turn_in_silence(self, speech: float, now: int) -> list[Happening]:
        self._loud = self._loud + 1 if speech >= self._rules.threshold else 0
        first = now - max(1, self._loud) * WINDOW * self._rate // LISTENING_RATE
        earliest = max(self._tape.start, first - self._samples(self._rules.pre_roll_ms))
        if self._milliseconds(self._loud) < self._rules.start_ms or not self._loud:
            self._tape.forget(earliest)
            return []
        self._began, self._quiet, self._spoken_until = earliest, 0, now
        return [Began(earliest)]

    def _turn_in_speech(self, speech: float, now: int, began: int) -> list[Happening]:
        if speech >= self._rules.threshold:
            self._quiet, self._spoken_until, self._paused = 0, now, False
        elif self._quiet or speech < self._rules.threshold - _RELEASE:
            self._quiet += 1
        if self._quiet and self._milliseconds(self._quiet) >= self._rules.stop_ms:
            return [self._end(min(now, self._spoken_until + self._samples(self._rules.post_roll_ms)))]
        longest = self._samples(self._rules.longest_ms)
        if now - began >= longest:
            self._began = began + longest
            return [self._tape.cut(began, began + longest, forced=True)]
        return self._pause()

    def _pause(self) -> list[Happening]:
        waited = self._rules.eou_ms and self._milliseconds(self._quiet) >= self._rules.eou_ms
        if self._paused or not waited:
            return []
        self._paused = True
        return [Paused(self._spoken_until)]

    def _end(self, at: int) -> Segment:
        began, self._began, self._loud, self._paused = self._began or 0, None, 0, False
        return self._tape.cut(began, at)

    def _samples(self, milliseconds: int) -> int:
        return milliseconds * self._rate // 1000

    @staticmethod
    def _milliseconds(windows: int) -> float:
        return windows * WINDOW * 1000 / LISTENING_RATE
