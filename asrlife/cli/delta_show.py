"""asrlife delta show, asrlife delta compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrlife.cli import console, operands
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.delta.delta import Delta
    from asrlife.delta.summary import Cell, Pair


def show(
    delta: Annotated[Path, typer.Argument(metavar="DELTA", help="A delta file (.safetensors, with its .json beside it).")],
    base: Annotated[str | None, typer.Option(help="The model it moves: lengths are then relative to its weights.")] = None,
    other: Annotated[Path | None, typer.Option("--with", metavar="DELTA", help="Another delta of the same base, for cosines.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the table as a heat map into this PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show where a delta moves the weights: by layer and role.

    norm is Euclidean, share its square's part of the whole, rms that of a mean
    entry; moved is the length by that of the base's weights (--base); cosine
    is that of the angle to another delta (--with), or to the base's weights.

    Example: asrlife delta show skill.safetensors --base base --picture skill.png
    """
    from asrlife.delta.summary import cells

    found = operands.delta(delta)
    weights = None if base is None else operands.checkpoint(base)
    against = None if other is None else operands.delta(other)
    with console.progress("measuring", len(found.tensors)) as advance:
        table = cells(found, weights, against, advance)
    if picture is not None:
        from asrlife.delta.picture import draw

        draw(table, picture, delta.name + (f" and {other.name}" if other else ""))
    if as_json:
        console.emit(_document(delta, found, table, against, picture))
    else:
        _table(table, found)
        _picture(picture)


def compare(
    deltas: Annotated[list[Path], typer.Argument(metavar="DELTA DELTA...", help="Delta files of one base.")],
    as_json: AsJson = False,
) -> None:
    """Compare deltas of one base: how alike, and where they are in each other's way.

    cosine: 1 for the same direction, 0 for none in common; conflict: where both
    move an entry, how often against one another; overlap: of the entries that
    either moves, those that both move. Low conflict merges well.

    Example: asrlife delta compare medical.safetensors legal.safetensors
    """
    from asrlife.delta.summary import compare as pair_up
    from asrlife.errors import InputError

    if len(deltas) < 2:
        raise InputError("give two deltas or more to compare")
    found = [(path, operands.delta(path)) for path in deltas]
    pairs = []
    total = sum(len({*one.tensors, *other.tensors}) for (_, one), (_, other) in combinations(found, 2))
    with console.progress("comparing", total) as advance:
        for (first, one), (second, other) in combinations(found, 2):
            pairs.append((first, second, pair_up(one, other, advance)))
    if as_json:
        console.emit({"norms": {str(path): delta.norm() for path, delta in found}, "pairs": [_pair(*pair) for pair in pairs]})
    else:
        _matrix(found, pairs)


def _pair(first: Path, second: Path, rows: Iterable[Pair]) -> dict[str, Any]:
    from dataclasses import asdict

    told = [asdict(row) for row in rows]
    whole = next(({key: row[key] for key in ("cosine", "conflict", "overlap")} for row in told if not row["role"]), {})
    return {"a": str(first), "b": str(second), **whole, "roles": [row for row in told if row["role"]]}


def _document(path: Path, delta: Delta, table: list[Cell], other: Delta | None, picture: Path | None) -> Mapping[str, Any]:
    cosine = delta.cosine(other) if other is not None and delta.norm() and other.norm() else None
    return {
        "delta": str(path), "base": delta.base, "norm": delta.norm(), "cosine": cosine, "note": dict(delta.note),
        "cells": [cell.to_json() for cell in table], "picture": str(picture) if picture else None,
    }  # fmt: skip


def _table(table: list[Cell], delta: Delta) -> None:
    from rich.table import Table

    relative, angled = any(cell.relative is not None for cell in table), any(cell.cosine is not None for cell in table)
    grid = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("layer", "role"):
        grid.add_column(heading)
    for heading in ("tensors", "norm", "share", "rms", *["moved"] * relative, *["cosine"] * angled):
        grid.add_column(heading, justify="right")
    for cell in table:
        layer = cell.part if cell.layer is None else f"{cell.part} {cell.layer}"
        numbers = [str(cell.tensors), f"{cell.norm:.3g}", f"{cell.share:.1%}", f"{cell.rms:.2e}"]
        extra = [_number(cell.relative, ".2%")] * relative + [_number(cell.cosine, ".3f")] * angled
        grid.add_row(layer, cell.role, *numbers, *extra)
    console.out().print(grid)
    parameters = sum(cell.parameters for cell in table)
    print(f"{len(delta.tensors)} tensors, {parameters:,} parameters, norm {delta.norm():.4g}, for base {delta.base[:12]}")


def _matrix(found: list[tuple[Path, Delta]], pairs: list[tuple[Path, Path, list[Pair]]]) -> None:
    from rich.table import Table

    for path, delta in found:
        print(f"{path.name}: norm {delta.norm():.4g}, {len(delta.tensors)} tensors")
    for first, second, rows in pairs:
        grid = Table(box=None, padding=(0, 2, 0, 0), title=f"{first.name} and {second.name}", title_justify="left")
        grid.add_column("role")
        for heading in ("cosine", "conflict", "overlap"):
            grid.add_column(heading, justify="right")
        for row in rows:
            grid.add_row(row.role or "all", _number(row.cosine, ".3f"), _number(row.conflict, ".1%"), _number(row.overlap, ".1%"))
        console.out().print(grid)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _picture(path: Path | None) -> None:
    if path is not None:
        console.note(f"drawn in {path}")
