"""Start a server, keep it, stop it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import asrlife
from asrlife.errors import InputError
from asrlife.recipe.domain.names import delta_of
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server import logs, riva, slack
from asrlife_server.certificates import credentials
from asrlife_server.config import ServerConfig
from asrlife_server.ears import Silero
from asrlife_server.engine import Engine
from asrlife_server.opening import Make
from asrlife_server.operations import Operations
from asrlife_server.service import NAME, Service
from asrlife_server.state.entry import Store
from asrlife_server.state.keeper import Keeper
from asrlife_server.state.stores import check
from asrlife_server.tenancy import Gate, Tenancy
from asrlife_server.web.site import Site, settings_of

_KERNELS = "64"
_FAREWELL = 2.0  # s in which last messages may leave
_ALL = ""  # what health calls the whole server


class Server:
    """A server in the running event loop; `model`, `make` and `store` may be given, otherwise they are what the settings name."""

    def __init__(self, config: ServerConfig, model: Any = None, make: Make | None = None, store: Store | None = None) -> None:
        if store is None:
            check(config.state)
        self._credentials, tenancy = credentials(config.security, config.host), Tenancy(config)
        self.config = config
        self.port = config.port
        model, ear = model or asrlife.load(config.model, delta=delta_of(config.delta), scale=config.delta_scale), Silero().ear
        self.operations = Operations(config)
        observe = self.operations.metrics.observe
        self.engine = Engine(model, config.batching, config.limits.queued_jobs, config.threads, observe)
        self.keeper = Keeper(config.state, store)
        self.service = Service(config, model, self.engine, ear, make or _make(), self.keeper, tenancy)
        self._model = model
        self.site = Site(config, settings_of(make or _make(), model)) if config.web.enabled else None
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self.operations.watch(self.service)
        self._server = grpc.aio.server(interceptors=[self.operations.interceptor, Gate(tenancy)], options=_options(config))

    async def start(self) -> None:
        """Take the port and serve; raises InputError where the port is taken."""
        asrlife_pb2_grpc.add_SpeechAdaptServicer_to_server(self.service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        facades = [riva.add_to(self._server, self.service, self._model, self.config.limits)] if self.config.riva else []
        reflection.enable_server_reflection((NAME, *facades, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        try:
            self.port = self._bound()
            self.operations.start()
            if self.site is not None:
                await self.site.start(self._server)
        except InputError:
            await asyncio.to_thread(self.engine.close)
            await self.operations.stop()
            raise
        await self._server.start()
        await self._report(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float | None = None) -> None:
        """Say NOT_SERVING, give live streams `grace` s, close them, stop."""
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.service.drain(self.config.timeouts.grace_s if grace is None else grace)
        if self.site is not None:
            await self.site.stop()
        await self._server.stop(_FAREWELL)
        await self.keeper.close()
        await asyncio.to_thread(self.engine.close)
        await self.operations.stop()

    def _bound(self) -> int:
        address = f"{self.config.host}:{self.config.port}"
        try:
            port = self._server.add_secure_port(address, own) if (own := self._credentials) else self._server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if not port:
            raise InputError(f"cannot listen on {address}: the port is in use, or the host is not this machine's; choose another --port")
        return int(port)

    async def _report(self, status: int) -> None:
        for name in (_ALL, NAME):
            await self._health.set(name, status)


def serve(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT; prints the address once clients can come. A second signal does not wait for live streams."""
    with logs.written(config.log):
        asyncio.run(_serve(config))


def _settle() -> None:
    """Let the garbage collector pass over what lives as long as the process.

    A full collection walks through some 400,000 objects of torch and the model, holds the interpreter for more than 100 ms and frees none.
    """
    gc.collect()
    gc.freeze()


async def _serve(config: ServerConfig) -> None:
    # oneDNN keeps 1024 kernels, one for each length of utterance: some 150 MB that come with the first hundreds of streams
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KERNELS)
    server = Server(config)
    await server.start()
    _settle()
    trimming = asyncio.create_task(slack.returned())
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    moved = "" if config.delta is None else f" with {config.delta}"
    print(f"asrlife: {config.model}{moved} on {config.host}:{server.port}", flush=True)
    if server.site is not None:
        print(f"asrlife: live page at {server.site.address}", flush=True)
    await stopping.wait()
    stopping.clear()
    leaving = asyncio.create_task(server.stop())
    hurry = asyncio.create_task(stopping.wait())
    await asyncio.wait([leaving, hurry], return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not leaving.done():
        server.service.expire()
    await leaving
    trimming.cancel()


def _make() -> Make:
    from asrlife.methods.online import make

    return make


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.http2.bdp_probe", 0),  # with probing, a client can push 4 MiB that nobody reads
        ("grpc.so_reuseport", 0),  # two servers on one port would share the clients without a word
        ("grpc.max_receive_message_length", config.limits.message_bytes),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
    ]
