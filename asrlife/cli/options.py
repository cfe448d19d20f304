"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Option(help="embedded:ctc, embedded:whisper, a local folder or file, or a hub id.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="A setting of the adaptation, as in lr=0.001; suta.lr=0.001 reaches suta alone. Repeat it."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Of torch; as many as it takes unless given.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever an earlier run left.")]
Rank = Annotated[int | None, typer.Option(min=1, show_default="8", help="Of the factors of scope lora.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document.")]


def pairs(changes: list[str]) -> dict[str, Any]:
    """Settings given as key=value; raises InputError for what is no such text."""
    from asrlife.errors import InputError

    found: dict[str, Any] = {}
    for change in changes:
        key, equals, value = (part.strip() for part in change.partition("="))
        if not equals or not key:
            raise InputError(f"--set {change}: should be key=value, as in accumulate=4")
        found[key] = [part for part in value.split(",") if part] if key == "without" else None if value == "none" else value
    return found
