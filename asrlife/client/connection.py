"""What both clients need to know about channels and failures."""

from __future__ import annotations

import grpc

from asrlife.errors import InputError

ADDRESS = "127.0.0.1:50051"
OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),  # silence on a stream must not end its pings
]
# codes that only the caller can mend
_OURS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAUTHENTICATED,
)


class ServerError(RuntimeError):
    """The server, or the way to it, failed; `code` is the gRPC status."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code


def unreachable(address: str) -> InputError:
    """Nobody answers."""
    return InputError(f"no server answers at {address}; start one with `asrlife serve`, or name another with --server HOST:PORT")


def failure(code: grpc.StatusCode | None, details: str | None) -> Exception:
    """The exception for a call that ended badly."""
    if code in _OURS:
        return InputError(details or "the server refused the request")
    return ServerError(code.name if code else "UNKNOWN", details or "no details")
