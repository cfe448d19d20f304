"""A server whose model says nothing, in a process of its own: what is left is the transport."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import Any

from asrlife.methods.online.state import State
from asrlife.text.hypothesis import Hypothesis
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server


@dataclass(frozen=True)
class Null:
    """Has heard nothing, whatever it was."""

    name: str = "null"
    rate: int = 16_000
    card: dict[str, Any] = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset({"emissions"})

    def fingerprint(self) -> str:
        """Of no weights."""
        return "null"

    def twin(self) -> Null:
        """It has nothing that could be shared."""
        return self

    def transcribe(self, waveforms: list[Any], batch_size: int = 8) -> list[Hypothesis]:
        """No words."""
        return [Hypothesis("", (), (), 0.0) for _ in waveforms]


@dataclass(frozen=True)
class Nothing:
    """The method "none"."""

    name: str = "none"

    def start(self, model: Null) -> State:
        """A state that holds nothing."""
        return State(model.fingerprint())


async def main() -> None:
    """Serve on a free port, which is printed, until standard input ends."""
    given = {"port": 0, "model": "null", "limits.streams": 1024, "state.backend": "memory", "limits.utterance_ms": 5000}
    server = Server(ServerConfig.read(None, given), Null(), lambda *_: Nothing())
    await server.start()
    print(server.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
