"""asrlife state, on a server whose store has something in it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from asrlife.audio.speak import speak
from asrlife.client import Adapted, Client, Opened

pytestmark = pytest.mark.slow
SETTINGS = {"steps": 1, "scope": "norms"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real server with the embedded model, in a thread of its own."""
    from asrlife_server.config import ServerConfig
    from asrlife_server.main import Server

    async def started() -> Server:
        server = Server(ServerConfig.read(None, {"port": 0, "state.backend": "memory", "state.allow_import": True}))
        await server.start()
        return server

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    server = asyncio.run_coroutine_threadsafe(started(), loop).result(120)
    yield f"127.0.0.1:{server.port}"
    asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)


def told(address: str, key: str) -> list[object]:
    sound = speak("turn on the kitchen light")
    with Client(address) as client:
        options = {"adapt": "csuta", "settings": SETTINGS, "endpointing": "external", "key": key, "persist": "key"}
        return list(client.stream(sound, **options))


def test_a_state_is_shown_taken_out_brought_in_reset_and_forgotten(asrlife, server: str, tmp_path: Path) -> None:
    events = told(server, "anna")
    assert [event.kind for event in events if isinstance(event, Adapted)] == ["stepped", "persisted"]
    again = told(server, "anna")
    assert isinstance(again[0], Opened) and again[0].state_version == 1
    (first, *_) = (event for event in again if isinstance(event, Adapted))
    assert (first.kind, first.restored, first.state_version) == ("restored", True, 1)

    shown = asrlife("state", "get", "anna", "--server", server, "--json")
    assert shown.code == 0
    state = shown.json()
    assert [each["version"] for each in state["history"]] == [2, 1] and state["current"]["method"] == "csuta"
    assert state["current"]["settings"]["steps"] == "1" and state["current"]["drift"] > state["history"][1]["drift"] > 0
    table = asrlife("state", "get", "anna", "--server", server)
    assert table.code == 0 and "csuta" in table.out and len(table.out.splitlines()) == 3

    file = tmp_path / "anna.state"
    out = asrlife("state", "export", "anna", "--version", "1", "--out", file, "--server", server, "--json")
    assert out.json()["version"] == 1 and file.stat().st_size == out.json()["size_bytes"]
    assert json.loads((tmp_path / "anna.state.json").read_text())["key"] == "anna"
    brought = asrlife("state", "import", file, "--key", "berta", "--server", server, "--json")
    assert brought.json()["current"]["checksum"] == out.json()["checksum"]

    assert asrlife("state", "reset", "anna", "--version", "1", "--server", server, "--json").json()["current"]["version"] == 3
    assert asrlife("state", "reset", "anna", "--server", server, "--json").json()["current"]["method"] == ""
    assert asrlife("state", "delete", "anna", "--server", server, "--json").json() == {"key": "anna", "deleted": True}
    gone = asrlife("state", "get", "anna", "--server", server)
    assert (gone.code, gone.out) == (2, "") and "nothing is kept under 'anna'" in gone.err


def test_a_stream_of_the_command_line_keeps_what_it_learns_under_its_key(asrlife, server: str, speech: list[Path]) -> None:
    how = ["--adapt", "csuta", "--set", "steps=1", "--set", "scope=norms", "--key", "dora", "--server", server, "--json"]
    for version in (0, 1):
        events = asrlife("stream", speech[0], *how).json()["utterances"][0]["events"]
        kinds = [event["kind"] for event in events]
        assert kinds[-2:] == ["stepped", "persisted"]
        assert asrlife("state", "get", "dora", "--server", server, "--json").json()["current"]["version"] == version + 1


def test_a_key_is_written_by_one_stream_after_the_other(asrlife, server: str, speech: list[Path]) -> None:
    how = ["--adapt", "csuta", "--set", "steps=1", "--set", "scope=norms", "--key", "emil", "--server", server, "--json"]
    ended = asrlife("stream", *speech[:2], *how, "--at-once", 2)
    assert ended.code == 2 and "--key emil: one stream at a time writes a key" in ended.err
    streams = asrlife("stream", *speech[:2], *how).json()["streams"]
    kept = [event["kind"] == "persisted" for each in streams for spoken in each["utterances"] for event in spoken["events"]]
    assert asrlife("state", "get", "emil", "--server", server, "--json").json()["current"]["version"] == sum(kept) >= 2


def test_a_damaged_file_and_a_wrong_key_are_one_line(asrlife, server: str, tmp_path: Path) -> None:
    told(server, "carla")
    file = tmp_path / "carla.state"
    asrlife("state", "export", "carla", "--out", file, "--server", server)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    bad = asrlife("state", "import", file, "--server", server)
    assert bad.code == 2 and "checksum: " in bad.err and bad.err.count("\n") == 1
    assert "use 1 to 128" in asrlife("state", "get", "../x", "--server", server).err
    assert "No such file" in asrlife("state", "import", tmp_path / "none", "--server", server).err
