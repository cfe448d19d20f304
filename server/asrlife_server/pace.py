"""Whether a stream is somebody speaking, and how long its lessons may wait."""

from __future__ import annotations

import asyncio

_AHEAD = 2.0  # s; a client that was cut off may send as much at once, and is live all the same


class Pace:
    """A live stream has no use for an old lesson: one must begin within `wait_ms` of its final, None of them must.

    A stream that has ever been far ahead of the clock is a recording. It can wait, and is held back instead: it loses no lesson.
    """

    def __init__(self, wait_ms: int | None) -> None:
        self._wait = None if wait_ms is None else wait_ms / 1000
        self._began = self._now
        self._recording = False

    def sent(self, seconds: float) -> None:
        """So much sound has come since the stream began."""
        self._recording = self._recording or seconds > self._now - self._began + _AHEAD

    @property
    def due(self) -> float | None:
        """The time of the loop before which a lesson must begin whose final is out now."""
        return None if self._wait is None or self._recording else self._now + self._wait

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()
