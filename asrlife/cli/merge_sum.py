"""asrlife merge --expr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.cli import console, merge_search, operands
from asrlife.cli.merge_file import ran

if TYPE_CHECKING:
    import torch

    from asrlife.delta.arithmetic import Combination
    from asrlife.evaluate.search import Found
    from asrlife.methods.merge.config import Search


def merge_sum(
    expr: str,
    pairs: list[str],
    out: Path,
    shard_size: int,
    options: Mapping[str, Any],
    check: bool,
    asked: merge_search.Asked,
    as_json: bool,
) -> None:
    """Work an expression out, its factors chosen first where they are searched, and print what was done."""
    with console.results_only():
        search = asked.over(None)
        paths = _paths(expr, pairs, search)
        combination, found = _chosen(expr, paths, out, options, search)
        card = _written(combination, found, paths, out, shard_size, options, check)
    moved = sum(map(combination.moves, combination.base))
    coefficients = dict(combination.expression.coefficients)
    if as_json:
        said = {"expression": combination.expression.text, "coefficients": coefficients, "tensors": len(combination.base), "moved": moved}
        console.emit({"out": str(out), **said, "checked": card["checked"]} | ({} if found is None else merge_search.told(found)))
        return
    if found is not None:
        merge_search.show(found)
    print(out)
    print(ran(card["checked"]))


def _paths(expr: str, pairs: list[str], search: Search | None) -> dict[str, str]:
    """What the names of an expression stand for; factors that are searched stand for none."""
    from asrlife.delta.expression import bound, parse, with_numbers

    return bound(parse(with_numbers(expr, {} if search is None else dict.fromkeys(search.parameters, 1.0))), pairs)


def _written(
    combination: Combination, found: Found | None, paths: dict[str, str], out: Path, size: int, options: Mapping[str, Any], check: bool
) -> dict[str, Any]:  # fmt: skip
    """Write the model, run it once, and return its card."""
    from asrlife.delta.arithmetic import write
    from asrlife.evaluate.merge_search import put_in
    from asrlife.methods.merge.run import checked

    card = {
        "method": "expression", "models": paths, "accumulate": options["accumulate"], "dtype": options["dtype"], "checked": None,
        **({} if found is None else merge_search.told(found)),
    }  # fmt: skip
    with console.progress("merging", len(combination.base)) as advance:
        write(combination, out, dtype=operands.dtype(options["dtype"]), shard_size=size, card=card, advance=advance)
    if found is not None:
        put_in(out)
    single = out.suffix == ".safetensors"
    return checked(out, {"expression": combination.expression.text, **card}, check and not single)


def _chosen(
    expr: str, paths: dict[str, str], out: Path, options: Mapping[str, Any], search: Search | None
) -> tuple[Combination, Found | None]:
    """The sum of an expression, at the factors that a search chooses where there is one."""
    from asrlife.delta.arithmetic import Combination
    from asrlife.delta.expression import parse

    accumulate = _accumulate(options["accumulate"])
    values = {name: operands.operand(path) for name, path in paths.items()}
    moved = _moved(values, options)
    if search is None:
        return Combination(parse(expr), values, moved, accumulate), None
    return _searched(expr, values, moved, accumulate, out, options, search)


def _searched(
    expr: str,
    values: dict[str, Any],
    moved: list[str] | None,
    accumulate: torch.dtype,
    out: Path,
    options: Mapping[str, Any],
    search: Search,
) -> tuple[Combination, Found]:
    from asrlife.delta.arithmetic import stamps
    from asrlife.delta.resident import ResidentSum
    from asrlife.delta.writer import check_absent
    from asrlife.evaluate.merge_search import searched

    check_absent(out)
    merging = ResidentSum(expr, values, tuple(search.parameters), moved, accumulate, operands.dtype(options["dtype"]))
    stamp = [expr, sorted(moved or []), str(options["dtype"]), stamps(merging.combination(merging.default))]
    with console.progress("searching", search.probes + 2) as advance:
        found = searched(merging, search, out, stamp=stamp, advance=advance)
    return merging.combination(found.winner.values or {}), found


def _accumulate(text: str) -> torch.dtype:
    from asrlife.errors import InputError

    kind = operands.dtype(text)
    if text not in {"float32", "float64"} or kind is None:
        raise InputError(f"--accumulate {text}: sums are taken in float32 or float64")
    return kind


def _moved(values: Mapping[str, Any], options: Mapping[str, Any]) -> list[str] | None:
    from asrlife.delta.checkpoint import Checkpoint

    first = next((found for found in values.values() if isinstance(found, Checkpoint)), None)
    asked = options["match"], options["role"], options["without-role"], options["layers"]
    return None if first is None else operands.chosen(list(first), *asked)
