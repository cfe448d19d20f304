"""Who is served when, what goes together, and what a failure costs whom."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from asrlife_server.config import Batching
from asrlife_server.engine import Engine, Late, Priority
from asrlife_server.jobs import Job, Owner, Task
from asrlife_server.refusal import Refusal
from asrlife_server.turns import Turns


@dataclass
class Counting:
    """A model that doubles numbers, remembers its calls, has no room for more than `room` at once, and cannot double None."""

    room: int = 100
    calls: list[list[Any]] = field(default_factory=list)

    def twin(self):
        return self

    def doubled(self, numbers):
        self.calls.append(list(numbers))
        if len(numbers) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * number for number in numbers]


@dataclass
class Held:
    """An engine whose threads are held up by a job each, until `go_on`."""

    engine: Engine
    model: Counting
    told: list[Any]
    released: threading.Event = field(default_factory=threading.Event)

    def hold(self) -> None:
        begun = [threading.Event() for _ in (Priority.HEAR, Priority.FINAL, Priority.ADAPT)]
        for kind, event in zip((Priority.HEAR, Priority.FINAL, Priority.ADAPT), begun, strict=True):
            self.engine.submit(kind, lambda event=event: (event.set(), self.released.wait(60)))
        assert all(event.wait(20) for event in begun)

    def number(self, kind: Priority, value: Any, tenant: str = "t", stream: str | None = None, key: Any = "number") -> Any:
        task = Task(value, lambda model, numbers: model.doubled(numbers), key)
        return self.engine.submit(kind, task, Owner(tenant, str(value) if stream is None else stream))


@pytest.fixture
def held():
    """Makes engines that are held up."""
    made = []

    def make(most: int = 1, room: int = 100, limit: int = 4096, hold: bool = True) -> Held:
        model, told = Counting(room), []
        engine = Engine(model, Batching(recognitions=most, adaptations=most), limit, observe=lambda *row: told.append(row))
        made.append(Held(engine, model, told))
        if hold:
            made[-1].hold()
        return made[-1]

    yield make
    for one in made:
        one.released.set()
        one.engine.close()


def ended(held, *futures):
    held.released.set()
    return [future.result(20).value for future in futures]


def test_finals_go_before_interim_results_and_equals_in_order(held):
    one = held()
    kinds = [Priority.INTERIM, Priority.FINAL, Priority.INTERIM, Priority.FINAL]
    assert ended(one, *[one.number(kind, index) for index, kind in enumerate(kinds)]) == [0, 2, 4, 6]
    assert one.model.calls == [[1], [3], [0], [2]]


def test_a_step_that_runs_holds_up_neither_finals_nor_ears(held):
    one = held(hold=False)
    begun, go_on = threading.Event(), threading.Event()
    step = one.engine.submit(Priority.ADAPT, lambda: (begun.set(), go_on.wait(60)))
    assert begun.wait(20)
    for kind in (Priority.HEAR, Priority.FINAL, Priority.INTERIM):
        assert one.number(kind, 4).result(20).value == 8
    assert not step.done()
    go_on.set()


@pytest.mark.parametrize("kind", [Priority.FINAL, Priority.INTERIM, Priority.ADAPT])
def test_a_stream_waits_one_turn_whatever_another_has_waiting(held, kind):
    one = held()
    flood = [one.number(kind, index, stream="flood") for index in range(100)]
    calm = one.number(kind, 1000, stream="calm")
    assert ended(one, calm, flood[-1]) == [2000, 198]
    assert one.model.calls[:3] == [[0], [1000], [1]]


def test_ears_listen_to_one_chunk_of_each_stream_at_a_time(held):
    one = held()
    flood = [one.number(Priority.HEAR, index, stream="flood") for index in range(100)]
    calm = one.number(Priority.HEAR, 1000, stream="calm")
    assert ended(one, calm, flood[-1]) == [2000, 198]
    assert one.model.calls[:2] == [[0, 1000], [1]]


def test_a_tenant_waits_one_turn_however_many_streams_another_has(held):
    one = held()
    flood = [one.number(Priority.FINAL, index, "flood") for index in range(100)]
    calm = [one.number(Priority.FINAL, 1000 + index, "calm", "c") for index in range(2)]
    ended(one, *flood, *calm)
    assert one.model.calls[:5] == [[0], [1000], [1], [1001], [2]]
    assert len(one.model.calls) == 102


def test_tenants_share_seconds_of_sound_and_not_jobs():
    """Ten streams of each, all with work waiting; one's utterances are of 30 s, the other's of 3 s, the third's of no length."""
    turns, lengths = Turns(), {"long": 30.0, "short": 3.0, "nothing": 0.0}
    for tenant, seconds in lengths.items():
        for index in range(3000):
            turns.put(job(tenant, str(index % 10), seconds))
    got = dict.fromkeys(lengths, 0.0)
    while sum(got.values()) < 600:
        (taken,) = turns.take(1)
        got[taken.owner.tenant] += max(0.1, taken.task.seconds)
        assert max(got.values()) - min(got.values()) <= 30 + 3


