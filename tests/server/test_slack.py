from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress

import pytest

from asrlife_server import slack
from tests.fuzz.spoiling import reads_memory

HOLES = """
import os, sys
from pathlib import Path
from asrlife_server.slack import trimmer

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

pieces = [bytearray(60_000) for _ in range(2_000)]  # below the size that is mapped by itself
for piece in pieces:
    piece[::4096] = b"x" * len(piece[::4096])
last = bytearray(60_000)  # lies behind them, so that the heap cannot shrink
del pieces, piece
before = resident()
trimmer()()
print(before - resident(), len(last))
"""


@reads_memory
@pytest.mark.skipif(slack.trimmer() is None, reason="this C library gives nothing back")
def test_holes_between_what_lives_on_are_given_back() -> None:
    found = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True).stdout
    assert int(found.split()[0]) > 60e6  # of 120 MB


async def test_it_is_done_again_and_again_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr(slack, "trimmer", lambda: lambda: done.append(1))
    task = asyncio.create_task(slack.returned(0.001))
    while len(done) < 3:
        await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_it_ends_where_it_cannot_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slack, "trimmer", lambda: None)
    task = asyncio.create_task(slack.returned(3600))
    done, _ = await asyncio.wait([task], timeout=5)
    assert done == {task} and task.exception() is None
