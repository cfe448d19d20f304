"""States under a key, through a real socket: who reads, who writes, what is kept."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import numpy as np

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.state.disk import DiskStore
from asrlife_server.state.entry import NOTHING, Address, Entry
from asrlife_server.state.memory import MemoryStore
from tests.server.keeping import AE, ANNA, QUOTA, after, begun, finished, kept, keyed, restored, spoken


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


async def test_row_17_the_second_writer_of_a_key_reads_only_and_the_first_loses_nothing(serving, asked, noise, beside):
    loopback = await serving()
    await beside(loopback)
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


async def test_row_17_two_servers_on_one_store_lose_no_update(serving, asked, noise, tmp_path, beside):
    where = {"state.backend": "disk", "state.path": str(tmp_path / "state.sqlite")}
    one, other = await serving(**where), await serving(**where)
    await beside(one)
    await beside(other)
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


async def test_a_step_that_breaks_leaves_the_last_version_and_the_streams_as_they_were(serving, asked, noise, fakes):
    store = MemoryStore(QUOTA)
    loopback = await serving(store)
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    other, _ = await begun(loopback, asked, adaptation=keyed("berta"))
    fakes.hook = lambda: 1 / 0
    broken, _ = await begun(loopback, asked, adaptation=keyed("carla"))
    await broken.say(noise(2, 1600))
    await broken.send(control=pb.FINALIZE_UTTERANCE)
    event = await broken.next("adaptation_event")
    assert (event.kind, event.reason, event.state_version) == (AE.SKIPPED, "failed", 0)
    await finished(broken)
    assert (await spoken(other, noise, 3))[1].kind == (await spoken(talk, noise, 4))[1].kind == AE.PERSISTED
    await finished(talk)
    await finished(other)


async def test_a_quota_is_a_warning_to_the_stream(serving, asked, noise):
    loopback = await serving(**{"state.tenant_keys": 1, "state.retries": 0})
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    await spoken(talk, noise)
    await finished(talk)
    talk, _ = await begun(loopback, asked, adaptation=keyed("berta"))
    _, event = await spoken(talk, noise)
    assert event.kind == AE.PERSIST_FAILED and "state.tenant_keys" in event.reason
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