def test_streams_of_a_tenant_share_seconds_of_sound():
    turns = Turns()
    for seconds in (20.0, 1.0):
        for _ in range(200):
            turns.put(job("t", str(seconds), seconds))
    first = [turns.take(1)[0].task.seconds for _ in range(1 + 20 + 1 + 20)]
    assert first == [20.0] + [1.0] * 20 + [20.0] + [1.0] * 20


def test_calls_of_several_jobs_are_shared_by_seconds_too():
    turns = Turns()
    for index in range(400):
        turns.put(job("long", str(index), 30.0, "k"))
        turns.put(job("short", str(index), 3.0, "k"))
    first = [[taken.owner.tenant for taken in turns.take(11)] for _ in range(5)]
    assert [row.count("long") for row in first] == [1] * 5


def test_who_was_away_has_saved_nothing_up_and_who_comes_back_soon_owes_what_it_got():
    turns = Turns()
    for _ in range(30):
        turns.put(job("busy", "b", 10.0))
    for _ in range(10):
        turns.take(1)
    for _ in range(30):
        turns.put(job("new", "n", 10.0))
    assert [turns.take(1)[0].owner.tenant for _ in range(6)] == ["new", "busy"] * 3
    turns.put(job("third", "t", 60.0))
    while turns.take(1)[0].owner.tenant != "third":
        pass
    turns.put(job("third", "t", 60.0))
    assert [turns.take(1)[0].owner.tenant for _ in range(10)].count("third") == 0


def test_after_a_rest_nobody_owes_anything(held):
    one = held(hold=False)
    assert one.engine.submit(Priority.FINAL, sound(600.0), Owner("heavy", "h")).result(20).value == 600.0
    queue = one.engine._workers[Priority.FINAL]._queues[Priority.FINAL]
    for _ in range(2000):  # until the thread has found nothing to do
        if not queue._tenants._owing:
            break
        time.sleep(0.01)
    one.hold()
    order = []
    heavy = one.engine.submit(Priority.FINAL, lambda: order.append("heavy"), Owner("heavy", "h"))
    others = [one.engine.submit(Priority.FINAL, lambda: order.append("other"), Owner("other", "o")) for _ in range(20)]
    ended(one, heavy, *others)
    assert order.index("heavy") <= 1


def sound(seconds):
    return Task(seconds, lambda model, items: list(items), None, seconds)


def job(tenant, stream, seconds, key=None):
    return Job(Task(None, lambda model, items: items, key, seconds), Owner(tenant, stream))


def test_who_comes_back_at_once_does_not_come_before_who_waits(held):
    one = held(hold=False)
    order = []

    def again(left):
        order.append("eager")
        if left:
            one.engine.submit(Priority.FINAL, lambda: again(left - 1), Owner("t", "eager"))

    one.hold()
    one.engine.submit(Priority.FINAL, lambda: again(50), Owner("t", "eager"))
    calm = [one.engine.submit(Priority.FINAL, lambda: order.append("calm"), Owner("t", "calm")) for _ in range(3)]
    ended(one, *calm)
    assert order[:6] == ["eager", "calm"] * 3


def test_a_batch_takes_one_job_of_each_stream_in_their_turns(held):
    one = held(most=4)
    jobs = [one.number(Priority.FINAL, index, stream=str(index % 3)) for index in range(6)]
    other = one.number(Priority.FINAL, 7, key="other")
    alone = one.number(Priority.FINAL, 8, key=None)
    ended(one, *jobs, other, alone)
    assert one.model.calls == [[0, 1, 2], [7], [8], [3, 4, 5]]


def test_a_batch_that_could_be_larger_waits_for_others(held):
    model = Counting()
    engine = Engine(model, Batching(recognitions=2, wait_ms=1000))
    one = Held(engine, model, [])
    assert ended(one, one.number(Priority.FINAL, 1), one.number(Priority.FINAL, 2)) == [2, 4]
    engine.close()
    assert model.calls == [[1, 2]]


