"""What waits to be sent on one stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.refusal import Refusal


class Outbox:
    """A queue of responses of at most `limit`; a newer interim result takes the place of an older one that is still unsent."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[pb.StreamingResponse] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, response: pb.StreamingResponse) -> None:
        """Queue a response; a client that leaves too many unread is refused with RESOURCE_EXHAUSTED."""
        if _interim(response):
            self._waiting = deque(each for each in self._waiting if not _interim(each))
        if len(self._waiting) >= self._limit:
            raise Refusal("RESOURCE_EXHAUSTED", f"{self._limit} responses are unread; read them while you send")
        self._waiting.append(response)
        self._changed.set()

    def close(self) -> None:
        """Let the reader end after what waits."""
        self._closed = True
        self._changed.set()

    async def drained(self) -> AsyncIterator[pb.StreamingResponse]:
        """Responses in their order, until the box is closed and empty."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._closed:
                return
            self._changed.clear()
            await self._changed.wait()


def _interim(response: pb.StreamingResponse) -> bool:
    return bool(response.WhichOneof("response") == "result" and not response.result.is_final)
