"""The page, what it must know, and its WebSocket, over HTTP."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server.config import ServerConfig
from asrlife_server.refusal import Refusal
from asrlife_server.web.bridge import Bridge
from asrlife_server.web.transport import transport

if TYPE_CHECKING:
    from aiohttp import web

_PAGE = Path(__file__).parent / "page"
_FILES = ("page.css", "page.js", "stream.js", "sound.js", "chart.js", "words.js", "transcript.js", "worklet.js", "icon.svg")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Server": "asrlife",
}
_HEARTBEAT = 20.0  # s between pings; a browser that answers none for half of it is gone
_MESSAGE_ROOM = 64 * 1024  # bytes of a message around its chunk
_HTTP = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


class Site:
    """Serves the page; every stream of it is a call to our own gRPC service, under the same rules as any other.

    The calls go through a socket in a folder that nobody else may enter. `methods` are the adaptation methods with their settings in
    force, for the form. Raises InputError where aiohttp is absent.
    """

    def __init__(self, config: ServerConfig, methods: Mapping[str, Mapping[str, str]]) -> None:
        self._aiohttp = library()
        self._tls = transport(config)
        self._config = config
        self._methods = methods
        self._folder = TemporaryDirectory(prefix="asrlife-")
        self._target = f"unix:{self._folder.name}/page"
        self._channel = grpc.aio.insecure_channel(self._target, options=[("grpc.max_receive_message_length", -1)])
        self._stub = asrlife_pb2_grpc.SpeechAdaptStub(self._channel)
        self._runner: Any = None
        self.port = config.web.port

    async def start(self, server: grpc.aio.Server) -> None:
        """Take the port and serve, of a gRPC server that has yet to start; raises InputError where the port is taken."""
        self._listen(server)
        web = self._aiohttp

        async def guarded(request: Any, handler: Handler) -> Any:
            return await self._guarded(request, handler)

        app = web.Application(middlewares=[web.middleware(guarded)])
        app.add_routes([web.get("/", self._page), web.get("/info", self._info), web.get("/stream", self._stream)])
        app.add_routes([web.get(f"/{name}", self._file) for name in _FILES])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        where = self._config.web
        site = web.TCPSite(self._runner, where.host, where.port, ssl_context=self._tls)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            raise InputError(f"web: cannot listen on {where.host}:{where.port}: {error.strerror}; choose another web.port") from error
        self.port = self._runner.addresses[0][1]

    def _listen(self, server: grpc.aio.Server) -> None:
        try:
            server.add_insecure_port(self._target)
        except RuntimeError as error:
            text = f"web: no socket can be made in {self._folder.name}; set TMPDIR to a folder with a shorter name that can be written"
            raise InputError(text) from error

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        host = self._config.web.host
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}/"

    async def stop(self) -> None:
        """Close what is open."""
        if self._runner is not None:
            await self._runner.cleanup()
        await self._channel.close(None)
        self._folder.cleanup()

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._known(urlsplit(f"//{request.host}").hostname or ""):
            text = f"this server is not called {request.host}; use its address, or name https://{request.host} in web.origins"
            return self._aiohttp.Response(status=403, text=text, headers=_HEADERS)
        try:
            response = await handler(request)
        except self._aiohttp.HTTPException as error:
            error.headers.update(_HEADERS)
            raise
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _known(self, name: str) -> bool:
        """Whether a Host header names this server: a name that anybody could point here (DNS rebinding) does not."""
        if name in ("localhost", self._config.web.host) or name in (urlsplit(origin).hostname for origin in self._config.web.origins):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return self._aiohttp.FileResponse(_PAGE / "index.html", headers=_HEADERS)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return self._aiohttp.FileResponse(_PAGE / request.path.removeprefix("/"), headers=_HEADERS)

    async def _info(self, request: web.Request) -> web.StreamResponse:
        """What the form needs, and whether the caller's token is good."""
        given = request.headers.get("Authorization")
        try:
            info = await self._stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=(("authorization", given),) if given else ())
        except grpc.aio.AioRpcError as error:
            refused = {"error": {"code": error.code().name, "message": error.details()}}
            return self._aiohttp.json_response(refused, status=_HTTP.get(error.code().name, 503))
        model = info.models[0]
        told = {"version": info.version, "model": model.name, "language": model.language}
        usual = self._config.adaptation.method
        return self._aiohttp.json_response({**told, "methods": {n: dict(s) for n, s in self._methods.items()}, "usual": usual})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if not self._own(request):
            return self._aiohttp.Response(status=403, text="a page of another site may not open streams here; see web.origins")
        most = self._config.limits.chunk_bytes + _MESSAGE_ROOM
        socket = self._aiohttp.WebSocketResponse(heartbeat=_HEARTBEAT, max_msg_size=most, compress=False)
        await socket.prepare(request)
        await Bridge(self._stub, self._config.timeouts.first_message_s).serve(socket)
        return socket

    def _own(self, request: web.Request) -> bool:
        """Whether a WebSocket is opened by our page, in a browser that says so."""
        origin = request.headers.get("Origin", "")
        return origin in self._config.web.origins or (urlsplit(origin).netloc.lower() == request.host.lower() and bool(origin))


def library() -> Any:
    """aiohttp's server; raises InputError where it is absent."""
    try:
        from aiohttp import web
    except ImportError as error:
        raise InputError("web: the page needs aiohttp: pip install 'asrlife[web]'") from error
    return web


def settings_of(make: Callable[..., Any], model: Any) -> dict[str, dict[str, str]]:
    """Every method that the server can make for its model, with the settings that a client may change, as they are in force."""
    from asrlife.methods.online import METHODS
    from asrlife_server.opening import in_force

    found = {}
    for name in METHODS:
        try:
            method = make(name, {}, model)
        except (InputError, Refusal):
            continue
        private: frozenset[str] = getattr(method, "files", frozenset())
        found[name] = {key: value for key, value in in_force(method).items() if key not in private}
    return found
