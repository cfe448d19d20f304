"""asrlife serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson
from asrlife.errors import InputError

if TYPE_CHECKING:
    from asrlife_server.config import ServerConfig

_SETTINGS = "YAML with the server's settings: model, host, port, limits, timeouts ..."


def serve(
    file: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="The same as --config.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(show_default="embedded:ctc", help="The recogniser that every stream adapts for itself.")
    ] = None,
    delta: Annotated[
        Path | None,
        typer.Option(metavar="FILE|NAME", help="What `asrlife tune` left, or a domain by its name: the weights are moved by it."),
    ] = None,
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1", help="Address to listen on; 0.0.0.0 for all.")] = None,
    port: Annotated[int | None, typer.Option(show_default="50051", help="Port; 0 lets the system choose one.")] = None,
    web: Annotated[bool | None, typer.Option("--web", help="Serve a live page too, at http://127.0.0.1:8080.")] = None,
    config: Annotated[Path | None, typer.Option(help=_SETTINGS)] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="K=V", help="Any setting, as in limits.streams=8. Repeat it.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Serve nothing: try everything, and print each setting with where it came from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve streaming recognition over gRPC until SIGTERM or Ctrl-C.

    Each stream adapts on its own; live streams are finished before the server
    stops. Every setting has one name in the file, in --set and in the
    environment: limits.streams is ASRLIFE_LIMITS__STREAMS. Options go over the
    environment, and that over the file. --check ends with 0, or 2 for a fault.

    Example: asrlife serve --model embedded:ctc --port 50051
    Example: asrlife serve --model embedded:ctc-tts --delta cardiology
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines would stand beside the one that says what is wrong
    if file is not None and config is not None:
        raise InputError(f"--config {config}: the file {file} is given as well; name one")
    if as_json and not check:
        raise InputError("--json goes with --check: serving prints no document")
    found, origins = _told(file or config, {"model": model, "delta": delta, "host": host, "port": port, "web.enabled": web}, changes or [])
    if check:
        _check(found, origins, as_json)
        return
    from asrlife_server.main import serve as run

    run(found)


def _told(path: Path | None, options: dict[str, Any], changes: list[str]) -> tuple[ServerConfig, dict[str, str]]:
    from asrlife_server import sources
    from asrlife_server.config import ServerConfig

    flags = sources.assignments(ServerConfig, changes)
    for name, value in options.items():
        if value is None:
            continue
        if name in flags:
            raise InputError(f"--set {name}: --{name} is given as well; name it once")
        sources.check(ServerConfig, name, value, f"--{name}")
        flags[name] = value
    return ServerConfig.traced(path, flags, os.environ)


def _check(config: ServerConfig, origins: dict[str, str], as_json: bool) -> None:
    with console.results_only():
        from asrlife_server.checking import effective, findings

        settings, found = list(effective(config, origins)), findings(config)
    faults = [each for each in found if each.fault]
    if as_json:
        told = {name: {"value": value, "from": origin} for name, value, origin in settings}
        checks = [{"check": each.name, "ok": not each.fault, "fault": each.fault} for each in found]
        console.emit({"settings": told, "checks": checks, "ok": not faults})
    else:
        _show(settings)
    for each in faults:
        console.fail(f"{each.name}: {each.fault}")
    if faults:
        raise typer.Exit(2)
    if not as_json:
        console.out().print(f"\nNothing is wrong with {', '.join(each.name for each in found)}.")


def _show(settings: list[tuple[str, Any, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("setting", box=None, padding=(0, 2, 0, 0))
    for name in ("value", "from"):
        table.add_column(name, overflow="fold")
    for name, value, origin in settings:
        style = "" if origin != "default" else "dim"
        table.add_row(Text(name, style), Text("" if value is None else str(value), style), Text(origin, style))
    console.out().print(table)
