"""Waiting with a limit, in a way that can always be broken off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.refusal import Refusal, illegible

T = TypeVar("T")
Requests = AsyncIterator[pb.StreamingRequest]


async def within(coming: Awaitable[T], seconds: float) -> T:
    """What `coming` gives; cancels it and raises asyncio.TimeoutError when it takes longer than `seconds`.

    Until Python 3.12, asyncio.wait_for drops a cancellation that arrives together with the result (python/cpython#86296): a stream that
    was ended went on reading from a client that never pauses. This one makes no task either, which a chunk of sound would pay for.
    """
    waiting, late = asyncio.current_task(), False
    assert waiting is not None

    def expire() -> None:
        nonlocal late
        late = True
        waiting.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        return await coming
    except asyncio.CancelledError:
        if not late or _wanted_elsewhere(waiting):
            raise
        raise asyncio.TimeoutError from None
    finally:
        timer.cancel()


def _wanted_elsewhere(task: asyncio.Task[Any]) -> bool:
    """Whether somebody else has cancelled the task as well; Python 3.10 cannot tell."""
    return hasattr(task, "uncancel") and task.uncancel() > 0


async def awaited(requests: Requests, seconds: float, what: str) -> pb.StreamingRequest | None:
    """The next request of a stream, as `received`."""
    late = f"no {what} for {seconds:g} s; send KEEPALIVE while there is nothing to say"
    return await received(requests, seconds, "StreamingRequest", late)


async def received(messages: AsyncIterator[T], seconds: float, kind: str, late: str) -> T | None:
    """The next message, None at the end; refused in the words of `late` when it takes longer than `seconds`, or when it is no `kind`."""
    try:
        return await within(anext(messages), seconds)
    except StopAsyncIteration:
        return None
    except DecodeError:
        raise illegible(kind) from None
    except (asyncio.TimeoutError, TimeoutError):
        raise Refusal("DEADLINE_EXCEEDED", late) from None
