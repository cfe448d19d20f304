"""asrlife state get, reset, delete, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrlife.cli import console
from asrlife.cli.connecting import Connection, connecting
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.client import KeptState

_HELP = "What a server keeps of a speaker: look, go back, forget, take out, bring in.\n\nExample: asrlife state get anna"
app = typer.Typer(no_args_is_help=True, help=_HELP, rich_markup_mode="rich")
Key = Annotated[str, typer.Argument(help="The adaptation key: 1 to 128 of A-Z a-z 0-9 . _ -")]


@app.command("get")
@connecting
def get(key: Key, as_json: AsJson = False, *, connection: Connection) -> None:
    """Show the versions that are kept under a key.

    Example: asrlife state get anna
    """
    with connection.client() as client:
        _show(client.get_state(key), as_json)


@app.command("reset")
@connecting
def reset(
    key: Key,
    version: Annotated[int | None, typer.Option(min=0, help="The version to go back to. Default: the base weights.")] = None,
    as_json: AsJson = False,
    *,
    connection: Connection,
) -> None:
    """Go back to an earlier version, or to the base weights.

    This makes a new version, so that it can be undone while the history
    reaches that far.

    Example: asrlife state reset anna --version 12
    """
    with connection.client() as client:
        _show(client.reset_state(key, version), as_json)


@app.command("delete")
@connecting
def delete(key: Key, as_json: AsJson = False, *, connection: Connection) -> None:
    """Forget a key with its whole history.

    Example: asrlife state delete anna
    """
    with connection.client() as client:
        client.delete_state(key)
    if as_json:
        console.emit({"key": key, "deleted": True})
    else:
        print(f"{key}: forgotten")


@app.command("export")
@connecting
def export(
    key: Key,
    out: Annotated[Path, typer.Option(help="File for the state (safetensors); what it is goes into a .json beside it.")],
    version: Annotated[int | None, typer.Option(min=0, help="The version to take out. Default: the current one.")] = None,
    as_json: AsJson = False,
    *,
    connection: Connection,
) -> None:
    """Write a state into a file.

    Example: asrlife state export anna --out anna.state
    """
    from dataclasses import asdict

    with connection.client() as client:
        found = client.export_state(key, version)
    found.write(out)
    if as_json:
        console.emit({"key": key, "path": str(out), **asdict(found.version)})
    else:
        print(f"{key}: version {found.version.version} is in {out} ({len(found.blob)} bytes)")


@app.command("import")
@connecting
def bring(
    path: Annotated[Path, typer.Argument(help="A file that `asrlife state export` wrote, with its .json beside it.")],
    key: Annotated[str | None, typer.Option(help="The key to keep it under. Default: the one it had.")] = None,
    as_json: AsJson = False,
    *,
    connection: Connection,
) -> None:
    """Bring a state from a file into a server that allows it.

    The server must run the same model; its configuration must say
    state.allow_import: true.

    Example: asrlife state import anna.state --key anna-2
    """
    from asrlife.client import Exported

    exported = Exported.read(path)
    with connection.client() as client:
        _show(client.import_state(exported, key), as_json)


def _show(state: KeptState, as_json: bool) -> None:
    if as_json:
        console.emit(state.to_json())
        return
    from datetime import datetime

    from rich.table import Table

    table = Table("version", "method", "steps", "drift", "bytes", "time", "", box=None, padding=(0, 2, 0, 0))
    for each in state.history:
        when = datetime.fromtimestamp(each.time).isoformat(" ", "seconds")
        method = each.method or "(base)"
        table.add_row(str(each.version), method, str(each.steps), f"{each.drift:.4g}", str(each.size_bytes), when, each.quarantined)
    console.out().print(table)
