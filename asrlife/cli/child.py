"""A server in a child process, for the time of one `with`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asrlife.errors import InputError

HOST = "127.0.0.1"


@contextmanager
def server(model: str, port: int | None, log: Path, patience: float = 90.0) -> Iterator[str]:
    """Start `asrlife serve` and yield its address once it is healthy; stop it whatever happens.

    `port` None takes a free one. A busy port, or a server that ends or is not healthy within `patience` s, raises InputError.
    """
    check(port)
    chosen = _free() if port is None else port
    command = [sys.executable, "-m", "asrlife", "serve", "--model", model, "--host", HOST, "--port", str(chosen)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output, _terminable():
        # a session of its own: Ctrl-C reaches this process only, which then stops the child in order
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        try:
            _await(child, chosen, log, patience)
            yield f"{HOST}:{chosen}"
        finally:
            _stop(child)


def _free() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check(port: int | None) -> None:
    """Raise InputError for a port that cannot be had."""
    if port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is not busy
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port {port} cannot be used ({getattr(error, 'strerror', error)}); leave --port out to take a free one"
            ) from error


def _await(child: subprocess.Popen[bytes], port: int, log: Path, patience: float) -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    end = time.monotonic() + patience
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while child.poll() is None and time.monotonic() < end:
            try:
                if health.Check(health_pb2.HealthCheckRequest(), timeout=1).status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                time.sleep(0.1)  # not listening yet
    raise InputError(f"the server did not start: {_last_line(log) or 'it said nothing'} (all it said: {log})")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _stop(child: subprocess.Popen[bytes], grace: float = 10.0) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that the child is stopped."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, which alone may set handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
