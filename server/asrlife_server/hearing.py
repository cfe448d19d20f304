"""Chunks of sound of several streams, whose windows are judged in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import ears
from asrlife_server.endpointing import Judge
from asrlife_server.jobs import Task
from asrlife_server.refusal import Refusal
from asrlife_server.work import Heard, Messages

_SECOND = 32_000  # bytes, of what most clients send; how long compressed sound is nobody knows yet


class Listener(Protocol):
    """A stream that takes a chunk in two parts."""

    @property
    def judge(self) -> Judge | None:
        """Who judges its windows."""

    def taken(self, audio: pb.Audio) -> tuple[Messages, list[np.ndarray]]:
        """Put a chunk away: what is odd about it, and the windows that are to be judged."""

    def judged(self, speech: Sequence[float]) -> Heard:
        """What the chunk led to."""


Outcome = Heard | Refusal


def task(listener: Listener, audio: pb.Audio) -> Task[Outcome]:
    """To take a chunk. A refusal is an answer: to try a chunk again would be to hear it twice."""
    return Task((listener, audio), _heard, "hearing", len(audio.content) / _SECOND)


def _heard(model: Any, items: Sequence[tuple[Listener, pb.Audio]]) -> list[Outcome]:
    taken = [_taken(*item) for item in items]
    windows = [[] if isinstance(one, Refusal) else one[1] for one in taken]
    speech = ears.judged([listener.judge for listener, _ in items], windows)
    return [
        one if isinstance(one, Refusal) else _led_to(listener, one[0], probabilities)
        for (listener, _), one, probabilities in zip(items, taken, speech, strict=True)
    ]


def _taken(listener: Listener, audio: pb.Audio) -> tuple[Messages, list[np.ndarray]] | Refusal:
    try:
        return listener.taken(audio)
    except Refusal as refusal:
        return refusal


def _led_to(listener: Listener, messages: Messages, speech: Sequence[float]) -> Heard:
    heard = listener.judged(speech)
    return Heard(messages + heard.messages, heard.work, heard.over)
