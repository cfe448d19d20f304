"""How many people a server can listen to at once, how late its answers are, and what adaptation costs them; and a peer on the same streams.

    python benchmarks/serve.py                     some minutes: without adaptation, with suta and auto, the peer; then the transport alone
    python benchmarks/serve.py --adapt none --peer none --streams 32 --seconds 60 --json --out run/
    python benchmarks/serve.py --mode transport

Clients speak in real time over a loopback socket: phrases by espeak with pauses in a little noise, 100 ms chunks, starts spread at random
(Poisson). The server is a process of its own, and all clients are another, on the same machine. The number of streams doubles until the
95th percentile of the final's delay passes 500 ms or something is lost, and is then halved in between. Delays (ms, p50/p95/p99): partial,
from the begin of speech to the first interim text; final, from the sound that makes the end of an utterance certain (the server waits for
480 ms of silence); speech, from the end of speech itself; refined, from a final to its refinement. WER is that of the last word on each
utterance. lag is the 99th percentile of the event loop's, by the server's own histogram. CPU-seconds are those of the server's processes
and of the clients'; load is the average of the last minute before and after a row. --out keeps every delay and text.

--peer pocketsphinx (load/sphinx.py; by default where it is installed) listens to the same streams behind the same protocol. Its model is a
general one of 126,000 words that was not made from synthetic voices; embedded:ctc is a small network that has heard espeak's. Every word
of the phrases is in the peer's dictionary and can be spelt by ours, yet their WER compares what they were trained on, not how they serve:
compare delays, CPU-seconds and streams. pocketsphinx-first-pass is the same without its passes over a whole utterance at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from load import machine, report
from load.paced import RATE, Heard, Speech, spoken
from load.report import Row
from load.servers import PEERS, beside, lag, serving
from load.transport import aborted, transport

from asrlife.audio.waveform import Waveform
from asrlife.client import AsyncClient, Opened
from asrlife.errors import InputError

LATE, SPREAD = 0.5, 3.0  # s: a final that nobody waits for; over which streams begin
Lag = Callable[[], float | None]


async def level(address: str, speeches: Sequence[Speech], adapt: str, interim: float | None) -> list[Heard]:
    """All streams once, from one process."""
    starts = np.cumsum(np.random.default_rng(0).exponential(SPREAD / len(speeches), len(speeches)))
    async with AsyncClient(address) as client:
        return await asyncio.gather(
            *(spoken(client, speech, adapt, interim, delay) for speech, delay in zip(speeches, starts, strict=True))
        )


async def warmed(address: str, streams: int) -> None:
    """Have that many streams open at once and say nothing, so that what a server makes for a stream (a decoder) is there."""
    everyone, opened = asyncio.Event(), 0

    async def silence() -> AsyncIterator[Waveform]:
        yield Waveform(np.zeros(RATE // 10, np.float32), RATE)
        await everyone.wait()

    async def one(client: AsyncClient) -> None:
        nonlocal opened
        try:
            async for event in client.stream(silence(), adapt="none"):
                opened += isinstance(event, Opened)
                if opened == streams:
                    everyone.set()
        finally:
            everyone.set()  # one that fails keeps nobody waiting

    async with AsyncClient(address) as client:
        await asyncio.gather(*(one(client) for _ in range(streams)))


def holds(row: Row) -> bool:
    """Whether a server is up to it."""
    return not row["lost"] and row["final_ms"] is not None and row["final_ms"][1] < 1000 * LATE


class Search:
    """Runs one system, a method of adaptation or a peer, at several numbers of streams against a server of its own."""

    def __init__(self, options: argparse.Namespace, system: str) -> None:
        self._options = options
        self._system = system
        self._adapt = "none" if system in PEERS else system
        self.rows: list[Row] = []

    def run(self) -> Row:
        """All rows, with the most streams of one that held."""
        with self._server() as (address, lagged):
            if self._options.streams:
                for streams in self._options.streams:
                    self._try(address, lagged, streams)
            else:
                self._climb(address, lagged)
        held = max((row["streams"] for row in self.rows if holds(row)), default=0)
        return {"system": self._system, "most_streams": held, "rows": self.rows}

    @contextmanager
    def _server(self) -> Iterator[tuple[str, Callable[[], Lag]]]:
        if self._system in PEERS:
            with beside(*PEERS[self._system]) as address:
                yield address, lambda: lambda: None
        else:
            with serving(self._options.model) as (address, port):
                yield address, lambda: lag(port)

    def _climb(self, address: str, lagged: Callable[[], Lag]) -> None:
        good, bad = 0, None
        while (bad is None and good < self._options.most) or (bad is not None and bad - good > max(1, good // 8)):
            streams = min(self._options.most, good * 2 or 4) if bad is None else (good + bad) // 2
            if holds(self._try(address, lagged, streams)):
                good = streams
            else:
                bad = streams

    def _try(self, address: str, lagged: Callable[[], Lag], streams: int) -> Row:
        speeches, before = spread(streams, self._options.seconds), machine.load()
        asyncio.run(warmed(address, streams))
        read, client, server = lagged(), time.process_time(), machine.below()
        heard = asyncio.run(level(address, speeches, self._adapt, self._options.interim or None))
        spent = {"server_cpu_s": round(machine.below() - server, 2), "client_cpu_s": round(time.process_time() - client, 2)}
        row = report.summary(heard, speeches) | {"lag_ms": read(), **spent}
        row |= {"sound_s": round(sum(len(speech.samples) for speech in speeches) / RATE, 1), "load": [before, machine.load()]}
        self.rows.append(row)
        shown(self._options, {"system": self._system, **row})
        if self._options.out:
            keep(self._options.out, f"{self._system}-{streams}", [asdict(one) for one in heard])
        return row


def spread(streams: int, seconds: float) -> list[Speech]:
    """What each of the streams says; no more than 16 different ones are made."""
    made = [Speech.of(seed, seconds) for seed in range(min(streams, 16))]
    return [made[index % len(made)] for index in range(streams)]


def shown(options: argparse.Namespace, row: Row) -> None:
    """Print a row, as JSON or for people."""
    print(json.dumps(row) if options.json else report.text(row), flush=True)


def keep(folder: Path, name: str, value: Any) -> None:
    """Write the raw figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(value, default=list) + "\n")


