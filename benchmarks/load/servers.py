"""Servers in processes of their own, each for the time of one `with`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from asrlife.cli import child
from asrlife.errors import InputError

PEERS = {"pocketsphinx": ("sphinx.py",), "pocketsphinx-first-pass": ("sphinx.py", "--first-pass")}


@contextmanager
def serving(model: str) -> Iterator[tuple[str, int]]:
    """The address of a server of asrlife and the port of its metrics."""
    port = child._free()
    settings = {"METRICS__PORT": str(port), "LIMITS__STREAMS": "1024", "STATE__BACKEND": "memory", "LOG__LEVEL": "error"}
    os.environ.update({f"ASRLIFE_{name}": value for name, value in settings.items()})
    with tempfile.TemporaryDirectory() as folder, child.server(model, None, Path(folder) / "log") as address:
        yield address, port


@contextmanager
def beside(script: str, *options: str) -> Iterator[str]:
    """The address of a server of this folder, which prints its port and stops when its standard input ends."""
    command = [sys.executable, str(Path(__file__).parent / script), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            port = server.stdout.readline().strip()
            if not port:
                raise InputError(f"{script} did not start; the line above says why")
            yield f"127.0.0.1:{port}"
        finally:
            server.stdin.close()


def lag(port: int) -> Callable[[], float | None]:
    """A reader of the 99th percentile (ms) of the event loop's lag since now: the upper border of its bucket."""
    before = _lags(port)

    def read() -> float | None:
        since = {border: total - before[border] for border, total in _lags(port).items()}
        total = max(since.values())
        return next((1000 * border for border, below in sorted(since.items()) if below >= 0.99 * total), None) if total else None

    return read


def _lags(port: int) -> dict[float, float]:
    found = re.findall(r'^asrlife_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', metrics(port), re.MULTILINE)
    return {float(border): float(total) for border, total in found}


def metrics(port: int) -> str:
    """All of a server's metrics."""
    return str(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode())
