"""asrlife repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from asrlife.cli import console
from asrlife.cli.evidence import Data, Limit, Split
from asrlife.cli.options import AsJson


def repair(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The merged model: a folder, embedded:NAME, or a hub id.")],
    method: Annotated[str, typer.Option(metavar="M", help="batchnorm, norms, repair or surgery.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the repaired model, or of surgery's files; nothing may be there yet.")],
    endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="A model that it was merged from. Repeat it. Default: what merge_card.json says."),
    ] = None,
    weight: Annotated[list[float] | None, typer.Option(help="What each endpoint counts, 1 in all. Default: all alike.")] = None,
    split: Split = None,
    limit: Limit = None,
    rank: Annotated[int, typer.Option(min=1, help="Of surgery.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Of surgery.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of surgery: draws its start and its examples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Repair what merging did to a model's activations, without labels.

    \b
    batchnorm  running statistics recomputed on the data: after every merge
               of models that have BatchNorm (conformers); needs no endpoints
    norms      gains and biases of norms refitted, so that each channel has
               the mean and deviation that the endpoints have on average
    repair     REPAIR: the same for what every linear and convolutional layer
               gives, folded into its weights and bias
    surgery    a small layer for each endpoint in front of the head, that
               gives its last states back; kept in files of their own

    All but surgery give an ordinary checkpoint with processor files and
    repair_card.json, loaded and run before it counts. Layers are repaired one
    after the other as data run through them, each on all the data: 64
    utterances of a few seconds do. Surgery's files are put on in Python, with
    asrlife.methods.merge.repair.surgery.operated.

    Example: asrlife repair merged --method batchnorm --data calls.jsonl --out repaired
    Example: asrlife repair merged --method norms --data all.jsonl --endpoint calls --endpoint talks --out repaired
    """  # noqa: D301 # \b keeps the lines of the table
    with console.results_only():
        from asrlife.methods.merge import exhibits
        from asrlife.methods.merge.repair.run import Repair
        from asrlife.methods.merge.repair.run import repair as run

        asked = Repair(model, cast("Any", method), tuple(endpoint or ()), tuple(weight or ()), rank=rank, steps=steps, seed=seed)
        card = run(asked, exhibits.read(data, split, limit), out, console.progress)
    if as_json:
        console.emit(card)
    else:
        _tell(card, out)


def _tell(card: dict[str, Any], out: Path) -> None:
    for path, told in card.get("surgery", {}).items():
        print(f"{out / path}: distance to {told['expert']} {told['distance']['before']:.4f}, with surgery {told['distance']['after']:.4f}")
    if "changed" in card:
        print(f"{out}: {card['method']}; {card['changed']} tensors repaired on {card['data']['examples']} examples")
    if "gap" in card:
        print(f"deviations were off by {100 * card['gap']['before']:.2f} %, now by {100 * card['gap']['after']:.2f} %")
    checked = card["checked"]
    if checked:
        heard = f"heard {checked['heard']!r} in noise" if "heard" in checked else f"scores {checked.get('logits')}"
        print(f"loaded and run: {heard}" if checked["ran"] else "not run: load it where you use it before you trust it")
