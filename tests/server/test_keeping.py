"""State that outlives a stream, through a real socket: keys, sessions, writers, and stores that fail."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import replace

import numpy as np
import pytest

from asrlife.errors import InputError
from asrlife.methods.online.state import State
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.state.disk import DiskStore
from asrlife_server.state.entry import NOTHING, Address, Entry, Quota, StoreError, checksum
from asrlife_server.state.memory import MemoryStore
from tests.server.redis_server import RedisServer

A, AE = pb.Adaptation, pb.AdaptationEvent
QUOTA = Quota(16, 10**8, 100)
ANNA = Address("default", "anna")


def keyed(key="anna", method="count", **more):
    return pb.Adaptation(method=method, adaptation_key=key, persist=A.KEY, **more)


async def begun(loopback, asked, **fields):
    """A stream with its `opened` and what came of the state that was there."""
    talk = loopback.talk()
    await talk.send(config=asked(**fields))
    return talk, await talk.next("opened")


async def spoken(talk, noise, seed=1, samples=1600):
    """Say one utterance; its refinement and the outcome of keeping it."""
    await talk.say(noise(seed, samples))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    refinement = await talk.next("refinement")
    return refinement, await kept(talk)


async def kept(talk):
    while (event := await talk.next("adaptation_event")).kind not in (AE.PERSISTED, AE.PERSIST_FAILED):
        pass
    return event


async def finished(talk):
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    assert await talk.ended() == ("OK", "")
    return rest[-1].closed


def after(refinement):
    return int(refinement.alternatives[0].transcript.rpartition(" ")[2])


async def restored(talk):
    event = await talk.next("adaptation_event")
    assert event.kind == AE.RESTORED and event.HasField("restored")
    return event


async def test_a_key_goes_on_in_the_next_stream_and_after_a_restart(serving, asked, noise, tmp_path):
    where = {"state.backend": "disk", "state.path": str(tmp_path / "state.sqlite")}
    loopback = await serving(**where)
    talk, opened = await begun(loopback, asked, adaptation=keyed())
    assert opened.state_version == 0 and not opened.config.adaptation.read_only
    for seed in (1, 2):
        refinement, event = await spoken(talk, noise, seed)
        assert (event.kind, event.state_version, event.utterance_index) == (AE.PERSISTED, seed, seed - 1)
        assert after(refinement) == seed - 1
    digest = (await finished(talk)).state_digest
    talk, opened = await begun(loopback, asked, adaptation=keyed())
    event = await restored(talk)
    assert (opened.state_version, event.restored, event.state_version) == (2, True, 2)
    assert (await finished(talk)).state_digest == digest
    again = await serving(**where)
    talk, opened = await begun(again, asked, adaptation=keyed())
    assert opened.state_version == 2 and (await restored(talk)).restored
    refinement, event = await spoken(talk, noise, 3)
    assert after(refinement) == 2 and event.state_version == 3
    await finished(talk)


async def test_keys_and_tenants_do_not_meet(serving, asked, noise):
    loopback = await serving()
    loopback.server.service.tenant_of = lambda context: dict(context.invocation_metadata()).get("tenant", "default")
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise)
    await finished(talk)
    talk, opened = await begun(loopback, asked, adaptation=keyed("berta"))
    assert opened.state_version == 0
    await finished(talk)
    stranger = type(talk)(loopback.stub.StreamingRecognize(metadata=(("tenant", "other"),)))
    await stranger.send(config=asked(adaptation=keyed()))
    assert (await stranger.next("opened")).state_version == 0
    await finished(stranger)


async def test_the_second_writer_of_a_key_reads_only_and_the_first_loses_nothing(serving, asked, noise):
    loopback = await serving()
    first, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(first, noise, 1)
    second, opened = await begun(loopback, asked, adaptation=keyed())
    assert opened.config.adaptation.read_only and opened.state_version == 1
    assert (await restored(second)).restored
    for seed in (2, 3):  # each starts from what was loaded
        await second.say(noise(seed, 1600))
        await second.send(control=pb.FINALIZE_UTTERANCE)
        refinement = await second.next("refinement")
        assert after(refinement) == 1 and refinement.state_version == 1
    third = loopback.talk()
    await third.send(config=asked(adaptation=keyed(exclusive=True)))
    assert await third.rest() == []
    code, details = await third.ended()
    assert code == "ABORTED" and "'anna' is being written by another stream" in details
    refinement, event = await spoken(first, noise, 4)
    assert (after(refinement), event.state_version) == (1, 2)
    assert (await finished(second)).state_version == 1
    await finished(first)
    fourth, opened = await begun(loopback, asked, adaptation=keyed(exclusive=True))
    assert opened.state_version == 2 and not opened.config.adaptation.read_only
    await finished(fourth)


async def test_two_servers_on_one_store_lose_no_update(serving, asked, noise, tmp_path):
    where = {"state.backend": "disk", "state.path": str(tmp_path / "state.sqlite")}
    one, other = await serving(**where), await serving(**where)
    first, _ = await begun(one, asked, adaptation=keyed())
    second, _ = await begun(other, asked, adaptation=keyed())
    strict, _ = await begun(other, asked, adaptation=keyed("berta", exclusive=True))
    rival, _ = await begun(one, asked, adaptation=keyed("berta"))
    assert (await spoken(first, noise, 1))[1].kind == AE.PERSISTED
    _, event = await spoken(second, noise, 2)
    assert event.kind == AE.PERSIST_FAILED and "version 0 was expected, 1 is there" in event.reason
    assert "keeps nothing more" in (await second.next("warning")).text
    await second.say(noise(3, 1600))
    await second.send(control=pb.FINALIZE_UTTERANCE)
    assert after(await second.next("refinement")) == 1  # it goes on in memory
    await finished(second)
    assert (await spoken(first, noise, 4))[1].state_version == 2
    await finished(first)
    await spoken(rival, noise, 5)
    await strict.say(noise(6, 1600))
    await strict.send(control=pb.FINALIZE_UTTERANCE)
    await strict.rest()
    code, details = await strict.ended()
    assert code == "ABORTED" and details.startswith("config.adaptation.exclusive: berta: version 0 was expected")
    await finished(rival)


async def test_a_key_can_be_read_without_being_written(serving, asked, noise):
    loopback = await serving()
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise)
    await finished(talk)
    for more, expected in (({"read_only": True}, [1, 1]), ({}, [1, 2])):  # without read_only it learns for itself alone
        talk, opened = await begun(loopback, asked, adaptation=pb.Adaptation(method="count", adaptation_key="anna", **more))
        assert opened.state_version == 1
        found = []
        for seed in (5, 6):
            await talk.say(noise(seed, 1600))
            await talk.send(control=pb.FINALIZE_UTTERANCE)
            found.append(after(await talk.next("refinement")))
        assert found == expected
        await finished(talk)
    talk, opened = await begun(loopback, asked, adaptation=keyed())
    assert opened.state_version == 1
    await finished(talk)


async def test_reset_and_freeze_are_kept_as_they_act(serving, asked, noise):
    loopback = await serving()
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    await talk.send(control=pb.RESET_ADAPTATION)
    event = await kept(talk)
    assert (event.kind, event.state_version) == (AE.PERSISTED, 2)
    await talk.send(control=pb.FREEZE)
    await talk.say(noise(2, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    assert (await kept(talk)).state_version == 2
    await finished(talk)
    talk, opened = await begun(loopback, asked, adaptation=keyed())
    assert opened.state_version == 2
    assert after((await spoken(talk, noise, 3))[0]) == 0
    await finished(talk)


async def test_short_utterances_teach_nothing_where_the_client_says_so(serving, asked, noise):
    talk, opened = await begun(await serving(), asked, adaptation=pb.Adaptation(method="count", min_speech_ms=200))
    assert opened.config.adaptation.min_speech_ms == 200
    for samples in (3199, 3200):
        await talk.say(noise(1, samples))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
    event = await talk.next("adaptation_event")
    assert (event.kind, event.reason) == (AE.SKIPPED, "too short")
    assert after(await talk.next("refinement")) == 0
    await finished(talk)


def session(**more):
    return pb.Adaptation(method="count", persist=A.SESSION, **more)


async def broken_off(loopback, asked, noise, utterances, **fields):
    """A session that breaks off in an utterance after so many committed ones; its id."""
    talk, opened = await begun(loopback, asked, **{"adaptation": session(), **fields})
    for seed in range(utterances):
        await spoken(talk, noise, seed)
    await talk.say(noise(99, 1600))
    talk.call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 10)
    return opened.session_id


async def test_a_session_that_broke_off_goes_on_from_its_last_committed_utterance(serving, asked, noise):
    loopback = await serving()
    name = await broken_off(loopback, asked, noise, 3)
    talk, opened = await begun(loopback, asked, adaptation=session(), session_id=name, resume_after_utterance=7)
    assert opened.session_id == name and opened.config.resume_after_utterance == 2 and opened.state_version == 3
    assert (await restored(talk)).utterance_index == 3
    refinement, event = await spoken(talk, noise, 4)
    assert (refinement.utterance_index, after(refinement), event.utterance_index, event.state_version) == (3, 3, 3, 4)
    assert (await finished(talk)).utterances == 1
    again = loopback.talk()  # a finished session is over
    await again.send(config=asked(adaptation=session(), session_id=name, resume_after_utterance=3))
    assert await again.rest() == []
    code, details = await again.ended()
    assert code == "NOT_FOUND" and name in details


async def test_a_session_is_taken_up_earlier_as_far_as_its_history_reaches(serving, asked, noise):
    loopback = await serving(**{"state.history": 3})
    name = await broken_off(loopback, asked, noise, 5)
    early = loopback.talk()
    await early.send(config=asked(adaptation=session(), session_id=name, resume_after_utterance=1))
    assert await early.rest() == []
    code, details = await early.ended()
    assert code == "OUT_OF_RANGE" and "after 2 to 4" in details
    talk, opened = await begun(loopback, asked, adaptation=session(), session_id=name, resume_after_utterance=3)
    assert (opened.config.resume_after_utterance, opened.state_version) == (3, 6)  # as a change of what is carried, a version of its own
    refinement, _ = await spoken(talk, noise, 9)
    assert (refinement.utterance_index, after(refinement)) == (4, 4)
    await finished(talk)


@pytest.mark.parametrize("method", ["none", "forget"])
async def test_a_session_that_carries_nothing_keeps_its_place(serving, asked, noise, method):
    loopback = await serving()
    adaptation = pb.Adaptation(method=method, persist=A.SESSION)
    if method == "forget":
        loopback.fakes.hook = lambda: (_ for _ in ()).throw(InputError("forgetful"))  # nothing is learnt
    talk, opened = await begun(loopback, asked, adaptation=adaptation)
    for seed in (1, 2):
        await talk.say(noise(seed, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
        assert (await kept(talk)).utterance_index == seed - 1
    talk.call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 5)
    resumed = {"session_id": opened.session_id, "resume_after_utterance": 1}
    talk, opened = await begun(loopback, asked, adaptation=adaptation, **resumed)
    assert opened.config.resume_after_utterance == 1
    await talk.say(noise(3, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    assert (await talk.next("result")).utterance_index == 2
    await finished(talk)


async def test_a_keyed_session_is_taken_up_too(serving, asked, noise):
    loopback = await serving()
    name = await broken_off(loopback, asked, noise, 2, adaptation=keyed(), session_id="tablet-7")
    assert name == "tablet-7"
    talk, opened = await begun(loopback, asked, adaptation=keyed(), session_id=name, resume_after_utterance=1)
    assert opened.state_version == 2
    assert (await spoken(talk, noise, 4))[0].utterance_index == 2
    await finished(talk)


async def test_a_session_that_nobody_took_up_is_forgotten(serving, asked, noise):
    store = MemoryStore(QUOTA)
    loopback = await serving(store, **{"state.session_ttl_s": 0.05})
    name = await broken_off(loopback, asked, noise, 1)
    assert store.keys("default") == (f"session/{name}",)
    await asyncio.sleep(0.1)
    loopback.server.keeper._swept = float("-inf")
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    while store.keys("default"):
        await asyncio.sleep(0.01)
    await finished(talk)


@pytest.mark.parametrize("persist", [A.NONE, A.SESSION])
async def test_a_second_connection_of_a_session_ends_the_first(serving, asked, noise, persist):
    loopback = await serving()
    adaptation = pb.Adaptation(method="count", persist=persist)
    first, _ = await begun(loopback, asked, adaptation=adaptation, session_id="s")
    await first.say(noise(1, 1600))
    await first.send(control=pb.FINALIZE_UTTERANCE)
    await first.next("refinement")
    other = await loopback.opened()
    if persist:
        await kept(first)
    second, opened = await begun(loopback, asked, adaptation=adaptation, session_id="s")
    await first.rest()
    code, details = await first.ended()
    assert code == "ABORTED" and "newer connection" in details
    assert opened.state_version == (1 if persist else 0) and opened.session_id == "s"
    if persist:
        assert (await spoken(second, noise, 2))[0].utterance_index == 1
    await finished(second)
    await finished(other)


async def test_what_a_cancelled_step_learnt_is_not_kept(serving, fakes, asked, noise):
    store, begun_step, go_on = MemoryStore(QUOTA), threading.Event(), threading.Event()
    loopback = await serving(store)
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    fakes.hook = None
    object.__setattr__(
        next(iter(loopback.server.service.streams.values())).session.opening.method, "hook", lambda: (begun_step.set(), go_on.wait(20))
    )
    await talk.say(noise(2, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    assert await asyncio.to_thread(begun_step.wait, 10)
    talk.call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 5)
    go_on.set()
    talk, opened = await begun(loopback, asked, adaptation=keyed())
    assert opened.state_version == 1 and [entry.version for entry in store.history(ANNA)] == [1]
    await finished(talk)


@pytest.mark.parametrize(("fault", "words"), [
    ("base", "base_hash: it belongs to model other-weigh"),
    ("shape", "shape: 'weights' is float32 (5,); the method's is float32 (4,)"),
    ("nan", "NaN: 'weights' holds numbers that are not finite"),
    ("checksum", "checksum: the bytes are not those that were written"),
    ("torn", "no state can be read"),
    ("record", "record: 'seen' is '3'"),
])  # fmt: skip
async def test_a_damaged_state_is_put_in_quarantine_and_the_stream_starts_clean(serving, asked, noise, fakes, fault, words):
    store = MemoryStore(QUOTA)
    loopback = await serving(store)
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise)
    await finished(talk)
    entry, blob = store.get(ANNA)
    bad = damaged(entry, blob, fault)
    store.put(ANNA, *bad, entry.mark)
    loopback.server.keeper.residents.forget(ANNA)
    talk, opened = await begun(loopback, asked, adaptation=keyed())
    event = await restored(talk)
    assert not event.restored and words in event.reason and "quarantine" in event.reason
    assert opened.state_version == 3  # the base, as a version of its own
    assert words in store.get(ANNA, 2)[0].quarantined and store.get(ANNA, 2)[1] == bad[1]
    assert loopback.server.keeper.counts["quarantined"] == 1
    refinement, outcome = await spoken(talk, noise, 2)
    assert after(refinement) == 0 and outcome.kind == AE.PERSISTED
    await finished(talk)
    talk, opened = await begun(loopback, asked, adaptation=keyed())
    assert (await restored(talk)).restored and opened.state_version == 4
    await finished(talk)


def damaged(entry, blob, fault):
    import torch

    state = State.from_bytes(blob, "fake-weights")
    if fault == "base":
        return replace(entry, version=2, base="other-weights"), blob
    if fault == "checksum":
        return replace(entry, version=2), blob[:-1] + bytes([blob[-1] ^ 1])
    if fault == "torn":
        blob = blob[: len(blob) // 2]
    elif fault == "record":
        blob = state.updated(seen=3).to_bytes()
    else:
        blob = state.updated({"weights": torch.zeros(5) if fault == "shape" else torch.full((4,), torch.nan)}).to_bytes()
    return replace(entry, version=2, checksum=checksum(blob), size=len(blob)), blob


async def test_another_method_is_refused_and_harms_nothing(serving, asked, noise):
    store = MemoryStore(QUOTA)
    loopback = await serving(store)
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise)
    await finished(talk)
    entry, blob = store.get(ANNA)
    store.put(ANNA, replace(entry, version=2, method="dsuta"), blob, entry.mark)
    talk = loopback.talk()
    await talk.send(config=asked(adaptation=keyed()))
    assert await talk.rest() == []
    code, details = await talk.ended()
    assert code == "FAILED_PRECONDITION" and "'anna' holds a state of 'dsuta'" in details
    assert not store.get(ANNA)[0].quarantined


async def test_redis_that_is_killed_while_serving_ends_no_stream_and_loses_nothing(serving, asked, noise, tmp_path):
    redis = RedisServer(tmp_path)
    with redis as url:
        loopback = await serving(**{"state.backend": "redis", "state.url": url, "state.retry_s": 0.05})
        talk, _ = await begun(loopback, asked, adaptation=keyed())
        assert (await spoken(talk, noise, 1))[1].kind == AE.PERSISTED
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


class Failing:
    """A store that can be told to fail or to hang."""

    def __init__(self, inner):
        self.inner = inner
        self.fault: Exception | None = None
        self.after: Exception | None = None  # the call is carried out and its answer lost
        self.puts = 0
        self.gate = threading.Event()
        self.gate.set()

    def put(self, *arguments):
        self.puts += 1
        self.gate.wait(30)
        if self.fault:
            raise self.fault
        self.inner.put(*arguments)
        if self.after:
            fault, self.after = self.after, None
            raise fault

    def __getattr__(self, name):
        def call(*arguments):
            if self.fault:
                raise self.fault
            return getattr(self.inner, name)(*arguments)

        return call


@pytest.fixture
def failing():
    return Failing(MemoryStore(QUOTA))


FULL = StoreError("state.sqlite: database or disk is full")


async def test_a_store_that_fails_ends_no_stream_and_is_tried_again(serving, asked, noise, failing):
    loopback = await serving(failing, **{"state.retry_s": 0.05})
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


async def test_utterances_that_teach_nothing_move_the_position_of_a_session_and_no_bytes(serving, asked, noise):
    store = MemoryStore(QUOTA)
    loopback = await serving(store)
    talk, opened = await begun(loopback, asked, adaptation=session(), session_id="s")
    address = Address("default", "session/s")
    await talk.say(np.zeros(1600, np.int16))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    assert (await kept(talk)).state_version == 0
    await spoken(talk, noise, 1)
    await talk.say(np.zeros(1600, np.int16))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    await kept(talk)
    assert [(entry.version, entry.utterance) for entry in store.history(address)] == [(1, 2), (0, 0)]
    talk.call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 5)
    talk, opened = await begun(loopback, asked, adaptation=session(), session_id="s", resume_after_utterance=2)
    assert opened.config.resume_after_utterance == 2
    await talk.say(np.zeros(1600, np.int16))  # before anything is learnt again
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    assert (await kept(talk)).kind == AE.PERSISTED and store.get(address)[0].utterance == 3
    await finished(talk)


async def test_silence_after_a_reset_by_call_is_kept_too(serving, asked, noise):
    loopback = await serving()
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    await finished(talk)
    await loopback.stub.ResetAdaptation(pb.ResetAdaptationRequest(adaptation_key="anna"))
    talk, opened = await begun(loopback, asked, adaptation=keyed())
    await talk.say(np.zeros(1600, np.int16))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    event = await kept(talk)
    assert (event.kind, event.state_version, opened.state_version) == (AE.PERSISTED, 3, 3)
    await finished(talk)


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


async def test_a_store_that_hangs_holds_no_stream(serving, asked, noise, failing):
    loopback = await serving(failing, **{"state.timeout_s": 0.2})
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    failing.gate.clear()
    _, event = await spoken(talk, noise, 1)
    assert event.kind == AE.PERSIST_FAILED and "longer than 0.2 s" in event.reason
    assert after((await spoken(talk, noise, 2))[0]) == 1
    other = await loopback.opened()
    await finished(other)
    failing.gate.set()
    while failing.inner.history(ANNA)[:1] == () or failing.inner.history(ANNA)[0].version < 2:
        await asyncio.sleep(0.01)
    await finished(talk)


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


async def test_a_step_that_breaks_leaves_the_last_version_and_other_streams(serving, asked, noise, fakes):
    store = MemoryStore(QUOTA)
    loopback = await serving(store)
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    other, _ = await begun(loopback, asked, adaptation=keyed("berta"))
    fakes.hook = lambda: 1 / 0
    broken, _ = await begun(loopback, asked, adaptation=keyed("carla"))
    await broken.say(noise(2, 1600))
    await broken.send(control=pb.FINALIZE_UTTERANCE)
    await broken.rest()
    assert (await broken.ended())[0] == "INTERNAL"
    assert store.keys("default") == ("anna",)
    assert (await spoken(other, noise, 3))[1].kind == (await spoken(talk, noise, 4))[1].kind == AE.PERSISTED
    await finished(talk)
    await finished(other)


async def test_a_key_that_was_poisoned_is_bounded_and_can_be_taken_back(serving, asked, noise):
    loopback = await serving(**{"state.drift_cap": 3.0, "state.history": 8})
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    good = (await spoken(talk, noise, 1))[1].state_version
    await finished(talk)
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    for seed in range(20):  # every one pulls the same way
        await talk.say(noise(seed, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
        await kept(talk)
    assert (await finished(talk)).resets == 18
    state = await loopback.stub.GetAdaptationState(pb.GetAdaptationStateRequest(adaptation_key="anna"))
    assert state.current.drift == 3.0 and state.history[-1].version == good
    await loopback.stub.ResetAdaptation(pb.ResetAdaptationRequest(adaptation_key="anna", version=good))
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    assert after((await spoken(talk, noise, 30))[0]) == 1
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
            for step in range(rng.randint(0, 3)):
                await talk.say(noise(100 * number + 10 * turn + step, 800))
                await talk.send(control=pb.FINALIZE_UTTERANCE)
                refinement = await talk.next("refinement")
                if opened.config.adaptation.read_only:
                    assert refinement.state_version == opened.state_version
                    continue
                event = await kept(talk)
                if event.kind == AE.PERSISTED:
                    written[key] = max(written[key], event.state_version)
            if rng.random() < 0.5:
                talk.call.cancel()
            else:
                await finished(talk)

    await asyncio.gather(*(caller(number) for number in range(6)))
    await asyncio.wait_for(loopback.until_idle(), 10)
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


async def test_a_quota_is_a_warning_to_the_stream(serving, asked, noise):
    loopback = await serving(**{"state.tenant_keys": 1, "state.retries": 0})
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise)
    await finished(talk)
    talk, _ = await begun(loopback, asked, adaptation=keyed("berta"))
    _, event = await spoken(talk, noise)
    assert event.kind == AE.PERSIST_FAILED and "state.tenant_keys" in event.reason
    await finished(talk)


async def test_a_state_that_drifts_beyond_the_cap_goes_back_to_the_last_good_one(serving, asked, noise):
    loopback = await serving(**{"state.drift_cap": 2.5})
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    for seed in (1, 2):
        await spoken(talk, noise, seed)
    await talk.say(noise(3, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    event = await talk.next("adaptation_event")
    assert (event.kind, event.reason) == (AE.SKIPPED, "drift")
    event = await talk.next("adaptation_event")
    assert (event.kind, event.reason, event.drift, event.state_version) == (AE.RESET, "drift", 3.0, 2)
    assert (await kept(talk)).state_version == 2
    closed = await finished(talk)
    assert closed.resets == 1 and closed.state_version == 2
    state = await loopback.stub.GetAdaptationState(pb.GetAdaptationStateRequest(adaptation_key="anna"))
    assert [entry.drift for entry in state.history] == [2.0, 1.0]


async def test_a_cap_that_was_lowered_takes_the_last_version_within_it(serving, asked, noise):
    store = MemoryStore(QUOTA)
    loopback = await serving(store)
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    for seed in (1, 2, 3):
        await spoken(talk, noise, seed)
    await finished(talk)
    talk, opened = await begun(await serving(store, **{"state.drift_cap": 1.5}), asked, adaptation=keyed())
    assert opened.state_version == 4 and (await restored(talk)).restored
    await talk.send(control=pb.FREEZE)
    await finished(talk)
    talk, opened = await begun(await serving(store, **{"state.drift_cap": 0.5}), asked, adaptation=keyed())
    event = await restored(talk)
    assert not event.restored and "above the cap" in event.reason
    await finished(talk)


async def test_when_the_server_stops_the_last_committed_utterance_is_in_the_store(serving, asked, noise, tmp_path):
    path = tmp_path / "state.sqlite"
    loopback = await serving(**{"state.backend": "disk", "state.path": str(path)})
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    await talk.say(noise(2, 1600))
    stopping = asyncio.create_task(loopback.server.stop(0.1))
    assert (await talk.next("closed")).state_version == 1
    await talk.rest()
    assert (await talk.ended())[0] == "UNAVAILABLE"
    await asyncio.wait_for(stopping, 20)
    assert [entry.version for entry in DiskStore(path, QUOTA).history(ANNA)] == [1]


async def test_states_nobody_uses_leave_memory_and_those_of_live_streams_stay(serving, asked, noise):
    loopback = await serving(**{"state.resident_bytes": 40})  # two states of 16 bytes
    residents = loopback.server.keeper.residents
    live, _ = await begun(loopback, asked, adaptation=keyed("live"))
    await spoken(live, noise)
    for name in ("a", "b", "c"):
        talk, _ = await begun(loopback, asked, adaptation=keyed(name))
        await spoken(talk, noise)
        await finished(talk)
        await asyncio.sleep(0.05)
    assert [name for name in ("live", "a", "b", "c") if residents.peek(Address("default", name))] == ["live", "b", "c"]
    talk, opened = await begun(loopback, asked, adaptation=keyed("a"))  # comes back from the store
    assert opened.state_version == 1
    await finished(talk)
    assert after((await spoken(live, noise, 2))[0]) == 1
    await finished(live)


def test_an_entry_says_what_it_was_made_with():
    entry = Entry(1, "", 0, "base", "count", '{"gain": "1.0"}')
    other = replace(entry, settings='{"gain": "2.0"}')
    assert entry.settings_digest != other.settings_digest and Entry.from_json(entry.to_json()) == entry
    assert NOTHING.version == 0
