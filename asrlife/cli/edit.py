"""asrlife edit: changes of single facts and words."""

from __future__ import annotations

import typer

from asrlife.cli import edit_word

_EXAMPLE = 'Example: asrlife edit word embedded:ctc --say "call phoebe" --out x.safetensors'
_HELP = f"Change a word of a recogniser; what moved is a delta file.\n\n{_EXAMPLE}"
app = typer.Typer(no_args_is_help=True, help=_HELP, rich_markup_mode="rich")
app.command("word")(edit_word.word)
