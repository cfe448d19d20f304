"""Stores that fail, hang, lie and come back, under live streams."""

from __future__ import annotations

import asyncio
import random

import pytest

from asrlife.methods.online.state import State
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.state.entry import Address, Quota, StoreError
from asrlife_server.state.memory import MemoryStore
from tests.server.keeping import AE, ANNA, FULL, QUOTA, Failing, after, begun, finished, kept, keyed, restored, spoken
from tests.server.redis_server import RedisServer


async def test_row_22_redis_that_is_killed_while_serving_ends_no_stream_and_loses_nothing(serving, asked, noise, tmp_path, undisturbed):
    redis = RedisServer(tmp_path)
    with redis as url:
        loopback = await serving(**{"state.backend": "redis", "state.url": url, "state.retry_s": 0.05})
        talk, _ = await begun(loopback, asked, adaptation=keyed())
        assert (await spoken(talk, noise, 1))[1].kind == AE.PERSISTED
        async with undisturbed(loopback):  # keeps nothing, and ends while there is no store
            await asyncio.to_thread(redis.kill)
            _, event = await spoken(talk, noise, 2)
            assert event.kind == AE.PERSIST_FAILED and "redis: " in event.reason
            late, opened = await begun(loopback, asked, adaptation=keyed("berta"))
            assert opened.state_version == 0 and not (await restored(late)).restored
        await asyncio.to_thread(redis.start)
        while loopback.server.keeper.residents.dirty:
            await asyncio.sleep(0.02)
        assert (await spoken(talk, noise, 3))[1].state_version == 3
        await finished(talk)
        await finished(late)
        again = await serving(**{"state.backend": "redis", "state.url": url})
        talk, opened = await begun(again, asked, adaptation=keyed())
        assert opened.state_version == 3 and after((await spoken(talk, noise, 4))[0]) == 3
        await finished(talk)
        await again.server.stop(0)
        await loopback.server.stop(0)


@pytest.fixture
def failing():
    return Failing(MemoryStore(QUOTA))


async def test_row_22_a_store_that_fails_ends_no_stream_and_is_tried_again(serving, asked, noise, failing, beside):
    loopback = await serving(failing, **{"state.retry_s": 0.05})
    await beside(loopback)
    seen = []
    loopback.server.keeper._observe = seen.append
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    failing.fault = FULL
    refinement, event = await spoken(talk, noise, 2)
    assert (event.kind, event.state_version) == (AE.PERSIST_FAILED, 2) and "disk is full" in event.reason
    warning = await talk.next("warning")
    assert (warning.code, warning.field) == ("PERSIST_FAILED", "config.adaptation.persist") and "tried again" in warning.text
    refinement, event = await spoken(talk, noise, 3)
    assert after(refinement) == 2 and event.kind == AE.PERSIST_FAILED  # it learns on in memory
    assert seen.count("persist_failed") >= 2 and failing.inner.history(ANNA)[0].version == 1
    failing.fault = None
    while failing.inner.history(ANNA)[0].version < 3:
        await asyncio.sleep(0.01)
    assert (await spoken(talk, noise, 4))[1].kind == AE.PERSISTED
    await finished(talk)
    assert [entry.version for entry in failing.inner.history(ANNA)] == [4, 3, 1]


async def test_a_clean_start_while_the_store_is_away_is_never_written_over_what_it_holds(serving, asked, noise, failing):
    loopback = await serving(failing)
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    await finished(talk)
    reader, _ = await begun(loopback, asked, adaptation=keyed(read_only=True))
    loopback.server.keeper.residents.peek(ANNA).draft = None
    failing.fault = FULL
    talk, opened = await begun(loopback, asked, adaptation=keyed())
    assert opened.state_version == 0 and not (await restored(talk)).restored
    failing.fault = None
    _, event = await spoken(talk, noise, 2)
    assert event.kind == AE.PERSIST_FAILED and "1 is there" in event.reason
    await finished(talk)
    await finished(reader)
    assert [entry.version for entry in failing.inner.history(ANNA)] == [1]


async def test_a_state_that_is_in_memory_only_is_there_for_the_next_stream_and_written_at_last(serving, asked, noise, failing):
    loopback = await serving(failing, **{"state.retry_s": 60})
    failing.fault = FULL
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    event = await restored(talk)
    assert not event.restored and "disk is full" in event.reason
    assert (await spoken(talk, noise, 1))[1].kind == AE.PERSIST_FAILED
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()  # one last attempt before `closed`
    assert rest[-1].HasField("closed") and any(r.adaptation_event.kind == AE.PERSIST_FAILED for r in rest)
    talk, opened = await begun(loopback, asked, adaptation=keyed())
    assert opened.state_version == 1 and (await restored(talk)).restored
    assert after((await spoken(talk, noise, 2))[0]) == 1
    talk.call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 5)
    failing.fault = None
    await loopback.server.stop(0)
    assert failing.inner.history(ANNA)[0].version == 2


