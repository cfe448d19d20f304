"""States that must not be believed, through a real socket: damaged, drifted, made by another method."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asrlife.methods.online.state import State
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.state.entry import checksum
from asrlife_server.state.memory import MemoryStore
from tests.server.keeping import AE, ANNA, QUOTA, after, begun, finished, kept, keyed, restored, spoken


@pytest.mark.parametrize(("fault", "words"), [
    ("base", "base_hash: it belongs to model other-weigh"),
    ("shape", "shape: 'weights' is float32 (5,); the method's is float32 (4,)"),
    ("nan", "NaN: 'weights' holds numbers that are not finite"),
    ("checksum", "checksum: the bytes are not those that were written"),
    ("torn", "no state can be read"),
    ("record", "record: 'seen' is '3'"),
])  # fmt: skip
async def test_row_18_a_damaged_state_is_put_in_quarantine_and_the_stream_starts_clean(serving, asked, noise, fakes, fault, words, beside):
    store = MemoryStore(QUOTA)
    loopback = await serving(store)
    await beside(loopback)
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


async def test_row_18_another_method_is_refused_and_harms_nothing(serving, asked, noise, beside):
    store = MemoryStore(QUOTA)
    loopback = await serving(store)
    await beside(loopback)
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


async def test_row_27_a_key_that_was_poisoned_is_bounded_and_can_be_taken_back(serving, asked, noise, beside):
    loopback = await serving(**{"state.drift_cap": 3.0, "state.history": 8})
    await beside(loopback)
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


async def test_row_19_a_state_that_drifts_beyond_the_cap_goes_back_to_the_last_good_one(serving, asked, noise, beside):
    loopback = await serving(**{"state.drift_cap": 2.5})
    await beside(loopback)
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
