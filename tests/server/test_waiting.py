from __future__ import annotations

import asyncio

import pytest

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.refusal import Refusal
from asrlife_server.waiting import Incoming, within


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


class Coming:
    """Requests that come when they are let in, by a queue."""

    def __init__(self):
        self.queue: asyncio.Queue[pb.StreamingRequest] = asyncio.Queue()

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await self.queue.get()


async def test_a_request_that_does_not_come_is_refused_and_those_that_do_begin_the_wait_anew(monkeypatch):
    loop, coming, ahead = asyncio.get_running_loop(), Coming(), [0.0]
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + ahead[0])
    with Incoming(coming, 60, "audio") as incoming:
        for _ in range(5):
            ahead[0] += 40
            loop.call_later(0.01, coming.queue.put_nowait, pb.StreamingRequest(control=pb.KEEPALIVE))
            assert (await incoming.next()).control == pb.KEEPALIVE
        ahead[0] += 1000  # nobody waits for a request meanwhile
        await asyncio.sleep(0.01)
        loop.call_soon(lambda: ahead.__setitem__(0, ahead[0] + 61))
        with pytest.raises(Refusal) as refused:
            await incoming.next()
    assert refused.value.code == "DEADLINE_EXCEEDED" and refused.value.message.startswith("no audio for 60 s")


async def test_a_stream_that_is_ended_while_it_waits_for_a_request_is_not_late():
    async def read():
        with Incoming(Coming(), 60, "audio") as incoming:
            await incoming.next()

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
