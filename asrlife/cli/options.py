"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="embedded:ctc, embedded:whisper, a local folder or file, or a hub id.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="A setting of the adaptation, as in lr=0.001; suta.lr=0.001 reaches suta alone. Repeat it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document.")]
