"""asrlife delta diff, apply, add, scale, negate, analogy, restrict, import, export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrlife.cli import console, delta_show, operands
from asrlife.cli.operands import Dtype, Layers, Match, Roles, Without
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.delta.delta import Delta

_HELP = """Differences of weights as files: take, add, scale, apply, look.

A delta is what fine-tuning did to a base. It is two files, NAME.safetensors
and NAME.json, and deltas of one base add up like vectors.

Example: asrlife delta diff base tuned --out skill.safetensors"""
app = typer.Typer(no_args_is_help=True, help=_HELP, rich_markup_mode="rich")
app.command("show")(delta_show.show)
app.command("compare")(delta_show.compare)

File = Annotated[Path, typer.Argument(metavar="DELTA", help="A delta file (.safetensors, with its .json beside it).")]
Model = Annotated[str, typer.Argument(help="embedded:NAME, a Hugging Face folder, or a .safetensors file.")]
Out = Annotated[Path, typer.Option(help="The delta file to write, NAME.safetensors.")]


@app.command("diff")
def diff(
    base: Model, tuned: Model, out: Out, match: Match = "", role: Roles = None, without_role: Without = None, layers: Layers = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Take the difference of a model to its base, exactly.

    Tensors that are equal are left out; so are counters. --match, --role,
    --without-role and --layers keep a part.

    Example: asrlife delta diff base tuned --out skill.safetensors --role decoder
    """
    from asrlife.delta.checkpoint import check_alike
    from asrlife.delta.delta import between

    before, after = operands.checkpoint(base), operands.checkpoint(tuned)
    check_alike(before, after)
    with console.progress("comparing", len(before)) as advance:
        found = between(before, after, {"method": "difference", "parents": [{"path": base}, {"path": tuned}]}, advance)
    kept = operands.chosen(list(found.tensors), match, role, without_role, layers)
    _keep(found if kept is None else _part(found, kept), out, as_json)