async def test_after_the_last_attempt_a_state_nobody_uses_is_given_up_and_counted(serving, asked, noise, failing):
    loopback = await serving(failing, **{"state.retry_s": 0.01, "state.retries": 2})
    failing.fault = FULL
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    talk.call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 5)
    while not loopback.server.keeper.counts["lost"]:
        await asyncio.sleep(0.01)
    assert failing.puts <= 5 and len(loopback.server.keeper.residents) == 0


async def test_an_answer_that_was_lost_is_no_conflict(serving, asked, noise, failing):
    loopback = await serving(failing, **{"state.retry_s": 0.01})
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    failing.after = StoreError("redis: timeout")
    assert (await spoken(talk, noise, 1))[1].kind == AE.PERSIST_FAILED
    while loopback.server.keeper.residents.dirty:
        await asyncio.sleep(0.01)
    assert (await spoken(talk, noise, 2))[1].kind == AE.PERSISTED
    assert loopback.server.keeper.counts["conflicts"] == 0
    await finished(talk)


async def test_row_22_a_store_that_hangs_holds_no_stream(serving, asked, noise, failing, undisturbed):
    loopback = await serving(failing, **{"state.timeout_s": 0.2})
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    async with undisturbed(loopback):  # ends while the store hangs
        failing.gate.clear()
        _, event = await spoken(talk, noise, 1)
        assert event.kind == AE.PERSIST_FAILED and "longer than 0.2 s" in event.reason
        assert after((await spoken(talk, noise, 2))[0]) == 1
    await finished(talk)
    failing.gate.set()
    while failing.inner.history(ANNA)[:1] == () or failing.inner.history(ANNA)[0].version < 2:
        await asyncio.sleep(0.01)


async def test_a_write_that_a_cancel_cuts_short_is_carried_out(serving, asked, noise, failing):
    loopback = await serving(failing)
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    failing.gate.clear()
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.next("refinement")
    talk.call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 5)
    failing.gate.set()
    talk, opened = await begun(loopback, asked, adaptation=keyed())  # waits for it
    assert opened.state_version == 1 and failing.inner.history(ANNA)[0].version == 1
    await finished(talk)


class Flaky(Failing):
    """Fails now and then, before or after it has done what it was asked for."""

    def __init__(self, inner, seed):
        super().__init__(inner)
        self.rng = random.Random(seed)

    def put(self, *arguments):
        chance = self.rng.random()
        if chance < 0.25:
            raise StoreError("gone")
        self.inner.put(*arguments)
        if chance < 0.5:
            raise StoreError("timeout")

    def history(self, *arguments):
        if self.rng.random() < 0.1:
            raise StoreError("gone")
        return self.inner.history(*arguments)


@pytest.mark.parametrize("seed", range(3))
async def test_streams_that_come_and_go_over_a_flaky_store_lose_no_update(serving, asked, noise, seed):
    flaky, rng = Flaky(MemoryStore(Quota(1000, 10**8, 100)), seed), random.Random(seed)
    loopback = await serving(flaky, **{"state.retry_s": 0.005, "state.retries": 20, "state.resident_bytes": 0})
    written = dict.fromkeys("abc", 0)

    async def caller(number):
        for turn in range(3):
            key = rng.choice("abc")
            talk, opened = await begun(loopback, asked, adaptation=keyed(key))
            keeps = not opened.config.adaptation.read_only
            for step in range(rng.randint(0, 3)):
                await talk.say(noise(100 * number + 10 * turn + step, 800))
                await talk.send(control=pb.FINALIZE_UTTERANCE)
                refinement = await talk.next("refinement")
                if opened.config.adaptation.read_only:
                    assert refinement.state_version == opened.state_version
                if not keeps:
                    continue
                event = await kept(talk)
                if event.kind == AE.PERSISTED:
                    written[key] = max(written[key], event.state_version)
                else:  # a stream that started clean, as the store could not be read, must not write over what is there, and says so once
                    keeps = "keeps nothing more" not in (await talk.next("warning")).text
            if rng.random() < 0.5:
                talk.call.cancel()
            else:
                await finished(talk)

    await asyncio.gather(*(caller(number) for number in range(6)))
    await asyncio.wait_for(loopback.until_idle(), 120)
    flaky.rng = random.Random()
    flaky.rng.random = lambda: 1.0
    await loopback.server.stop(0)
    for key, least in written.items():
        history = flaky.inner.history(Address("default", key))
        assert [entry.version for entry in history] == sorted({entry.version for entry in history}, reverse=True)
        assert (history[0].version if history else 0) >= least
        for entry in history:
            blob = flaky.inner.get(Address("default", key), entry.version)[1]
            assert len(State.from_bytes(blob, "fake-weights").record["seen"]) == entry.version  # every update is in it
