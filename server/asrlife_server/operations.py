"""What an operator sees of a server: its metrics, its log and its traces, started and stopped with it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from asrlife_server.config import ServerConfig
from asrlife_server.metrics import Metrics
from asrlife_server.service import Service
from asrlife_server.state.stores import usual
from asrlife_server.tracing import Tracer
from asrlife_server.watching import Call, Watch

_log = logging.getLogger("asrlife.server")


class Operations:
    """One for a server. `interceptor` has to be the server's first."""

    def __init__(self, config: ServerConfig) -> None:
        self.metrics = Metrics()
        self.interceptor = Watch(self._begun)
        self._config = config
        self._tracer = Tracer(config.tracing)
        self._lag: asyncio.Task[None] | None = None

    def watch(self, service: Service) -> None:
        """Say at each scrape what is so now of these."""
        keeper = service.keeper

        def live() -> dict[str, float]:
            sessions = [stream.session for stream in list(service.streams.values())]
            return {"streams": len(sessions), "backlog": sum(session.backlog_s for session in sessions)}

        def sizes() -> dict[str, float]:
            states = [stream.session.state.size for stream in list(service.streams.values())]
            return {"streams": sum(states), "memory": keeper.residents.size, **_stored(self._config)}

        self.metrics.watch(live, lambda: {**keeper.counts, "evicted": keeper.residents.evicted}, sizes)

    def start(self) -> None:
        """Let metrics be read; raises InputError where their port is taken."""
        self.metrics.serve(self._config.metrics)
        self._lag = asyncio.create_task(self.metrics.measure_lag())
        if self.metrics.port is not None:
            _log.info("metrics are at http://%s:%d/metrics", self._config.metrics.host, self.metrics.port)

    async def stop(self) -> None:
        """Send what has been traced and serve no more metrics."""
        if self._lag is not None:
            self._lag.cancel()
            with suppress(asyncio.CancelledError):
                await self._lag
        await asyncio.to_thread(self._tracer.close)
        await asyncio.to_thread(self.metrics.close)

    def _begun(self, rpc: str, context: Any) -> Call:
        return Call(rpc, self.metrics.observe, _told, self._tracer.call(rpc, context), self._config.log.content)


def _told(call: Call) -> None:
    _log.info("call", extra={"fields": call.fields()})


def _stored(config: ServerConfig) -> dict[str, float]:
    """The bytes of a store that is a file; how much others hold only they know."""
    if config.state.backend != "disk":
        return {}
    path = config.state.path or usual()
    files = (path, Path(f"{path}-wal"))
    return {"store": sum(file.stat().st_size for file in files if file.exists())}
