from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_stopping_says_not_serving_refuses_new_streams_and_lets_live_ones_finish(serving, noise, asked):
    loopback = await serving()
    health = health_pb2_grpc.HealthStub(loopback.channel)
    for name in ("", "asrlife.v1.SpeechAdapt"):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
    talk = await loopback.opened()
    await talk.say(noise(1, 1600))
    stopping = asyncio.create_task(loopback.server.stop(20))
    await asyncio.sleep(0.05)
    for name in ("", "asrlife.v1.SpeechAdapt"):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == NOT_SERVING
    late = loopback.talk()
    await late.send(config=asked())
    assert await late.rest() == [] and (await late.ended())[0] == "UNAVAILABLE"
    await talk.send(control=pb.FINISH)
    assert [r.WhichOneof("response") for r in await talk.rest()] == ["result", "refinement", "adaptation_event", "closed"]
    await asyncio.wait_for(stopping, 10)


async def test_after_the_grace_a_live_stream_is_closed_at_its_last_commit(serving, noise):
    loopback = await serving()
    talk = await loopback.opened()
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.next("adaptation_event")
    await talk.say(noise(2, 1600))
    stopping = asyncio.create_task(loopback.server.stop(0.1))
    closed = await talk.next("closed")
    assert closed.state_version == 1 and closed.utterances == 1
    assert await talk.rest() == [] and (await talk.ended())[0] == "UNAVAILABLE"
    await asyncio.wait_for(stopping, 10)


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


@pytest.mark.slow
def test_sigterm_says_not_serving_and_ends_the_process_well():
    run = (
        "from asrlife_server.main import serve; from asrlife_server.config import ServerConfig; serve(ServerConfig.read(None, {'port': 0}))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("asrlife: embedded:ctc on 127.0.0.1:")
            with grpc.insecure_channel(line.split()[-1]) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
                assert next(watch).status == SERVING
                process.send_signal(signal.SIGTERM)
                assert next(watch).status == NOT_SERVING
            assert process.wait(20) == 0
        finally:
            process.kill()
