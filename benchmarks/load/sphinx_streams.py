"""Streams in a worker process of the peer: a pocketsphinx decoder and an endpointer for each."""

from __future__ import annotations

import time
from typing import Any

import pocketsphinx

RATE = 16_000  # Hz
WINDOW, RATIO = 0.51, 0.9  # 17 frames of 30 ms, of which 16 must be silent: 480 ms
PRE_ROLL, POST_ROLL = 0.3, 0.24  # s around speech in the times that are told, as the server of asrlife tells them
Said = tuple[int, str, float, float, bool]  # utterance, text, start, end (s), is_final
_STREAMS: dict[int, Hearing] = {}  # of this worker process
_PASSES = {"fwdflat": True, "bestpath": True}  # over a whole utterance at its end
_IDLE: list[tuple[Any, str]] = []  # decoders that no stream uses, with the cepstral means they began with


class Hearing:
    """One stream in its worker."""

    def __init__(self, interval: float) -> None:
        self.decoder, self.means = _IDLE.pop() if _IDLE else _loaded()
        self.ears = pocketsphinx.Endpointer(window=WINDOW, ratio=RATIO, sample_rate=RATE)
        self.interval, self.seconds, self.shown, self.text = interval, 0.0, 0.0, ""
        self.origin = 0.0  # s of the stream at which these ears began
        self.rest, self.index = b"", 0

    def take(self, pcm: bytes) -> list[Said]:
        """Take sound: what is final now, and else the text so far where one is due."""
        self.rest += pcm
        self.seconds += len(pcm) / 2 / RATE
        size, said = self.ears.frame_bytes, list[Said]()
        while len(self.rest) >= size:
            frame, self.rest = self.rest[:size], self.rest[size:]
            said += self._frame(frame)
        return said or self._interim()

    def finalise(self) -> list[Said]:
        """End the utterance under way here."""
        said = list[Said]()
        if self.ears.in_speech:
            self.decoder.process_raw(self.ears.end_stream(self.rest) or b"", False, False)
            said.append(self._final())
        self.ears = pocketsphinx.Endpointer(window=WINDOW, ratio=RATIO, sample_rate=RATE)
        self.origin, self.rest = self.seconds, b""
        return said

    def _frame(self, frame: bytes) -> list[Said]:
        before = self.ears.in_speech
        speech = self.ears.process(frame)
        if speech is None:
            return []
        if not before:
            self.decoder.start_utt()
        self.decoder.process_raw(speech, False, False)
        return [] if self.ears.in_speech else [self._final()]

    def _final(self) -> Said:
        self.decoder.end_utt()
        said = (self.index, self._heard(), self._start(), min(self.seconds, self.origin + self.ears.speech_end + POST_ROLL), True)
        self.index, self.text = self.index + 1, ""
        return said

    def _interim(self) -> list[Said]:
        if not self.interval or not self.ears.in_speech or self.seconds - self.shown < self.interval:
            return []
        before, self.text = self.text, self._heard()
        if self.text == before:
            return []
        self.shown = self.seconds
        return [(self.index, self.text, self._start(), self.seconds, False)]

    def _heard(self) -> str:
        found = self.decoder.hyp()
        return "" if found is None else str(found.hypstr)

    def _start(self) -> float:
        return max(0.0, self.origin + float(self.ears.speech_start) - PRE_ROLL)


def _loaded() -> tuple[Any, str]:
    decoder = pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL", **_PASSES)
    return decoder, decoder.get_cmn(False)


def prepare(passes: bool) -> None:
    """In a worker, before its first stream: whether decoders go over an utterance again when it has ended."""
    _PASSES.update(dict.fromkeys(_PASSES, passes))


def begin(stream: int, interval: float) -> None:
    """In a worker: take a stream on."""
    _STREAMS[stream] = Hearing(interval)


def hear(stream: int, pcm: bytes | None) -> tuple[list[Said], float]:
    """In a worker: what a chunk leads to, or the end of an utterance where there is none; and the CPU-seconds it took."""
    began, hearing = time.process_time(), _STREAMS[stream]
    said = hearing.finalise() if pcm is None else hearing.take(pcm)
    return said, time.process_time() - began


def end(stream: int) -> None:
    """In a worker: let a stream go, wherever it is, and make its decoder as if it had heard nothing."""
    hearing = _STREAMS.pop(stream, None)
    if hearing is not None:
        if hearing.ears.in_speech:
            hearing.decoder.end_utt()
        hearing.decoder.set_cmn(hearing.means)
        _IDLE.append((hearing.decoder, hearing.means))
