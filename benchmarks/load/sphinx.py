"""pocketsphinx behind the protocol of asrlife, in processes of its own: what a general recogniser does with the same streams.

A decoder for each stream, as the package sets it up (its English model, its passes over a whole utterance at the end), fed as the sound
comes and cut by its own endpointer after 480 ms of silence, as the server of asrlife cuts. The decoder holds Python's lock while it
computes, so that threads would share one core: there is a worker process for each core, and streams are spread over them. A decoder takes
half a second to load; it is used again by later streams. With --first-pass a decoder leaves out its passes over the whole utterance: words
come sooner and are worse. What the protocol knows beyond this is refused by name.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import grpc

from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc

try:
    from sphinx_streams import RATE, begin, end, hear, prepare
except ImportError as error:
    sys.exit(f"the peer needs pocketsphinx ({error}): pip install pocketsphinx==5.1.1")

_HONOURED: dict[str, tuple[Any, ...]] = {  # values by field
    "encoding": (pb.PCM16,),
    "sample_rate_hz": (RATE,),
    "channels": (0, 1),
    "max_alternatives": (0, 1),
    "endpointing": (pb.Endpointing(),),
    "adaptation": (pb.Adaptation(), pb.Adaptation(method="none")),
}


def unknown(config: pb.StreamingConfig) -> str:
    """The field that asks for what the peer has not; "" where there is none."""
    fields = {field.name: value for field, value in config.ListFields() if field.name != "interim"}
    bad = [name for name, value in fields.items() if value not in _HONOURED.get(name, ())]
    return f"{bad[0]}: the peer does not honour this value; leave it out, or ask the server of asrlife" if bad else ""


class Peer(asrlife_pb2_grpc.SpeechAdaptServicer):
    """StreamingRecognize; everything that computes is in the workers."""

    def __init__(self, workers: int, passes: bool) -> None:
        spawn = multiprocessing.get_context("spawn")  # a process that speaks gRPC must not fork
        self._workers = {ProcessPoolExecutor(1, spawn, prepare, (passes,)): 0 for _ in range(workers)}
        self._streams = 0

    def stop(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.shutdown(cancel_futures=True)

    async def StreamingRecognize(self, requests: AsyncIterator[pb.StreamingRequest], context: Any) -> AsyncIterator[pb.StreamingResponse]:
        """One stream with a decoder of its own, in the worker that has fewest."""
        config = (await anext(requests)).config
        if refused := unknown(config):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, refused)
        worker, stream = min(self._workers, key=lambda each: self._workers[each]), self._streams
        self._streams, self._workers[worker] = stream + 1, self._workers[worker] + 1
        try:
            interval = max(1, config.interim.min_interval_ms) / 1000 if config.interim.enable else 0.0
            await asyncio.wrap_future(worker.submit(begin, stream, interval))
            yield pb.StreamingResponse(opened=pb.Opened(session_id=str(stream), config=config))
            async for response in answers(requests, worker, stream, context):
                yield response
        finally:
            worker.submit(end, stream)
            self._workers[worker] -= 1


async def answers(requests: Any, worker: ProcessPoolExecutor, stream: int, context: Any) -> AsyncIterator[pb.StreamingResponse]:
    """Results, and `closed` after FINISH."""
    closed, taken, compute = pb.Closed(), 0, 0.0
    async for request in requests:
        last = request.control == pb.FINISH
        if not request.HasField("audio") and not last and request.control != pb.FINALIZE_UTTERANCE:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the peer takes audio, FINALIZE_UTTERANCE and FINISH")
        pcm = request.audio.content if request.HasField("audio") else None
        said, cpu = await asyncio.wrap_future(worker.submit(hear, stream, pcm))
        taken, compute = taken + len(pcm or b""), compute + cpu
        for one in said:
            closed.utterances += one[-1]
            yield pb.StreamingResponse(result=result(*one))
        if last:
            closed.audio.FromNanoseconds(round(taken / 2 / RATE * 1e9))
            closed.compute.FromNanoseconds(round(compute * 1e9))
            yield pb.StreamingResponse(closed=closed)
            return


def result(index: int, text: str, start: float, stop: float, final: bool) -> pb.Result:
    """A text as a message."""
    message = pb.Result(utterance_index=index, alternatives=[pb.Alternative(transcript=text)], is_final=final)
    message.start.FromNanoseconds(round(start * 1e9))
    message.end.FromNanoseconds(round(stop * 1e9))
    return message


async def main() -> None:
    """Serve on a free port, which is printed, until standard input ends."""
    server, peer = grpc.aio.server(), Peer(len(os.sched_getaffinity(0)), "--first-pass" not in sys.argv[1:])
    asrlife_pb2_grpc.add_SpeechAdaptServicer_to_server(peer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
    peer.stop()


if __name__ == "__main__":
    asyncio.run(main())
