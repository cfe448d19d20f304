"""Whether a server answers SERVING: `python -m asrlife_server.probe [HOST:PORT] [CA.pem]` ends with 0, or 1 where it does not.

For containers without a tool of their own for this, and for servers that speak TLS, which Kubernetes' gRPC probes do not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = "asrlife.v1.SpeechAdapt"
_PATIENCE = 5.0  # s


def serving(address: str, ca: Path | None = None) -> bool:
    """Ask the server at an address, over TLS where a certificate authority is named."""
    if ca is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes()))
    with channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_PATIENCE)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    address = arguments[0] if arguments else f"127.0.0.1:{os.environ.get('ASRLIFE_PORT') or 50051}"
    return 0 if serving(address, Path(arguments[1]) if len(arguments) > 1 else None) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
