"""Sessions that break off, through a real socket."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.state.entry import Address
from asrlife_server.state.memory import MemoryStore
from tests.server.keeping import AE, QUOTA, A, after, begun, broken_off, finished, kept, keyed, restored, session, spoken


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


async def test_a_session_of_which_a_connection_is_too_long_goes_on_in_another(serving, asked, noise):
    loopback = await serving(**{"limits.stream_s": 2.0})
    cut = pb.Endpointing(mode=pb.Endpointing.EXTERNAL, max_utterance_ms=800)
    talk, opened = await begun(loopback, asked, adaptation=session(), endpointing=cut)
    await talk.say(noise(1, 40_000))
    rest = await talk.rest()
    code, details = await talk.ended()
    assert code == "OUT_OF_RANGE" and f"session_id={opened.session_id} final_ms=1600" in details
    assert [r.adaptation_event.kind for r in rest if r.HasField("adaptation_event")].count(AE.PERSISTED) == 2
    resumed = {"session_id": opened.session_id, "resume_after_utterance": 1}
    talk, opened = await begun(loopback, asked, adaptation=session(), **resumed)
    assert (opened.config.resume_after_utterance, opened.state_version) == (1, 2)
    refinement, _ = await spoken(talk, noise, 2)
    assert (refinement.utterance_index, after(refinement)) == (2, 2)
    await finished(talk)


async def test_a_session_whose_finals_are_the_adapted_texts_is_taken_up(serving, asked, noise):
    loopback = await serving()
    name = await broken_off(loopback, asked, noise, 2)
    asks = {"adaptation": session(refine_finals=False), "session_id": name, "resume_after_utterance": 1, "cursors": True}
    talk, _ = await begun(loopback, asked, **asks)
    await talk.say(noise(3, 1600))
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    (result,) = (r.result for r in rest if r.HasField("result"))
    assert (result.utterance_index, result.adapted, result.state_version) == (2, True, 3) and after(result) == 2
    (cursors,) = (r.cursors for r in rest if r.HasField("cursors"))
    assert cursors.received_ms == cursors.final_ms == cursors.adapted_ms == 100
    assert rest[-1].closed.state_version == 3


@pytest.mark.parametrize("method", ["none", "alone"])
async def test_a_session_that_carries_nothing_keeps_its_place(serving, asked, noise, method):
    loopback = await serving()
    adaptation = pb.Adaptation(method=method, persist=A.SESSION)
    if method == "alone":
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
