from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import asrlife
from asrlife.errors import InputError
from asrlife.methods.online.state import State
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server
from asrlife_server.state.disk import DiskStore
from asrlife_server.state.entry import Address
from asrlife_server.state.memory import MemoryStore
from tests.server.conftest import Talk, config
from tests.server.keeping import AE, ANNA, FULL, QUOTA, Failing, begun, kept, keyed, spoken

SERVICE = "asrlife.v1.SpeechAdapt"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_row_15_stopping_says_not_serving_refuses_new_streams_and_lets_live_ones_finish(serving, noise, asked, undisturbed):
    loopback = await serving()
    health = health_pb2_grpc.HealthStub(loopback.channel)
    for name in ("", "asrlife.v1.SpeechAdapt"):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
    async with undisturbed(loopback):
        talk = await loopback.opened()
        await talk.say(noise(1, 1600))
        stopping = asyncio.create_task(loopback.server.stop(20))
        await asyncio.sleep(0.05)
        for name in ("", "asrlife.v1.SpeechAdapt"):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == NOT_SERVING
        late = loopback.talk()
        with suppress(grpc.aio.AioRpcError):  # the refusal may be there before the configuration is
            await late.send(config=asked())
        assert await late.rest() == [] and (await late.ended())[0] == "UNAVAILABLE"
        await talk.send(control=pb.FINISH)
        assert [r.WhichOneof("response") for r in await talk.rest()] == ["result", "refinement", "adaptation_event", "closed"]
        assert not stopping.done()  # it waits for the other
    await asyncio.wait_for(stopping, 10)


async def test_row_15_after_the_grace_every_live_stream_is_closed_at_its_own_last_commit(serving, noise):
    loopback = await serving()
    talks = [await loopback.opened(session_id=str(number)) for number in range(3)]
    for number, talk in enumerate(talks):
        for index in range(number):
            await talk.say(noise(10 * number + index, 1600))
            await talk.send(control=pb.FINALIZE_UTTERANCE)
            await talk.next("adaptation_event")
        await talk.say(noise(99, 1600))
    digests = [loopback.server.service.streams["default", str(number)].session.state.digest() for number in range(3)]
    stopping = asyncio.create_task(loopback.server.stop(0.1))
    for number, talk in enumerate(talks):
        closed = await talk.next("closed")
        assert (closed.state_version, closed.utterances, closed.state_digest) == (number, number, digests[number])
        assert await talk.rest() == [] and (await talk.ended())[0] == "UNAVAILABLE"
    await asyncio.wait_for(stopping, 10)


async def test_row_15_what_no_store_has_yet_is_kept_before_a_stream_is_closed(serving, asked, noise):
    failing = Failing(MemoryStore(QUOTA))
    loopback = await serving(failing, **{"state.retry_s": 60})
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    other, _ = await begun(loopback, asked, adaptation=keyed("berta"))
    for each in (talk, other):
        assert (await spoken(each, noise, 1))[1].kind == AE.PERSISTED
    failing.fault = FULL
    assert (await spoken(talk, noise, 2))[1].kind == AE.PERSIST_FAILED
    failing.fault = None
    stopping = asyncio.create_task(loopback.server.stop(0))
    event = await kept(talk)
    assert (event.kind, event.state_version) == (AE.PERSISTED, 2) and failing.inner.history(ANNA)[0].version == 2
    closed = await talk.next("closed")
    assert closed.state_version == 2 and (await talk.rest(), (await talk.ended())[0]) == ([], "UNAVAILABLE")
    assert (await other.next("closed")).state_version == 1 and (await other.ended())[0] == "UNAVAILABLE"
    await asyncio.wait_for(stopping, 20)
    assert failing.inner.history(Address("default", "berta"))[0].version == 1


async def test_a_store_that_takes_its_time_keeps_nobody_from_the_last_words(serving, asked, noise):
    failing = Failing(MemoryStore(QUOTA))
    loopback = await serving(failing, **{"state.timeout_s": 4})
    talk, _ = await begun(loopback, asked, adaptation=keyed())
    failing.gate.clear()
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.next("refinement")
    stopping = asyncio.create_task(loopback.server.stop(0))
    await asyncio.wait_for(loopback.until_idle(), 20)  # the store has had its time, more than the last words need without it
    failing.gate.set()
    rest = await talk.rest()
    assert [r.WhichOneof("response") for r in rest][-1] == "closed" and (await talk.ended())[0] == "UNAVAILABLE"
    await asyncio.wait_for(stopping, 20)
    assert failing.inner.history(ANNA)[0].version == 1


