"""How many people a server can listen to at once, how late its answers are, and what adaptation costs them.

    python benchmarks/serve.py                     some minutes: without adaptation, with suta and auto; then the transport alone
    python benchmarks/serve.py --adapt none --streams 32 --seconds 60 --json --out run/
    python benchmarks/serve.py --mode transport

Clients speak in real time over a loopback socket: phrases by espeak with pauses in a little noise, 100 ms chunks, starts spread at random
(Poisson). The server is a process of its own, and all clients are another, on the same machine. The number of streams doubles until the
95th percentile of the final's delay passes 500 ms or something is lost, and is then halved in between. Delays (ms, p50/p95/p99): partial,
from the begin of speech to the first interim text; final, from the sound that makes the end of an utterance certain (the server waits for
480 ms of silence); speech, from the end of speech itself; refined, from a final to its refinement. WER is that of the last word on each
utterance. lag is the 99th percentile of the event loop's, by the server's own histogram. --out keeps every delay and text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from load.paced import Heard, Speech, spoken

from asrlife.cli import child
from asrlife.client import AsyncClient
from asrlife.evaluate.wer import count
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc

LATE, SPREAD = 0.5, 3.0  # s: a final that nobody waits for; over which streams begin
Row = dict[str, Any]


@contextmanager
def serving(model: str) -> Iterator[tuple[str, int]]:
    """A server's address and the port of its metrics."""
    port = child._free()
    settings = {"METRICS__PORT": str(port), "LIMITS__STREAMS": "1024", "STATE__BACKEND": "memory", "LOG__LEVEL": "error"}
    os.environ.update({f"ASRLIFE_{name}": value for name, value in settings.items()})
    with tempfile.TemporaryDirectory() as folder, child.server(model, None, Path(folder) / "log") as address:
        yield address, port


async def level(address: str, speeches: Sequence[Speech], adapt: str, interim: float | None) -> list[Heard]:
    """All streams once, from one process."""
    starts = np.cumsum(np.random.default_rng(0).exponential(SPREAD / len(speeches), len(speeches)))
    async with AsyncClient(address) as client:
        return await asyncio.gather(
            *(spoken(client, speech, adapt, interim, delay) for speech, delay in zip(speeches, starts, strict=True))
        )


def summary(heard: Sequence[Heard], speeches: Sequence[Speech]) -> Row:
    """One line of what was measured."""
    counts = [count(speech.text, one.text) for speech, one in zip(speeches, heard, strict=True)]
    errors, words = sum(each.errors for each in counts), sum(each.words for each in counts)
    kinds = {"partial": "first_partial", "final": "final", "speech": "after_speech", "refined": "refinement"}
    delays = {name: [value for one in heard for value in getattr(one, field)] for name, field in kinds.items()}
    row: Row = {"streams": len(heard), "finals": sum(len(one.finals) for one in heard), "wer": round(100 * errors / max(1, words), 1)}
    row |= {f"{name}_ms": percentiles(values) for name, values in delays.items()}
    row["skipped"] = sum(reason == "budget" for one in heard for reason in one.skipped)
    return row | {"lost": [one.lost for one in heard if one.lost]}


def percentiles(values: Sequence[float]) -> list[int] | None:
    """p50, p95 and p99 in ms; None of nothing."""
    return [round(1000 * float(value)) for value in np.percentile(values, (50, 95, 99))] if values else None


def holds(row: Row) -> bool:
    """Whether a server is up to it."""
    return not row["lost"] and row["final_ms"] is not None and row["final_ms"][1] < 1000 * LATE


def lag(port: int) -> Callable[[], float | None]:
    """A reader of the 99th percentile (ms) of the event loop's lag since now: the upper border of its bucket."""
    before = _lags(port)

    def read() -> float | None:
        since = {border: total - before[border] for border, total in _lags(port).items()}
        total = max(since.values())
        return next((1000 * border for border, below in sorted(since.items()) if below >= 0.99 * total), None) if total else None

    return read


def _lags(port: int) -> dict[float, float]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found = re.findall(r'^asrlife_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', text, re.MULTILINE)
    return {float(border): float(total) for border, total in found}