def measured_transport(options: argparse.Namespace) -> None:
    """Print a row for the transport alone."""
    with beside("null.py") as address:
        for streams in (16, 128):
            before, client, server = machine.load(), time.process_time(), machine.below()
            rate = asyncio.run(transport(address, streams, min(10.0, options.seconds)))
            row: Row = {"transport": "null", "streams": streams, "chunks_per_s": round(rate)}
            row |= {"server_cpu_s": round(machine.below() - server, 2), "client_cpu_s": round(time.process_time() - client, 2)}
            shown(options, row | {"load": [before, machine.load()]})


def measured_streams(options: argparse.Namespace) -> None:
    """Print a row for each system and number of streams, and at the end all of them beside each other."""
    before = machine.load()
    systems = [*options.adapt, *options.peer]
    found = [Search(options, system).run() for system in systems]
    with serving(options.model) as (address, port):
        freed = round(asyncio.run(aborted(address, port)), 3)
    told = {"cores": machine.cores(), "load": [before, machine.load()], "abort_frees_after_s": freed, "late_s": LATE, "systems": found}
    if options.json:
        print(json.dumps(told), flush=True)
    else:
        print(f"\n{report.table(found)}\n{report.text({name: value for name, value in told.items() if name != 'systems'})}", flush=True)
    if options.out:
        keep(options.out, "summary", told)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("all", "streams", "transport"), default="all")
    parser.add_argument("--model", default="embedded:ctc")
    parser.add_argument("--adapt", nargs="*", default=["none", "suta", "auto"], help="methods; no word after it: the peer alone")
    parser.add_argument("--peer", nargs="+", choices=("none", *PEERS), help="by default pocketsphinx where it is installed")
    parser.add_argument("--streams", type=int, nargs="+", help="these numbers of streams in place of the search")
    parser.add_argument("--most", type=int, default=32, help="the search ends here")
    parser.add_argument("--seconds", type=float, default=10.0, help="of speech on each stream")
    parser.add_argument("--interim", type=float, default=0.5, help="least s between interim results, 0 for none")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="a folder for every delay and text")
    return parser.parse_args()


def peers(asked: list[str] | None) -> list[str]:
    """The peers that run; raises InputError where they are not installed, and says so where nobody asked for them."""
    if asked and "none" in asked:
        return []
    if importlib.util.find_spec("pocketsphinx") is not None:
        return asked or ["pocketsphinx"]
    missing = "the peer is not installed: pip install pocketsphinx==5.1.1"
    if asked:
        raise InputError(missing)
    print(missing, file=sys.stderr)
    return []


def main() -> None:
    """Measure what is asked for."""
    options = _options()
    try:
        if options.mode != "transport":
            options.peer = peers(options.peer)
            measured_streams(options)
        if options.mode != "streams":
            measured_transport(options)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
