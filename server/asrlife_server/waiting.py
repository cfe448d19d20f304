"""Waiting with a limit, in a way that can always be broken off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from google.protobuf.message import DecodeError

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.refusal import Refusal, illegible

T = TypeVar("T")
Requests = AsyncIterator[pb.StreamingRequest]


async def within(coming: Awaitable[T], seconds: float) -> T:
    """What `coming` gives; raises asyncio.TimeoutError when it takes longer than `seconds`.

    Until Python 3.12, asyncio.wait_for drops a cancellation that arrives together with the result (python/cpython#86296): a stream that
    was ended went on reading from a client that never pauses.
    """
    task = asyncio.ensure_future(coming)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()


async def awaited(requests: Requests, seconds: float, what: str) -> pb.StreamingRequest | None:
    """The next request, None at the end; refused when it takes longer than `seconds`, or is none."""
    try:
        return await within(anext(requests), seconds)
    except StopAsyncIteration:
        return None
    except DecodeError:
        raise illegible("StreamingRequest") from None
    except (asyncio.TimeoutError, TimeoutError):
        raise Refusal("DEADLINE_EXCEEDED", f"no {what} for {seconds:g} s; send KEEPALIVE while there is nothing to say") from None
