"""Waiting with a limit, in a way that can always be broken off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


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
