"""asrlife texts."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.text.grammar import Drafted


def texts(
    grammar: Annotated[str, typer.Argument(help="A YAML grammar, or the name of a recipe that has one, as medical_dictation.")],
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Sentences; each is there once.")] = 200,
    seed: Annotated[int, typer.Option(help="Which sentences.")] = 0,
    family: Annotated[str | None, typer.Option(metavar="NAME", help="Only sentences of this family.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write here: a sentence a line, or with entities where it ends in .jsonl.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draft sentences of a domain from a grammar with slots.

    A grammar has families with their shares, templates such as "start
    {drug} {dose}", and slots with what may fill them, slots among it. What
    fills the slots named under entities is marked, so that entity recall can
    be measured: in FILE.jsonl and --json with its place among the words.

    Example: asrlife texts medical_dictation --count 200 --out notes.txt
    """
    from asrlife.errors import InputError
    from asrlife.text.grammar import Grammar

    found = list(islice(Grammar.read(_path(grammar)).drafts(seed, family), count))
    if not found:
        raise InputError(f"{grammar}: the grammar says nothing; give it sentences")
    if len(found) < count:
        console.warn(f"the grammar seems to have {len(found)} sentences and no more")
    if out is not None:
        _write(found, out)
    if as_json:
        console.emit({"sentences": [drafted.to_json() for drafted in found], "seed": seed, "out": None if out is None else str(out)})
    elif out is not None:
        print(out)
    else:
        print("\n".join(drafted.text for drafted in found))


def _path(name: str) -> Path:
    from asrlife.recipe.recipe import folder

    inside = folder() / name / "grammar.yaml"
    return inside if not Path(name).exists() and inside.is_file() else Path(name)


def _write(found: list[Drafted], out: Path) -> None:
    import json

    from asrlife.files import atomic

    rows = out.suffix.lower() in (".jsonl", ".ndjson")
    with atomic(out, "w") as file:
        file.writelines((json.dumps(one.to_json(), ensure_ascii=False) if rows else one.text) + "\n" for one in found)
