"""asrlife serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[
        str | None, typer.Option(show_default="embedded:ctc", help="The recogniser that every stream adapts for itself.")
    ] = None,
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1", help="Address to listen on; 0.0.0.0 for all.")] = None,
    port: Annotated[int | None, typer.Option(show_default="50051", help="Port; 0 lets the system choose one.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with limits, timeouts, endpointing, adaptation, state; options above win.")
    ] = None,
) -> None:
    """Serve streaming recognition over gRPC until SIGTERM or Ctrl-C.

    Each stream adapts on its own; live streams are finished before the server stops.

    Example: asrlife serve --model embedded:ctc --port 50051
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines would stand beside the one that says what is wrong
    from asrlife_server.config import ServerConfig
    from asrlife_server.main import serve as run

    run(ServerConfig.read(config, {"model": model, "host": host, "port": port}))
