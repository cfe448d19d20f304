"""The calls on kept states, through a real socket and in the words of both clients."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from functools import partial

import grpc
import pytest
import torch
from google.rpc import error_details_pb2, status_pb2

from asrlife.client import AsyncClient, Client, Exported, ServerError
from asrlife.errors import InputError
from asrlife.methods.online.state import State
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.state.entry import Address, Quota, StoreError, checksum
from asrlife_server.state.memory import MemoryStore

QUOTA = Quota(8, 10**8, 100)


@pytest.fixture
async def anna(serving, asked, noise):
    """A server that lets states in, and that has three versions of one key."""
    store = MemoryStore(QUOTA)
    loopback = await serving(store, **{"state.allow_import": True})
    talk = await loopback.opened(adaptation=keyed())
    for seed in range(3):
        await talk.say(noise(seed, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
        await talk.next("refinement")
    await talk.send(control=pb.FINISH)
    await talk.rest()
    loopback.store, loopback.address = store, f"127.0.0.1:{loopback.server.port}"
    return loopback


def keyed(key="anna"):
    return pb.Adaptation(method="count", adaptation_key=key, persist=pb.Adaptation.KEY)


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code().name, error.value.details()


async def opens_with(loopback, key="anna"):
    talk = loopback.talk()
    await talk.send(config=pb.StreamingConfig(
        encoding=pb.PCM16, sample_rate_hz=16_000, endpointing=pb.Endpointing(mode=pb.Endpointing.EXTERNAL), adaptation=keyed(key),
    ))  # fmt: skip
    version = (await talk.next("opened")).state_version
    (stream,) = loopback.server.service.streams.values()
    seen = len(stream.session.state.record["seen"])
    await talk.send(control=pb.FINISH)
    await talk.rest()
    await asyncio.wait_for(loopback.until_idle(), 5)
    return version, seen


async def test_a_state_is_looked_at_rolled_back_reset_and_forgotten(anna):
    async with AsyncClient(anna.address) as client:
        state = await client.get_state("anna")
        assert [each.version for each in state.history] == [3, 2, 1] and not state.being_written
        current = state.current
        assert (current.version, current.method, current.base_hash, current.steps, current.drift) == (3, "count", "fake-weights", 6, 3.0)
        assert current.settings == {"gain": "1.0", "max_latency_ms": "None", "hook": "None"}
        assert len(current.settings_digest) == 64 and current.quarantined == ""
        assert (await client.reset_state("anna", 2)).current.version == 4
        assert await opens_with(anna) == (4, 2)
        assert (await client.reset_state("anna")).current.method == ""
        assert await opens_with(anna) == (6, 0)  # the base, as a version of its own
        assert [each.version for each in (await client.reset_state("anna", 3)).history] == [6, 5, 4, 3, 2, 1]
        assert await opens_with(anna) == (6, 3)
        with pytest.raises(InputError, match=r"version: 'anna' has no version 77; it has 6, 5"):
            await client.reset_state("anna", 77)
        await client.delete_state("anna")
        for call in (client.get_state, client.reset_state, client.delete_state, client.export_state):
            with pytest.raises(InputError, match="nothing is kept under 'anna'"):
                await call("anna")
    assert await opens_with(anna) == (0, 0)


async def test_a_key_that_was_changed_under_a_live_stream_stays_changed(anna, noise):
    talk = await anna.opened(adaptation=keyed())
    async with AsyncClient(anna.address) as client:
        assert (await client.get_state("anna")).being_written
        await client.reset_state("anna", 1)
        await talk.say(noise(9, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
        assert "changed by a call" in (await talk.next("warning")).text
        await talk.send(control=pb.FINISH)
        await talk.rest()
        assert (await client.get_state("anna")).current.version == 4
    assert await opens_with(anna) == (4, 1)


async def test_a_state_goes_out_and_comes_back_as_it_was(anna, tmp_path):
    async with AsyncClient(anna.address) as client:
        exported = await client.export_state("anna")
        assert exported.blob == anna.store.get(Address("default", "anna"))[1]
        exported.write(tmp_path / "anna.state")
        again = Exported.read(tmp_path / "anna.state")
        assert again == exported
        brought = await client.import_state(again, "berta")
        assert brought.key == "berta" and brought.current.version == 1 and brought.current.checksum == exported.version.checksum
        assert (await client.export_state("anna", 1)).version.version == 1
    assert await opens_with(anna, "berta") == (1, 3)

    def in_threads():
        with Client(anna.address) as client:
            state = client.import_state(client.export_state("anna", 2))
            assert state.key == "anna" and state.current.version == 4 and client.get_state("anna") == state
            assert client.reset_state("berta").current.method == ""
            client.delete_state("berta")
            with pytest.raises(InputError, match="nothing is kept"):
                client.get_state("berta")

    await asyncio.to_thread(in_threads)
    assert await opens_with(anna) == (4, 2)


def altered(exported, **vectors):
    state = State.from_bytes(exported.blob, "fake-weights")
    blob = state.updated(vectors).to_bytes()
    return replace(exported, blob=blob, version=replace(exported.version, checksum=checksum(blob), size_bytes=len(blob)))


async def test_row_18_what_does_not_fit_is_refused_by_name_and_nothing_changes(anna, beside):
    await beside(anna)
    async with AsyncClient(anna.address) as client:
        good = await client.export_state("anna")
        state = State.from_bytes(good.blob, "fake-weights")
        other = replace(state, base="other-weights").to_bytes()
        bad = {
            "state.current.checksum: ": replace(good, blob=good.blob[:-1] + b"\0"),
            "state.current.base_hash: it belongs to": replace(good, version=replace(good.version, base_hash="other-weights")),
            "content: the state belongs to model other-weigh": replace(
                good, blob=other, version=replace(good.version, checksum=checksum(other), size_bytes=len(other))
            ),
            "content: NaN: 'weights'": altered(good, weights=torch.full((4,), torch.inf)),
            "content: shape: 'weights' is float32 (5,)": altered(good, weights=torch.zeros(5)),
            "content: shape: 'more'": altered(good, more=torch.zeros(7)),
            "content: no state can be read": replace(good, blob=b"", version=replace(good.version, checksum=checksum(b""), size_bytes=0)),
            "state.current.method: 'none' carries nothing": replace(good, version=replace(good.version, method="none")),
            "config.adaptation: unknown method": replace(good, version=replace(good.version, method="os.system")),
            "config.adaptation.settings.book: names a file": replace(
                good, version=replace(good.version, settings={"book": "/etc/passwd"})
            ),
        }  # fmt: skip
        for words, state in bad.items():
            with pytest.raises(InputError) as error:
                await client.import_state(state, "berta")
            assert str(error.value).startswith(words), (words, str(error.value))
    assert anna.store.keys("default") == ("anna",)


async def test_imports_are_off_unless_the_configuration_says_so_and_have_a_size(serving, anna):
    async with AsyncClient(anna.address) as client:
        exported = await client.export_state("anna")
    closed = await serving()
    async with AsyncClient(f"127.0.0.1:{closed.server.port}") as client:
        with pytest.raises(InputError, match=r"state\.allow_import: "):
            await client.import_state(exported)
    small = await serving(**{"state.allow_import": True, "state.import_bytes": 1024})
    large = replace(exported, blob=bytes(1025))
    async with AsyncClient(f"127.0.0.1:{small.server.port}") as client:
        with pytest.raises(ServerError, match=r"RESOURCE_EXHAUSTED: content: is above 1024 bytes"):
            await client.import_state(large)


@pytest.mark.parametrize(("chunks", "words"), [
    ([], "state: must be the first message"),
    ([pb.AdaptationChunk(content=b"x")], "state: must be the first message"),
    ([pb.AdaptationChunk(state=pb.AdaptationState(adaptation_key="../x"))], "state.adaptation_key: use 1 to 128"),
    ([pb.AdaptationChunk(state=pb.AdaptationState(adaptation_key="x"))] * 2, "content: every message"),
    ([pb.AdaptationChunk(state=pb.AdaptationState(adaptation_key="x", being_written=True))], "state.being_written: not supported"),
    ([pb.AdaptationChunk(state=pb.AdaptationState(adaptation_key="x"))], "state.current.method: is missing"),
])  # fmt: skip
async def test_an_import_out_of_order_is_refused_by_name(anna, chunks, words):
    code, details = await refused(anna.stub.ImportAdaptation(iter(chunks)))
    assert code == "INVALID_ARGUMENT" and details.startswith(words)


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "a/b", "session/x", "x" * 129, "anna\n", "ÄNNA", "a" * 1_000_000])
async def test_what_is_no_key_is_refused_by_every_call(anna, key):
    stub = anna.stub
    calls = [stub.GetAdaptationState(pb.GetAdaptationStateRequest(adaptation_key=key)),
             stub.ResetAdaptation(pb.ResetAdaptationRequest(adaptation_key=key)),
             stub.DeleteAdaptation(pb.DeleteAdaptationRequest(adaptation_key=key)),
             stub.ExportAdaptation(pb.ExportAdaptationRequest(adaptation_key=key)).read()]  # fmt: skip
    for call in calls:
        code, details = await refused(call)
        assert code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED") and (len(key) > 200_000 or details.startswith("adaptation_key: use 1"))


async def field_of(call):
    """The field that the details of a refusal name, and the code."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    status = status_pb2.Status.FromString(dict(error.value.trailing_metadata())["grpc-status-details-bin"])
    found = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(found) and found.field_violations[0].description.startswith(found.field_violations[0].field + ": ")
    return found.field_violations[0].field, error.value.code().name


