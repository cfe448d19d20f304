"""What adapting while serving costs a caller: the delay of the fast final and of the refinement, for one 3 s utterance.

    python benchmarks/serving.py [--model M] [--rounds 5]

Everything is on this machine over a loopback socket, client and server in one process, one thread for the model. One line of JSON a
method, median over the rounds: final_ms from FINALIZE_UTTERANCE to the final, refined_ms from there to the refinement, cpu_s a round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Iterator

import numpy as np

from asrlife.audio.speak import speak
from asrlife.audio.waveform import Waveform
from asrlife.client import AsyncClient, Control, Final, Refined
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server

SENTENCE = "turn on the kitchen light and set an alarm for seven please"


async def measure(client: AsyncClient, waveform: Waveform, adapt: str) -> dict[str, float]:
    """Delays in ms of one round."""
    times: dict[type, float] = {}

    def utterance() -> Iterator[Waveform | Control]:
        yield waveform
        times[Control] = time.perf_counter()
        yield Control.FINALIZE

    cpu = time.process_time()
    async for event in client.stream(utterance(), adapt=adapt, endpointing="external"):
        times[type(event)] = time.perf_counter()
    delays = {"final_ms": 1e3 * (times[Final] - times[Control]), "cpu_s": time.process_time() - cpu}
    return delays | ({"refined_ms": 1e3 * (times[Refined] - times[Final])} if Refined in times else {})


async def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:ctc")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    server = Server(ServerConfig(port=0, model=options.model))
    await server.start()
    waveform = Waveform(np.resize(speak(SENTENCE).samples, 48_000), 16_000)
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        for adapt in ("none", "suta", "dsuta"):
            rounds = [await measure(client, waveform, adapt) for _ in range(options.rounds + 1)][1:]
            medians = {key: round(statistics.median(found[key] for found in rounds), 3) for key in rounds[0]}
            print(json.dumps({"adapt": adapt, **medians, "load": round(os.getloadavg()[0], 1)}))
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