class Search:
    """Runs one method at several numbers of streams against a server of its own."""

    def __init__(self, options: argparse.Namespace, adapt: str) -> None:
        self._options = options
        self._adapt = adapt
        self.rows: list[Row] = []

    def run(self) -> Row:
        """The last row that held, with the others beside it."""
        with serving(self._options.model) as (address, port):
            if self._options.streams:
                for streams in self._options.streams:
                    self._try(address, port, streams)
            else:
                self._climb(address, port)
        held = max((row["streams"] for row in self.rows if holds(row)), default=0)
        return {"adapt": self._adapt, "most_streams": held, "rows": self.rows}

    def _climb(self, address: str, port: int) -> None:
        good, bad = 0, None
        while (bad is None and good < self._options.most) or (bad is not None and bad - good > max(1, good // 8)):
            streams = min(self._options.most, good * 2 or 4) if bad is None else (good + bad) // 2
            if holds(self._try(address, port, streams)):
                good = streams
            else:
                bad = streams

    def _try(self, address: str, port: int, streams: int) -> Row:
        speeches, read, cpu = spread(streams, self._options.seconds), lag(port), time.process_time()
        heard = asyncio.run(level(address, speeches, self._adapt, self._options.interim or None))
        row = summary(heard, speeches) | {"lag_ms": read(), "client_cpu_s": round(time.process_time() - cpu, 1)}
        row["load"] = round(os.getloadavg()[0], 1)
        self.rows.append(row)
        shown(self._options, {"adapt": self._adapt, **row})
        if self._options.out:
            keep(self._options.out, f"{self._adapt}-{streams}", [asdict(one) for one in heard])
        return row


def spread(streams: int, seconds: float) -> list[Speech]:
    """What each of the streams says; no more than 16 different ones are made."""
    made = [Speech.of(seed, seconds) for seed in range(min(streams, 16))]
    return [made[index % len(made)] for index in range(streams)]


def shown(options: argparse.Namespace, row: Row) -> None:
    """Print a row, as JSON or for people."""
    print(json.dumps(row) if options.json else "  ".join(f"{name} {_short(value)}" for name, value in row.items()), flush=True)


def _short(value: Any) -> str:
    return "/".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)


def keep(folder: Path, name: str, value: Any) -> None:
    """Write the raw figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(value, default=list) + "\n")


async def transport(port: int, streams: int, seconds: float) -> float:
    """Chunks of 100 ms a second that go through, as fast as `streams` clients can send them."""
    import grpc

    chunk = pb.StreamingRequest(audio=pb.Audio(content=bytes(3200)))
    until, counts = time.perf_counter() + seconds, [0] * streams

    async def one(channel: Any, index: int) -> None:
        call = asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize()
        external = pb.Endpointing(mode=pb.Endpointing.EXTERNAL)
        config = pb.StreamingConfig(encoding=pb.PCM16, sample_rate_hz=16_000, endpointing=external, adaptation=pb.Adaptation(method="none"))
        await call.write(pb.StreamingRequest(config=config))
        reading = asyncio.create_task(_read(call))
        while time.perf_counter() < until:
            await call.write(chunk)
            counts[index] += 1
        await call.write(pb.StreamingRequest(control=pb.FINISH))
        closed = await reading
        assert closed.audio.ToMilliseconds() == 100 * counts[index], "chunks were lost"

    began = time.perf_counter()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await asyncio.gather(*(one(channel, index) for index in range(streams)))
    return sum(counts) / (time.perf_counter() - began)


async def _read(call: Any) -> Any:
    last = None
    async for response in call:
        last = response
    assert last is not None and last.HasField("closed"), "the stream did not close"
    return last.closed


def measured_transport(options: argparse.Namespace) -> None:
    """Print a row for the transport alone."""
    command = [sys.executable, str(Path(__file__).parent / "load" / "null.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        port = int(server.stdout.readline())
        for streams in (16, 128):
            rate = asyncio.run(transport(port, streams, min(10.0, options.seconds)))
            shown(options, {"transport": "null", "streams": streams, "chunks_per_s": round(rate), "load": round(os.getloadavg()[0], 1)})
        server.stdin.close()


async def aborted(address: str) -> float:
    """Seconds from a client's abort in the middle of speech until its stream is gone from the server."""
    import grpc

    async with grpc.aio.insecure_channel(address) as channel:
        call = asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize()
        await call.write(pb.StreamingRequest(config=pb.StreamingConfig(encoding=pb.PCM16, sample_rate_hz=16_000, session_id="gone")))
        await call.read()
        for _ in range(10):
            await call.write(pb.StreamingRequest(audio=pb.Audio(content=random.Random(0).randbytes(3200))))
        return await _until_gone(call)


async def _until_gone(call: Any) -> float:
    port, began = int(os.environ["ASRLIFE_METRICS__PORT"]), time.perf_counter()
    call.cancel()
    while "asrlife_streams_active 0.0" not in await asyncio.to_thread(_metrics, port):
        await asyncio.sleep(0.01)
    return time.perf_counter() - began


def _metrics(port: int) -> str:
    return str(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode())


def measured_streams(options: argparse.Namespace) -> None:
    """Print a row for each number of streams, and at the end what adaptation costs."""
    found = [Search(options, adapt).run() for adapt in options.adapt]
    for one in found:
        shown(options, {"adapt": one["adapt"], "most_streams": one["most_streams"]})
    with serving(options.model) as (address, _):
        shown(options, {"abort_frees_after_s": round(asyncio.run(aborted(address)), 3)})
    if options.out:
        keep(options.out, "summary", found)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("all", "streams", "transport"), default="all")
    parser.add_argument("--model", default="embedded:ctc")
    parser.add_argument("--adapt", nargs="+", default=["none", "suta", "auto"])
    parser.add_argument("--streams", type=int, nargs="+", help="these numbers of streams in place of the search")
    parser.add_argument("--most", type=int, default=64, help="the search ends here")
    parser.add_argument("--seconds", type=float, default=15.0, help="of speech on each stream")
    parser.add_argument("--interim", type=float, default=0.5, help="least s between interim results, 0 for none")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="a folder for every delay and text")
    options = parser.parse_args()
    if options.mode != "transport":
        measured_streams(options)
    if options.mode != "streams":
        measured_transport(options)


if __name__ == "__main__":
    main()
