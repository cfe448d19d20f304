"""asrlife edit trace."""

from __future__ import annotations

import typer

from asrlife.cli import edit_trace

_HELP = """Change single facts and words of a model, and see where they are kept.

Example: asrlife edit trace embedded:lm --prompt "The Space Needle stands in" --subject "Space Needle\""""
app = typer.Typer(no_args_is_help=True, help=_HELP, rich_markup_mode="rich")
app.command("trace")(edit_trace.trace)
