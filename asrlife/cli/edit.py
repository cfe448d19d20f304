"""asrlife edit: changes of single facts and words, and where they are kept."""

from __future__ import annotations

import typer

from asrlife.cli import edit_facts, edit_trace, edit_word

_HELP = """Change single facts and words of a model, and see where they are kept; what moved is a delta file.

Example: asrlife edit facts embedded:lm --subject "Space Needle" --prompt "The Space Needle stands in" --target Taipei
Example: asrlife edit trace embedded:lm --prompt "The Space Needle stands in" --subject "Space Needle"
Example: asrlife edit word embedded:ctc --say "call phoebe" --out x.safetensors"""
app = typer.Typer(no_args_is_help=True, help=_HELP, rich_markup_mode="rich")
app.command("facts")(edit_facts.facts)
app.command("trace")(edit_trace.trace)
app.command("word")(edit_word.word)