def test_who_is_at_fault_fails_alone(held):
    one = held(most=8)
    jobs = [one.number(Priority.FINAL, value, stream=str(index)) for index, value in enumerate([1, 2, None, 3, 4])]
    assert ended(one, *jobs[:2], *jobs[3:]) == [2, 4, 6, 8]
    with pytest.raises(TypeError):
        jobs[2].result(20)
    assert one.model.calls == [[1, 2, None, 3, 4], [1, 2], [None, 3, 4], [None], [3, 4]]


@pytest.mark.parametrize("room", [1, 3])
def test_where_memory_runs_out_smaller_batches_are_tried(held, room):
    one = held(most=8, room=room)
    jobs = [one.number(Priority.ADAPT, index) for index in range(8)]
    assert ended(one, *jobs) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert sorted(number for call in one.model.calls if len(call) <= room for number in call) == list(range(8))


def test_what_does_not_fit_alone_fails_alone(held):
    one = held(most=8, room=0)
    jobs = [one.number(Priority.ADAPT, index) for index in range(3)]
    one.released.set()
    for job in jobs:
        with pytest.raises(torch.OutOfMemoryError):
            job.result(20)


class Death(BaseException):
    """What no wall catches."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", [Priority.HEAR, Priority.FINAL, Priority.ADAPT])
def test_a_worker_that_dies_takes_along_what_it_was_at_and_nothing_else(held, kind):
    one = held()

    def die():
        raise Death

    deadly = one.engine.submit(kind, die, Owner("t", "victim"))
    behind = one.number(kind, 3)
    assert ended(one, behind) == [6]
    with pytest.raises(Refusal, match="session_id=victim") as error:
        deadly.result(20)
    assert (error.value.code, error.value.retry_s) == ("UNAVAILABLE", 1)
    assert one.number(kind, 4).result(20).value == 8


async def test_a_job_that_has_not_begun_in_time_is_given_up_and_one_that_has_is_not(held):
    one = held()
    now = asyncio.get_running_loop().time()
    with pytest.raises(Late):
        await one.engine.run(Priority.ADAPT, lambda: "late", Owner("t", "late"), now)
    running = asyncio.create_task(one.engine.run(Priority.ADAPT, lambda: "in time", Owner("t", "in time"), now + 1000))
    await asyncio.sleep(0)
    one.released.set()
    assert (await running).value == "in time"


def test_a_full_queue_refuses(held):
    one = held(limit=8)
    for index in range(8):
        one.number(Priority.FINAL, index)
    with pytest.raises(Refusal, match="8 jobs are waiting") as error:
        one.number(Priority.FINAL, 9)
    assert error.value.code == "RESOURCE_EXHAUSTED"


async def test_a_job_whose_stream_has_gone_does_not_run(held):
    one = held(most=4)
    task = Task(1, lambda model, numbers: model.doubled(numbers), "number")
    waiting = asyncio.create_task(one.engine.run(Priority.FINAL, task, Owner("t", "gone")))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    one.released.set()
    assert (await asyncio.wrap_future(one.number(Priority.FINAL, 2))).value == 4
    assert one.model.calls == [[2]]


async def test_an_error_comes_back_to_who_asked_and_the_thread_lives(held):
    one = held(hold=False)
    with pytest.raises(ZeroDivisionError):
        await one.engine.run(Priority.FINAL, lambda: 1 / 0)
    done = await one.engine.run(Priority.FINAL, lambda: 7)
    assert done.value == 7 and done.seconds >= 0


def test_it_is_observed_how_many_jobs_ran_together_and_how_long_each_waited(held):
    one = held(most=4)
    ended(one, *[one.number(Priority.ADAPT, index) for index in range(3)])
    told = [(row, value) for row, value, label in one.told if label == "adapt"]
    assert [value for row, value in told if row == "batch_size"] == [1, 3]
    waits = [value for row, value in told if row == "batch_wait_seconds"]
    assert len(waits) == 4 and min(waits) >= 0


def test_a_closed_engine_drops_what_waits_and_refuses_more(held):
    one = held()
    waiting = one.number(Priority.FINAL, 1)
    one.released.set()
    one.engine.close()
    assert waiting.cancelled() or waiting.result().value == 2
    with pytest.raises(Refusal, match="stopping"):
        one.number(Priority.FINAL, 2)