@app.command("apply")
def apply(
    base: Model,
    deltas: Annotated[list[Path], typer.Argument(metavar="DELTA...", help="Delta files; their sum is applied.")],
    out: Annotated[Path, typer.Option(help="Folder of the new model, or a .safetensors file; nothing may be there yet.")],
    scale: Annotated[float, typer.Option(help="By what the deltas are multiplied.")] = 1.0,
    any_base: Annotated[bool, typer.Option("--any-base", help="Apply deltas that were made for another model of the same shapes.")] = False,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Write the model that is a base moved by deltas.

    Configuration, processor and tokenizer come from the base. A delta that was
    made for another model is refused, unless --any-base says that the skill is
    to be carried over.

    Example: asrlife delta apply base skill.safetensors --scale 0.5 --out half-way
    """
    from asrlife.delta.arithmetic import Combination, write
    from asrlife.delta.expression import parse

    model = operands.checkpoint(base)
    found = {f"delta_{number}": operands.delta(path) for number, path in enumerate(deltas, 1)}
    if not any_base:
        _check_base(model, found)
    expression = parse(f"base + {scale!r} * ({' + '.join(found)})")
    combination = Combination(expression, {"base": model, **found})
    with console.progress("applying", len(model)) as advance:
        card = {"method": "delta apply", "base": base, "deltas": [str(path) for path in deltas], "scale": scale, "dtype": dtype}
        write(combination, out, dtype=operands.dtype(dtype), card=card, advance=advance)
    if as_json:
        console.emit(
            {
                "out": str(out),
                "scale": scale,
                "tensors": len(model),
                "norms": {str(p): d.norm() for p, d in zip(deltas, found.values(), strict=True)},
            }
        )
    else:
        print(out)


@app.command("add")
def add(
    deltas: Annotated[list[Path], typer.Argument(metavar="DELTA...", help="Delta files of one base.")],
    out: Out,
    weight: Annotated[list[float] | None, typer.Option(help="By what each is multiplied, in their order. Default: 1.")] = None,
    compress: Annotated[bool, typer.Option("--compress", help="Drop directions of low-rank sums that are exactly superfluous.")] = False,
    rank: Annotated[int | None, typer.Option(min=1, help="Keep this many directions of each low-rank sum, the largest.")] = None,
    knots: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Merge low-rank deltas in their common basis (KnOTS): ties, linear ...")
    ] = None,
    density: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of --knots ties and its like: the share of entries kept.")] = 0.2,
    as_json: AsJson = False,
) -> None:
    """Add deltas of one base, from left to right.

    Low rank stays low rank: factors are laid side by side. --knots turns them
    into one basis first, by the exact SVD of all side by side, and merges them
    there by a method of `asrlife merge`.

    Example: asrlife delta add chat.safetensors german.safetensors --weight 1 --weight 0.5 --out both.safetensors
    """
    from asrlife.delta.factors import compressed, concatenated

    found = [operands.delta(path) for path in deltas]
    weights = weight or [1.0] * len(found)
    total = _aligned(found, weights, knots, density) if knots else concatenated(found, weights)
    _keep(compressed(total, rank) if compress or rank else total, out, as_json)


def _aligned(deltas: list[Delta], weights: list[float], name: str, density: float) -> Delta:
    from dataclasses import replace

    import torch

    from asrlife.delta.factors import knots
    from asrlife.errors import InputError
    from asrlife.methods.merge.method import Stack
    from asrlife.methods.merge.registry import make

    if len(weights) != len(deltas):
        raise InputError(f"{len(deltas)} deltas and {len(weights)} weights: give one weight for each")
    method = make(name)
    own = {"weight": tuple(weights), "density": (density,) * len(deltas)}
    each = {key: own[key] for key in method.per_model if key in own}
    note = {"method": "knots", "mixing": name, "weights": weights, "density": density, "parents": [dict(delta.note) for delta in deltas]}
    merged = knots(deltas, lambda blocks: method.merge(Stack("blocks", torch.zeros_like(blocks[0]), tuple(blocks), each)))
    return replace(merged, note=note)


@app.command("scale")
def scale(
    delta: File,
    factor: Annotated[float, typer.Argument(help="A number; one below 0 comes last, after --.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Multiply a delta by a number.

    Example: asrlife delta scale skill.safetensors --out turned.safetensors -- -0.3
    """
    _keep(operands.delta(delta) * factor, out, as_json)


@app.command("negate")
def negate(delta: File, out: Out, as_json: AsJson = False) -> None:
    """Turn a delta round: applied, it takes away what the delta gave.

    Example: asrlife delta negate habit.safetensors --out without.safetensors
    """
    _keep(-operands.delta(delta), out, as_json)


@app.command("analogy")
def analogy(
    a: Annotated[Path, typer.Argument(metavar="A", help="Delta file: A is to B ...")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Delta file.")],
    c: Annotated[Path, typer.Argument(metavar="C", help="Delta file: ... as C is to the result.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Make the D of A : B = C : D, which is C + B - A.

    Example: asrlife delta analogy quiet-en.safetensors noisy-en.safetensors quiet-de.safetensors --out noisy-de.safetensors
    """
    from asrlife.delta.delta import analogy as fourth

    _keep(fourth(operands.delta(a), operands.delta(b), operands.delta(c)), out, as_json)


@app.command("restrict")
def restrict(
    delta: File,
    out: Out,
    match: Match = "",
    role: Roles = None,
    without_role: Without = None,
    layers: Layers = None,
    as_json: AsJson = False,
) -> None:
    """Keep a part of a delta: by name, by role, by layer.

    Roles: buffer, batchnorm, weight-norm, norm, embedding, head,
    cross-attention, conv, encoder, decoder, other. A tensor has several: the
    norm of a decoder's cross-attention is of all three.

    Example: asrlife delta restrict skill.safetensors --role encoder --layers 0-3 --out low.safetensors
    """
    found, span = operands.delta(delta), operands.layers(layers)
    _keep(found.restrict(match, roles=role or (), without=without_role or (), layers=span), out, as_json)


@app.command("import")
def bring(
    folder: Annotated[Path, typer.Argument(help="A LoRA folder that peft wrote.")], base: Model, out: Out, as_json: AsJson = False
) -> None:
    """Make a delta of a LoRA adapter of peft, exactly; what is no plain LoRA is refused.

    Example: asrlife delta import adapter openai/whisper-small --out skill.safetensors
    """
    from asrlife.delta.lora import read_lora

    _keep(read_lora(folder, operands.checkpoint(base)), out, as_json)


@app.command("export")
def export(delta: File, base: Model, out: Annotated[Path, typer.Option(help="Folder for the adapter.")], as_json: AsJson = False) -> None:
    """Write a low-rank delta as a LoRA adapter that peft loads.

    Example: asrlife delta export skill.safetensors base --out adapter
    """
    from asrlife.delta.lora import write_lora

    found = operands.delta(delta)
    write_lora(found, out, operands.checkpoint(base), base)
    if as_json:
        console.emit({"out": str(out), "modules": len(found.tensors)})
    else:
        print(out)


def _part(delta: Delta, names: list[str]) -> Delta:
    from asrlife.delta.delta import Delta

    return Delta(delta.base, {name: delta.tensors[name] for name in names}, {**delta.note, "restricted": True})


def _check_base(model: Any, deltas: Mapping[str, Delta]) -> None:
    import torch

    from asrlife.delta.fingerprint import fingerprint
    from asrlife.errors import InputError

    own = fingerprint(model)
    # what is made of a file in half precision is made of the float32 model that it loads as
    known = {own} if all(delta.base == own for delta in deltas.values()) else {own, fingerprint(model, torch.float32)}
    for delta in deltas.values():
        if delta.base not in known:
            raise InputError(
                f"a delta was made for base {delta.base[:12]}, and {model.path} is {own[:12]}: give its base, or --any-base to carry the "
                "skill over to this one"
            )


def _keep(delta: Delta, out: Path, as_json: bool) -> None:
    from asrlife.delta.delta import LowRank
    from asrlife.delta.file import save

    save(delta, out)
    low = sum(isinstance(change, LowRank) for change in delta.tensors.values())
    told = {"out": str(out), "base": delta.base, "tensors": len(delta.tensors), "low_rank": low, "norm": delta.norm()}
    if as_json:
        console.emit(told)
    else:
        print(out)
        console.note(f"{told['tensors']} tensors ({low} of low rank), norm {told['norm']:.4g}")
