"""Half an hour of sound in streams that come, go and break off, faster than real time: memory stops growing."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from random import Random

import grpc
import numpy as np
import pytest

import asrlife
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from tests.fuzz.spoiling import reads_memory

SECONDS, LONGEST = 1800, 8  # of sound in all, and of one stream
A, E = pb.Adaptation, pb.Endpointing
_ROOM = 40 * 2**20  # bytes between the means of the second and the last quarter
WAYS = [
    {"method": "none"},
    {"method": "suta", "settings": {"scope": "norms", "steps": "1"}},
    {"method": "dsuta", "settings": {"scope": "norms", "fast_steps": "1"}},
    {"method": "auto", "settings": {"scope": "norms", "steps": "1", "fast_steps": "1"}},
]


@contextmanager
def serving(settings):
    """A server process of its own, so that nothing but the server is measured."""
    flags = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "asrlife", "serve", "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, int(process.stdout.readline().rsplit(":", 1)[1])
        finally:
            process.terminate()


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def opening(rng: Random) -> pb.StreamingRequest:
    way = dict(rng.choice(WAYS))
    if way["method"] in ("dsuta", "auto") and rng.random() < 0.5:
        way |= {"adaptation_key": f"{way['method']}-{rng.randrange(20)}", "persist": A.KEY}
    config = pb.StreamingConfig(encoding=pb.PCM16, sample_rate_hz=16_000, adaptation=A(**way))
    config.interim.enable = rng.random() < 0.3
    if rng.random() < 0.5:
        config.endpointing.CopyFrom(E(mode=E.EXTERNAL, max_utterance_ms=2_000))
    return pb.StreamingRequest(config=config)


async def streamed(stub, rng: Random, sound: np.ndarray) -> float:
    """One stream, one in four of them cancelled on the way; the sound that it sent, in s."""
    length = rng.uniform(1, LONGEST)
    start = rng.randrange(len(sound) - int(length * 16_000))
    data = sound[start : start + int(length * 16_000)].tobytes()
    left_early = rng.random() < 0.25
    chunks = [data[at : at + 3200] for at in range(0, len(data), 3200)]
    chunks = chunks[: len(chunks) // 2] if left_early else chunks

    async def requests():
        yield opening(rng)
        for chunk in chunks:
            yield pb.StreamingRequest(audio=pb.Audio(content=chunk))
        if not left_early:
            yield pb.StreamingRequest(control=pb.FINISH)

    call = stub.StreamingRecognize(requests())
    closed = False
    async for response in call:
        closed = response.HasField("closed")
        if left_early and rng.random() < 0.5:
            call.cancel()
            break
        if left_early and response.HasField("opened"):
            call.cancel()
            break
    assert closed or left_early, (await call.code(), await call.details())
    return sum(map(len, chunks)) / 32_000


@reads_memory
@pytest.mark.slow
@pytest.mark.timeout(1500)
async def test_half_an_hour_of_churn_leaves_memory_where_it_was(tmp_path, record_property):
    voices = [asrlife.speak(text, "en-us+f4").resampled(16_000).samples for text in ("turn on the kitchen light", "set a timer", "stop")]
    pause, noise = np.zeros(8_000), np.random.default_rng(3)
    speech = np.concatenate([np.concatenate([voice, pause]) for voice in voices * 8])
    sound = (np.clip(speech + noise.normal(0, 0.01, len(speech)), -1, 1) * 32_767).astype("<i2")
    rng, sent, sizes = Random(1), 0.0, []
    settings = [f"state.path={tmp_path / 'state.sqlite'}", "limits.streams=8", "state.resident_bytes=1048576"]
    with serving(settings) as (process, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = asrlife_pb2_grpc.SpeechAdaptStub(channel)
            while sent < SECONDS:
                sent += await streamed(stub, rng, sound)
                sizes.append(resident(process.pid))
        assert process.poll() is None
    quarter = len(sizes) // 4
    slope = np.polyfit(np.arange(quarter, len(sizes)), sizes[quarter:], 1)[0]
    record_property("bytes_per_stream", round(slope))
    means = [int(np.mean(sizes[at * quarter : (at + 1) * quarter])) for at in range(4)]
    print(f"{len(sizes)} streams, {sent:.0f} s of sound, MiB by quarter: {[mean >> 20 for mean in means]}, then {slope:.0f} bytes a stream")
    assert means[3] - means[1] < _ROOM
