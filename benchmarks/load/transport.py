"""What goes through a server beside speech: chunks as fast as they can be sent, and streams that are broken off."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import grpc

from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from load.servers import metrics


async def transport(address: str, streams: int, seconds: float) -> float:
    """Chunks of 100 ms a second that go through, as fast as `streams` clients can send them."""
    until, began = time.perf_counter() + seconds, time.perf_counter()
    async with grpc.aio.insecure_channel(address) as channel:
        counts = await asyncio.gather(*(_sent(channel, until) for _ in range(streams)))
    return sum(counts) / (time.perf_counter() - began)


async def _sent(channel: Any, until: float) -> int:
    chunk, count = pb.StreamingRequest(audio=pb.Audio(content=bytes(3200))), 0
    call = asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize()
    external = pb.Endpointing(mode=pb.Endpointing.EXTERNAL)
    config = pb.StreamingConfig(encoding=pb.PCM16, sample_rate_hz=16_000, endpointing=external, adaptation=pb.Adaptation(method="none"))
    await call.write(pb.StreamingRequest(config=config))
    reading = asyncio.create_task(_read(call))
    while time.perf_counter() < until:
        await call.write(chunk)
        count += 1
    await call.write(pb.StreamingRequest(control=pb.FINISH))
    closed = await reading
    assert closed.audio.ToMilliseconds() == 100 * count, "chunks were lost"
    return count


async def _read(call: Any) -> Any:
    last = None
    async for response in call:
        last = response
    assert last is not None and last.HasField("closed"), "the stream did not close"
    return last.closed


async def aborted(address: str, port: int) -> float:
    """Seconds from a client's abort in the middle of speech until its stream is gone from the server, by its metrics at `port`."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize()
        await call.write(pb.StreamingRequest(config=pb.StreamingConfig(encoding=pb.PCM16, sample_rate_hz=16_000, session_id="gone")))
        await call.read()
        for _ in range(10):
            await call.write(pb.StreamingRequest(audio=pb.Audio(content=random.Random(0).randbytes(3200))))
        began = time.perf_counter()
        call.cancel()
        while "asrlife_streams_active 0.0" not in await asyncio.to_thread(metrics, port):
            await asyncio.sleep(0.01)
        return time.perf_counter() - began
