"""asrlife merge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrlife.cli import console, operands
from asrlife.cli.merge_file import merge_file
from asrlife.cli.operands import Dtype, Layers, Match, Roles, Without
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.delta.arithmetic import Combination


def merge(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG.yaml|NAME=PATH", help="A merge as mergekit writes it, or, with --expr, what its names stand for."),
    ] = None,
    expr: Annotated[str, typer.Option("--expr", help="Sums, differences and multiples of names.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of the new model, or a .safetensors file; nothing may be there yet.")] = None,
    dtype: Dtype = None,
    accumulate: Annotated[str, typer.Option(help="float32 or float64: what sums are taken in.")] = "float32",
    match: Match = "",
    role: Roles = None,
    without_role: Without = None,
    layers: Layers = None,
    shard_size: Annotated[float, typer.Option(min=0.001, help="GB of the largest file of weights.")] = 5.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of CONFIG.yaml; as many as torch takes unless given.")] = None,
    check: Annotated[bool, typer.Option(help="Load what CONFIG.yaml makes and run it once before it counts.")] = True,
    fingerprints: Annotated[
        bool, typer.Option(help="Put the inputs' fingerprints on the card of CONFIG.yaml: reads each once more.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Merge models by a method, or add, subtract and scale their weights.

    CONFIG.yaml is mergekit's: merge_method, models (or slices, or modules),
    base_model, parameters as numbers, as lists over the layers, or by filters
    on names; dtype, out_dtype, tokenizer, chat_template. More than mergekit's:
    select (a role such as encoder, a regular expression, or {pattern, roles,
    without, layers}), accumulate_dtype, seed, evidence and data. Models are folders, here or
    beside the file, embedded:NAME, or hub ids.

    \b
    merge_method: ties
    base_model: whisper-small
    models:
      - {model: tuned-on-calls, parameters: {weight: 0.5, density: 0.2}}
      - {model: tuned-on-talks, parameters: {weight: [0.2, 0.8], density: 0.2}}
    select: encoder

    Data say what weights cannot: fisher, and regmean where it is given, go by
    evidence: FILE beside each model, made by `asrlife evidence`; adamerging
    learns a factor for each model and layer on data: a manifest (or
    {manifest, split, limit}) without labels, with steps, rate, init, batch,
    layerwise and spoken among its parameters.

    \b
    merge_method: fisher
    models:
      - {model: tuned-on-calls, evidence: calls.fisher.safetensors}
      - {model: tuned-on-talks, evidence: talks.fisher.safetensors}

    Tied tensors are merged once, weight-norm pairs as the weight they make,
    BatchNorm statistics by what they counted; processor, tokenizer and
    configuration go along. The result is loaded and run once, and
    merge_card.json beside it says what it was made of.

    With --expr, weights are added, subtracted and scaled as it says.

    A name is a folder, a .safetensors file or embedded:NAME, a delta file too;
    one without NAME=PATH is the path itself. The factors of models must add up
    to 1, so that the result is a model: differences of models may be added to
    a model in any amount, and so may deltas.

    Sums are taken in float32 as they are written: brackets first, then from
    left to right, and each result is rounded once. What cannot be added
    (counters, configuration, processor, tokenizer) comes from the first model,
    and so do tensors that --match, --role and --layers leave out.
    A merge that was interrupted goes on where it stopped.

    Example: asrlife merge ties.yaml --out merged
    Example: asrlife merge --expr "target_syn + 0.4 * (real - syn)" real=models/real --out merged
    """  # noqa: D301 # \b keeps the lines of the example
    from asrlife.delta.arithmetic import write
    from asrlife.errors import InputError

    of_file = {"threads": threads, "check": check, "fingerprints": fingerprints}
    if not expr and out is not None and names and len(names) == 1:
        _refuse({"dtype": dtype, "accumulate": accumulate, "match": match, "role": role, "without-role": without_role, "layers": layers})
        return merge_file(Path(names[0]), out, int(shard_size * 1e9), of_file, as_json)
    if not expr or out is None:
        raise InputError("give --expr, as in --expr 'a + 0.4 * (b - c)', or CONFIG.yaml, and --out")
    if of_file != {"threads": None, "check": True, "fingerprints": True}:
        raise InputError("--threads, --no-check and --no-fingerprints go with CONFIG.yaml, not with --expr")
    combination = _combination(expr, names or [], accumulate, match, role, without_role, layers)
    with console.progress("merging", len(combination.base)) as advance:
        card = {"method": "expression", "models": _paths(expr, names or []), "accumulate": accumulate, "dtype": dtype}
        write(combination, out, dtype=operands.dtype(dtype), shard_size=int(shard_size * 1e9), card=card, advance=advance)
    moved = sum(map(combination.moves, combination.base))
    if as_json:
        coefficients = dict(combination.expression.coefficients)
        console.emit({"out": str(out), "expression": expr, "coefficients": coefficients, "tensors": len(combination.base), "moved": moved})
    else:
        print(out)


def _refuse(options: dict[str, object]) -> None:
    from asrlife.errors import InputError

    for name, value in options.items():
        if value and (name, value) != ("accumulate", "float32"):
            raise InputError(f"--{name} goes with --expr: CONFIG.yaml has dtype, accumulate_dtype and select of its own")


def _combination(
    expr: str, pairs: list[str], accumulate: str, match: str, role: list[str] | None, without: list[str] | None, span: str | None
) -> Combination:
    from asrlife.delta.arithmetic import Combination
    from asrlife.delta.checkpoint import Checkpoint
    from asrlife.delta.expression import bound, parse
    from asrlife.errors import InputError

    kind = operands.dtype(accumulate)
    if accumulate not in {"float32", "float64"} or kind is None:
        raise InputError(f"--accumulate {accumulate}: sums are taken in float32 or float64")
    expression = parse(expr)
    values = {name: operands.operand(path) for name, path in bound(expression, pairs).items()}
    first = next((found for found in values.values() if isinstance(found, Checkpoint)), None)
    moved = None if first is None else operands.chosen(list(first), match, role, without, span)
    return Combination(expression, values, moved, kind)


def _paths(expr: str, pairs: list[str]) -> dict[str, str]:
    from asrlife.delta.expression import bound, parse

    return bound(parse(expr), pairs)
