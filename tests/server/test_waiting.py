from __future__ import annotations

import asyncio

import pytest

from asrlife_server.waiting import within


async def test_a_cancellation_that_comes_together_with_the_result_gets_through():
    coming: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(within(coming, 60))
    await asyncio.sleep(0)
    coming.set_result("too late")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_takes_too_long_is_cancelled_and_said():
    coming: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with pytest.raises(asyncio.TimeoutError):
        await within(coming, 0)
    assert coming.cancelled()


async def test_the_result_and_the_error_come_through():
    async def good():
        return 7

    async def bad():
        raise StopAsyncIteration

    assert await within(good(), 60) == 7
    with pytest.raises(StopAsyncIteration):
        await within(bad(), 60)


@pytest.mark.skipif(not hasattr(asyncio.Task, "uncancel"), reason="Python 3.10 does not count who cancelled a task")
async def test_a_cancellation_that_comes_together_with_the_limit_gets_through():
    coming: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(within(coming, 0))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0, waiting.cancel)  # behind the limit's own
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_went_well_is_not_cancelled_later():
    async def good():
        return 7

    assert [await within(good(), 0.01) for _ in range(3)] == [7, 7, 7]
    await asyncio.sleep(0.05)
