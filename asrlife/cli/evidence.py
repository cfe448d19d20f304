"""asrlife evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from asrlife.cli import console, operands
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.methods.merge.statistics import Statistics

Data = Annotated[list[Path], typer.Option(metavar="FILE", help="A JSONL manifest, or a .txt of one text a line. Repeat it.")]
Split = Annotated[str | None, typer.Option(metavar="NAME", help='Only rows with this "split".')]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N examples of each file.")]


def evidence(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="embedded:NAME, a folder, or a hub id: recogniser or language model.")],
    kind: Annotated[str, typer.Option(metavar="K", help="fisher: squared gradients. gram: inputs of linear layers.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The file to write, NAME.safetensors; its card is NAME.json.")],
    labels: Annotated[
        str, typer.Option(metavar="L", help="For fisher: texts of the manifest, the model's own output, or auto: texts if all are there.")
    ] = "auto",
    split: Split = None,
    limit: Limit = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64: what sums are taken and kept in.")] = "float32",
    as_json: AsJson = False,
) -> None:
    """Measure on data what a merge should know of a model.

    fisher: how much each weight matters, the mean over examples of the squared
    gradient of the loss per label; for merge_method fisher. gram: X'X of the
    inputs X of every linear layer; for merge_method regmean. Take data of what
    the model was tuned for; some hundred utterances do. Padding counts
    nowhere, the model is not changed.

    In the merge's YAML the file stands beside its model, as in
    {model: calls, evidence: calls.fisher.safetensors}. It belongs to these
    exact weights: a model that was trained on is refused.

    Example: asrlife evidence calls --kind fisher --data calls.jsonl --split dev --limit 256 --out calls.fisher.safetensors
    """
    found = _measured(model, data, out, {"kind": kind, "labels": labels, "split": split, "limit": limit, "dtype": dtype})
    if as_json:
        console.emit({"out": str(out), "tensors": len(found.tensors), **found.card})
        return
    size = sum(tensor.nbytes for tensor in found.tensors.values()) / 1e6
    print(f"{out}: {found.kind} of {len(found.tensors)} tensors on {found.card['examples']} examples, {size:.1f} MB")
    if found.card.get("labels"):
        print(found.card["labels"])


def _measured(model: str, data: list[Path], out: Path, asked: dict[str, Any]) -> Statistics:
    with console.results_only():
        from asrlife.delta.checkpoint import Checkpoint
        from asrlife.delta.writer import check_absent
        from asrlife.errors import InputError
        from asrlife.methods.merge import exhibits, places
        from asrlife.methods.merge.statistics import WHAT, measure
        from asrlife.methods.merge.subject import subject

        if asked["kind"] not in WHAT or asked["labels"] not in {"auto", "texts", "own"} or asked["dtype"] not in {"float32", "float64"}:
            raise InputError("--kind is fisher or gram, --labels auto, texts or own, --dtype float32 or float64")
        if out.suffix != ".safetensors":
            raise InputError(f"--out {out}: the name of an evidence file ends in .safetensors")
        check_absent(out)
        shown = exhibits.read(data, asked["split"], asked["limit"])
        where = places.located(model)
        listener = subject(places.handle(model), shown, asked["labels"])
        files = Checkpoint.open(where) if where.is_dir() and any(where.glob("*.safetensors")) else None
        with console.progress(f"measuring {asked['kind']}", len(listener)) as advance:
            kind = cast("Any", asked["kind"])
            found = measure(listener, kind, checkpoint=files, dtype=_dtype(asked["dtype"]), advance=advance)
        found.write(out)
    return found


def _dtype(text: str) -> Any:
    return operands.dtype(text)
