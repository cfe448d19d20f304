"""The README's code runs."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = next(block for block in README.split("```") if "asrlife transcribe" in block)
LIBRARY, CLIENT = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.fixture
def port() -> Iterator[int]:
    """Where a server listens, which runs in a thread of its own."""
    from asrlife_server.config import ServerConfig
    from asrlife_server.main import Server

    async def started() -> Server:
        server = Server(ServerConfig(port=0))
        await server.start()
        return server

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    server = asyncio.run_coroutine_threadsafe(started(), loop).result(120)
    yield server.port
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)


def test_the_examples_have_about_ten_lines() -> None:
    assert all(len([line for line in block.splitlines() if line]) <= 10 for block in (LIBRARY, CLIENT))


@pytest.mark.slow
def test_ten_lines_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(LIBRARY, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("->") == 2


@pytest.mark.slow
def test_ten_lines_of_client(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import asrlife

    monkeypatch.chdir(tmp_path)
    asrlife.write(tmp_path / "speech.wav", asrlife.speak("turn on the kitchen light"))
    exec(compile(CLIENT.replace("50051", str(port)), "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "heard" in said and "adapted" in said


def test_every_command_of_the_readme_exists() -> None:
    from typer.main import get_command

    from asrlife.cli.app import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"^asrlife (\w+)", COMMANDS, re.M)) <= known
