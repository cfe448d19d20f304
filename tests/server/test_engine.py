from __future__ import annotations

import asyncio
import threading

import pytest

from asrlife_server.engine import Engine, Priority
from asrlife_server.refusal import Refusal


@pytest.fixture
def blocked():
    engine = Engine(limit=8)
    begun, go_on = threading.Event(), threading.Event()
    first = engine.submit(Priority.HEAR, lambda: (begun.set(), go_on.wait(20)))
    assert begun.wait(10)
    yield engine, go_on, first
    go_on.set()
    engine.close()


def test_recognition_goes_before_adaptation_and_equals_in_order(blocked):
    engine, go_on, _ = blocked
    ran = []
    asked = [Priority.ADAPT, Priority.INTERIM, Priority.FINAL, Priority.ADAPT, Priority.HEAR, Priority.FINAL]
    jobs = [engine.submit(priority, lambda index=index: ran.append(index)) for index, priority in enumerate(asked)]
    go_on.set()
    for job in jobs:
        job.result(10)
    assert ran == [4, 2, 5, 1, 0, 3]


def test_a_full_queue_refuses(blocked):
    engine, _, _ = blocked
    for _ in range(8):
        engine.submit(Priority.FINAL, int)
    with pytest.raises(Refusal, match="8 jobs are waiting") as error:
        engine.submit(Priority.FINAL, int)
    assert error.value.code == "RESOURCE_EXHAUSTED"


async def test_a_job_whose_stream_has_gone_does_not_run(blocked):
    engine, go_on, _ = blocked
    ran = []
    waiting = asyncio.create_task(engine.run(Priority.FINAL, lambda: ran.append("gone")))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    go_on.set()
    assert (await engine.run(Priority.ADAPT, lambda: "last")).value == "last" and ran == []


async def test_an_error_comes_back_to_who_asked_and_the_thread_lives(blocked):
    engine, go_on, _ = blocked
    go_on.set()
    with pytest.raises(ZeroDivisionError):
        await engine.run(Priority.FINAL, lambda: 1 / 0)
    done = await engine.run(Priority.FINAL, lambda: 7)
    assert done.value == 7 and done.seconds >= 0


def test_a_closed_engine_drops_what_waits_and_refuses_more(blocked):
    engine, go_on, _ = blocked
    waiting = engine.submit(Priority.FINAL, int)
    go_on.set()
    engine.close()
    assert waiting.cancelled() or waiting.result().value == 0
    with pytest.raises(Refusal, match="stopping"):
        engine.submit(Priority.FINAL, int)
