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
_REQUEST = "StreamingRequest"


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
    return await received(requests, seconds, _REQUEST, _late(what, seconds))


class Incoming:
    """A stream's requests for the task that enters; each of them is waited for as `awaited` waits.

    One timer serves them all: to set one for each chunk of sound and to clear it again takes longer than to put the chunk away.
    """

    def __init__(self, requests: Requests, seconds: float, what: str) -> None:
        self._requests, self._seconds, self._what = requests, seconds, what
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None  # when the wait began that is under way
        self._late = False

    def __enter__(self) -> Incoming:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    async def next(self) -> pb.StreamingRequest | None:
        """The next request, None at the end; refused where it takes too long or is none."""
        self._since = self._loop.time()
        try:
            return await anext(self._requests)
        except StopAsyncIteration:
            return None
        except DecodeError:
            raise illegible(_REQUEST) from None
        except asyncio.CancelledError:
            if not self._late or _wanted_elsewhere(self._task):
                raise
            raise Refusal("DEADLINE_EXCEEDED", _late(self._what, self._seconds)) from None
        finally:
            self._since = None

    def _look(self) -> None:
        left = self._seconds if self._since is None else self._since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._late = True
            self._task.cancel()


def _late(what: str, seconds: float) -> str:
    return f"no {what} for {seconds:g} s; send KEEPALIVE while there is nothing to say"


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
