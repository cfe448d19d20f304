from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asrlife.cli import child
from asrlife.errors import InputError


def test_a_busy_port_is_said_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((child.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} cannot be used"), child.server("embedded:ctc", port, tmp_path / "log"):
            pytest.fail("started on a busy port")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("port", [-1, 70_000])
def test_an_impossible_port_is_said(port: int) -> None:
    with pytest.raises(InputError, match=f"port {port} cannot be used"):
        child.check(port)


def test_a_server_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the server did not start: asrlife: error: .*embedded:nothing"):
        with child.server("embedded:nothing", None, tmp_path / "log"):
            pytest.fail("a server without a model")


SLEEPER = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
import sys, subprocess
from pathlib import Path
from asrlife.cli import child
real = subprocess.Popen
child.subprocess.Popen = lambda command, **how: real([sys.executable, "-c", "import time; time.sleep(100)"], **how)
def told(process, *rest):
    print(process.pid, flush=True)
    import time; time.sleep(100)
child._await = told
with child.server("x", None, Path(sys.argv[1])):
    pass
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_child_too(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(tmp_path / "log")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.send_signal(number)
    parent.wait(30)
    parent.stdout.close()
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
