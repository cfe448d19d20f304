"""kill -9 under load: after a restart every key has its last committed version, none is torn, and at most one utterance is lost."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from asrlife.methods.online.state import State
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server.state.disk import DiskStore
from asrlife_server.state.entry import Address, Quota, checksum
from tests.server.keeping import after, begun, finished, keyed, spoken

KEYS = [f"speaker-{number}" for number in range(6)]
ROUNDS = 5
SERVER = """
import asyncio, sys, torch
sys.path.insert(0, sys.argv[2])
import conftest
from conftest import Fakes
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server

start = conftest.FakeMethod.start

def larger(self, model):  # vectors that a store keeps apart, of which a step changes one
    return start(self, model).updated({"first": torch.ones(5000), "weights": torch.zeros(5000)})

async def main():
    conftest.FakeMethod.start = larger
    fakes = Fakes()
    server = Server(ServerConfig.read(None, {"port": 0, "model": "fake", "state.path": sys.argv[1]}), fakes.model, fakes.make)
    await server.start()
    print(server.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Caller:
    """Says utterance after utterance without waiting, and remembers what the server promised."""

    def __init__(self, key):
        self.key = key
        self.opened = self.refined = self.persisted = -1

    async def talk(self, port, noise, seed):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize(self.requests(noise, seed))
            try:
                async for response in call:
                    self.hear(response)
            except grpc.aio.AioRpcError as error:
                assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL), error  # the server is gone

    def hear(self, response):
        event = response.adaptation_event
        if response.HasField("opened"):
            self.opened = response.opened.state_version
        elif response.HasField("refinement"):
            self.refined = response.refinement.state_version
        elif response.HasField("adaptation_event") and event.kind == pb.AdaptationEvent.PERSISTED:
            self.persisted = event.state_version

    async def requests(self, noise, seed):
        adaptation = pb.Adaptation(method="count", adaptation_key=self.key, persist=pb.Adaptation.KEY)
        external = pb.Endpointing(mode=pb.Endpointing.EXTERNAL)
        yield pb.StreamingRequest(
            config=pb.StreamingConfig(encoding=pb.PCM16, sample_rate_hz=16_000, endpointing=external, adaptation=adaptation)
        )
        for number in range(10_000):
            yield pb.StreamingRequest(audio=pb.Audio(content=noise(seed + number, 800).astype("<i2").tobytes()))
            yield pb.StreamingRequest(control=pb.FINALIZE_UTTERANCE)


def started(path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    command = [sys.executable, "-c", SERVER, str(path), str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    return process, int(process.stdout.readline())


@pytest.mark.slow
async def test_row_23_a_server_that_is_killed_under_load_loses_at_most_one_utterance_of_a_key(noise, tmp_path, serving, asked, beside):
    path, rng, versions = tmp_path / "state.sqlite", random.Random(5), dict.fromkeys(KEYS, 0)
    neighbour = await serving(
        **{"state.backend": "disk", "state.path": str(path), "timeouts.idle_s": 3600}
    )  # another server on the same store
    await beside(neighbour)
    steady, _ = await begun(neighbour, asked, adaptation=keyed("steady"))
    for turn in range(ROUNDS):
        process, port = await asyncio.to_thread(started, path)
        callers = [Caller(key) for key in KEYS]
        try:
            talking = [asyncio.create_task(each.talk(port, noise, 1000 * turn + index)) for index, each in enumerate(callers)]
            while any(each.persisted < versions[each.key] + 2 for each in callers):
                await asyncio.sleep(0.01)
            await asyncio.sleep(rng.random() / 2)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        await asyncio.gather(*talking)
        store = DiskStore(path, Quota(16, 10**9, 1000))
        for each in callers:
            assert each.opened == versions[each.key]  # this restart found what the last one left
            for entry in store.history(Address("default", each.key)):
                blob = store.get(Address("default", each.key), entry.version)[1]
                assert checksum(blob) == entry.checksum and not entry.quarantined
                assert len(State.from_bytes(blob, "fake-weights").record["seen"]) == entry.version  # whole, and every utterance in it
            versions[each.key] = store.history(Address("default", each.key))[0].version
            assert versions[each.key] >= each.persisted, "a version that was said to be durable is gone"
            assert each.refined - versions[each.key] <= 1, "more than one utterance is lost"
        store.close()
        refinement, event = await spoken(steady, noise, turn)
        assert (after(refinement), event.kind, event.state_version) == (turn, pb.AdaptationEvent.PERSISTED, turn + 1)
    await finished(steady)