async def test_reflection_lists_the_service(serving):
    loopback = await serving()
    stub = reflection_pb2_grpc.ServerReflectionStub(loopback.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
    names = {service.name for service in answer.list_services_response.service}
    assert {"asrlife.v1.SpeechAdapt", "grpc.health.v1.Health"} <= names


async def test_the_server_describes_itself(serving):
    loopback = await serving()
    info = await loopback.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert set(info.encodings) == {pb.PCM16, pb.FLOAT32, pb.MULAW, pb.ALAW, pb.CONTAINER} and info.limits.chunk_bytes == 262_144
    assert {"none", "suta", "dsuta"} <= set(info.adaptation_methods)
    models = (await loopback.stub.ListModels(pb.ListModelsRequest())).models
    assert [(m.name, m.base_hash, m.language) for m in models] == [("fake", "fake-weights", "en")] and list(info.models) == list(models)


async def test_a_busy_port_is_one_clear_line(serving, fakes):
    loopback = await serving()
    config = ServerConfig.read(None, {"port": loopback.server.port})
    with pytest.raises(InputError, match=rf"127\.0\.0\.1:{loopback.server.port}: the port is in use") as error:
        await Server(config, fakes.model, fakes.make).start()
    assert "\n" not in str(error.value)


async def refused(address):
    async with grpc.aio.insecure_channel(address) as channel:
        return await opened_late(channel)


async def opened_late(channel):
    talk = Talk(asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize())
    with suppress(grpc.aio.AioRpcError):
        await talk.send(config=config())
    return await talk.rest(), *await talk.ended()


class Process:
    """`asrlife serve` as an operator has it."""

    def __init__(self, *changes):
        settings = [part for change in ("port=0", *changes) for part in ("--set", change)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "asrlife", "serve", *settings]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)

    async def __aenter__(self):
        line = await asyncio.to_thread(self.popen.stdout.readline)
        assert line.startswith("asrlife: embedded:ctc on 127.0.0.1:")
        self.address = line.split()[-1]
        return self

    async def __aexit__(self, *_):
        self.popen.kill()
        await asyncio.to_thread(self.popen.communicate)

    async def ended(self):
        return await asyncio.to_thread(self.popen.wait, 60)


class Learning:
    """A stream of spoken sentences on the process, whose state is kept under a key."""

    def __init__(self, channel):
        self.talk = Talk(asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize())

    async def begin(self):
        await self.talk.send(config=config(adaptation=keyed(method="dsuta")))
        return await self.talk.next("opened")

    async def say(self, text, end=True):
        await self.talk.say((asrlife.speak(text, "en-us+f3").resampled(16_000).samples * 32_767).astype("int16"))
        if end:
            await self.talk.send(control=pb.FINALIZE_UTTERANCE)
            assert (await kept(self.talk)).kind == AE.PERSISTED


@pytest.mark.slow
async def test_row_15_sigterm_drains_the_process(tmp_path):
    """Health, new streams on the same and on new channels, live streams until the grace is over, and what was learnt."""
    path = tmp_path / "state.sqlite"
    async with Process(f"state.path={path}", "timeouts.grace_s=15") as process, grpc.aio.insecure_channel(process.address) as channel:
        live = Learning(channel)
        await live.begin()
        await live.say("turn on the kitchen light")
        other = Talk(asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize())
        await other.send(config=config(adaptation=pb.Adaptation(method="none")))
        await other.next("opened")
        watches = [health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", SERVICE)]
        assert [(await watch.read()).status for watch in watches] == [SERVING, SERVING]
        process.popen.send_signal(signal.SIGTERM)
        assert [(await watch.read()).status for watch in watches] == [NOT_SERVING, NOT_SERVING]
        for late in (opened_late(channel), refused(process.address)):
            assert await late == ([], "UNAVAILABLE", "the server is stopping; open the stream elsewhere")
        await live.say("what is the weather in london")  # it is served as before
        await other.send(control=pb.FINISH)
        assert (await other.next("closed")).utterances == 0 and await other.ended() == ("OK", "")
        await live.say("this one is not", end=False)
        closed = await live.talk.next("closed")
        assert (await live.talk.rest(), (await live.talk.ended())[0]) == ([], "UNAVAILABLE")
        assert await process.ended() == 0
    newest, blob = DiskStore(path, QUOTA).get(ANNA)
    assert (newest.version, closed.utterances) == (closed.state_version, 2) and closed.state_version >= 1
    assert State.from_bytes(blob, newest.base).digest() == closed.state_digest
    async with Process(f"state.path={path}") as process, grpc.aio.insecure_channel(process.address) as channel:
        assert (await Learning(channel).begin()).state_version == closed.state_version


@pytest.mark.slow
async def test_a_second_signal_waits_for_no_stream():
    async with Process("state.backend=memory", "timeouts.grace_s=3600") as process, grpc.aio.insecure_channel(process.address) as channel:
        talk = Talk(asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize())
        await talk.send(config=config(adaptation=pb.Adaptation(method="none")))
        await talk.next("opened")
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == SERVING
        process.popen.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == NOT_SERVING
        process.popen.send_signal(signal.SIGTERM)
        await talk.next("closed")
        assert (await talk.ended())[0] == "UNAVAILABLE" and await process.ended() == 0


def test_a_full_collection_of_garbage_does_not_walk_through_what_the_server_is_made_of():
    script = "import gc\nfrom asrlife_server.main import _settle\n_settle()\nassert len(gc.get_objects()) * 100 < gc.get_freeze_count()"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