async def test_the_field_at_fault_is_in_the_details_of_the_status_too(anna):
    get, reset = (partial(make, adaptation_key="anna") for make in (pb.GetAdaptationStateRequest, pb.ResetAdaptationRequest))
    stub = anna.stub
    assert await field_of(stub.GetAdaptationState(get(adaptation_key="../x"))) == ("adaptation_key", "INVALID_ARGUMENT")
    assert await field_of(stub.GetAdaptationState(get(adaptation_key="berta"))) == ("adaptation_key", "NOT_FOUND")
    assert await field_of(stub.ResetAdaptation(reset(version=77))) == ("version", "NOT_FOUND")
    exported = [chunk async for chunk in stub.ExportAdaptation(pb.ExportAdaptationRequest(adaptation_key="anna"))]
    for name, value in (("checksum", "0" * 64), ("base_hash", "other"), ("method", "")):
        first = pb.AdaptationChunk.FromString(exported[0].SerializeToString())
        setattr(first.state.current, name, value)
        code = "INVALID_ARGUMENT" if name == "method" else "FAILED_PRECONDITION"
        assert await field_of(stub.ImportAdaptation(iter([first, *exported[1:]]))) == (f"state.current.{name}", code)


async def test_another_tenants_key_is_not_found(anna):
    anna.server.service.tenant_of = lambda context: dict(context.invocation_metadata()).get("tenant", "default")
    stranger = {"metadata": (("tenant", "other"),)}
    for call in (anna.stub.GetAdaptationState(pb.GetAdaptationStateRequest(adaptation_key="anna"), **stranger),
                 anna.stub.ResetAdaptation(pb.ResetAdaptationRequest(adaptation_key="anna", version=1), **stranger),
                 anna.stub.DeleteAdaptation(pb.DeleteAdaptationRequest(adaptation_key="anna"), **stranger),
                 anna.stub.ExportAdaptation(pb.ExportAdaptationRequest(adaptation_key="anna"), **stranger).read()):  # fmt: skip
        assert await refused(call) == ("NOT_FOUND", "adaptation_key: nothing is kept under 'anna'")
    assert (await anna.stub.GetAdaptationState(pb.GetAdaptationStateRequest(adaptation_key="anna"))).current.version == 3


async def test_a_store_that_is_gone_is_unavailable(serving):
    class Gone(MemoryStore):
        def history(self, address):
            raise StoreError("redis: connection refused")

    loopback = await serving(Gone(QUOTA))
    code, details = await refused(loopback.stub.GetAdaptationState(pb.GetAdaptationStateRequest(adaptation_key="anna")))
    assert code == "UNAVAILABLE" and "connection refused" in details


def test_a_file_that_export_did_not_write_is_named(tmp_path):
    with pytest.raises(InputError, match=r"x\.state\.json: No such file"):
        Exported.read(tmp_path / "x.state")
    (tmp_path / "x.state.json").write_text(json.dumps({"key": "x", "version": 1}))
    with pytest.raises(InputError, match="is not what `asrlife state export` writes"):
        Exported.read(tmp_path / "x.state")
