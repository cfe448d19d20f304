"""asrlife stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson, Changes
from asrlife.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from asrlife.cli.sending import Sending
    from asrlife.client import Transcript


def stream(
    source: Annotated[Path, typer.Argument(help="A sound file, or a manifest (.jsonl) whose utterances are sent one by one.")],
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="A running `asrlife serve`.")] = "127.0.0.1:50051",
    adapt: Annotated[str, typer.Option(help="none, suta or dsuta, on the server.")] = "none",
    changes: Changes = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="Send at the speed of speech, not as fast as the server takes it.")] = False,
    key: Annotated[
        str, typer.Option(metavar="NAME", help="Go on from what the server keeps under this key, and keep what is learnt.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Send sound to a server and show its words as they come.

    The server finds the pauses of a sound file; the rows of a manifest are
    utterances as they are. With adaptation, a fast text comes first and the
    adapted one follows; a line "was" shows the fast one where they differ.
    A row that cannot be read is reported and the others are sent:
    exit code 0, or 2 when none could be.

    Example: asrlife stream speech.wav --adapt dsuta --realtime
    """
    from asrlife.cli.sending import Sending

    settings = settings_of_stream(adapt, changes or [])
    sending = Sending.of(source)
    heard = _heard(sending, server, adapt, settings, realtime, key, console.err() if as_json else console.out())
    for problem in sending.problems:
        console.fail(problem)
    if as_json:
        console.emit({**_document(sending, heard), "problems": sending.problems})
    if sending.problems and not sending.spans:
        raise typer.Exit(2)


def settings_of_stream(adapt: str, changes: Sequence[str]) -> dict[str, str]:
    """Settings for the server, which checks them; "suta.lr=0.001" is lr of suta."""
    settings = {}
    for change in changes:
        key, equals, value = (part.strip() for part in change.partition("="))
        method, dot, name = key.rpartition(".")
        if not equals or not name:
            raise InputError(f"--set {change}: should be key=value, as in lr=0.001")
        if dot and method != adapt:
            raise InputError(f"--set {change}: {method!r} is not the method of this stream; it is {adapt!r}")
        settings[name] = value
    return settings


def _heard(sending: Sending, server: str, adapt: str, settings: dict[str, str], realtime: bool, key: str, shown_on: Console) -> Transcript:
    from asrlife.cli.live import Transcripts
    from asrlife.cli.sending import sent, told
    from asrlife.client import Client

    def head(start: float, end: float) -> str:
        return f"{start:7.2f} {end:7.2f}  "

    with Client(server) as client, Transcripts(shown_on, adapt != "none", head) as shown:
        return told(sent(client, sending, adapt, settings, realtime, key), shown.add, console.warn)


def _document(sending: Sending, heard: Transcript) -> dict[str, Any]:
    rows = []
    for spoken in heard.utterances:
        row: dict[str, Any] = {"id": sending.owner(spoken.start, spoken.end)} if sending.spans else {}
        row |= {"final": spoken.final, "refined": spoken.refined, "start": spoken.start, "end": spoken.end}
        rows.append({**row, "events": [{"kind": event.kind, **event.detail} for event in spoken.events]})
    return {"utterances": rows, "text": heard.text}
