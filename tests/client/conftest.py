from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager

import pytest

from asrlife_server.config import ServerConfig
from asrlife_server.main import Server


@contextmanager
def _running(settings):
    """A real server with the embedded model, in a thread of its own."""
    ready, loop, found = threading.Event(), asyncio.new_event_loop(), {}

    async def begin():
        found["server"] = Server(ServerConfig.read(None, {"port": 0, **settings}))
        await found["server"].start()
        ready.set()

    def work():
        loop.run_until_complete(begin())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(120)
    yield f"127.0.0.1:{found['server'].port}"
    asyncio.run_coroutine_threadsafe(found["server"].stop(0), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture
def running():
    return _running


@pytest.fixture(scope="session")
def address():
    with _running({"limits.chunk_bytes": 20_000}) as address:
        yield address


@pytest.fixture
def nobody():
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
