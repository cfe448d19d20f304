"""A repair from names to a checkpoint that has been loaded and run, or to files of surgery."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from asrlife.delta.arithmetic import CARD as MERGE_CARD
from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.fingerprint import fingerprint
from asrlife.delta.writer import Writer, check_absent, specs_of
from asrlife.errors import InputError
from asrlife.files import atomic
from asrlife.methods.merge.check import checked
from asrlife.methods.merge.exhibits import Exhibits
from asrlife.methods.merge.names import counterpart
from asrlife.methods.merge.places import handle, located
from asrlife.methods.merge.repair import batchnorm, scales, surgery
from asrlife.methods.merge.repair.draft import Draft
from asrlife.methods.merge.subject import Subject, subject

Method = Literal["batchnorm", "norms", "repair", "surgery"]
METHODS: Mapping[str, str] = {
    "batchnorm": "running statistics recomputed on the data",
    "norms": "gains and biases of norms refitted to the endpoints' means and deviations",
    "repair": "outputs of linear and convolutional layers rescaled to the endpoints' (arXiv 2211.08403)",
    "surgery": "a small layer for each endpoint that gives its last states back (arXiv 2402.02705)",
}
CARD = "repair_card.json"
SURGERY = ("expert", "rank", "steps", "rate", "seed", "distance")
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""A bar for a task of so many steps, whose value advances it."""


@dataclass(frozen=True)
class Repair:
    """What is to be repaired, how, and towards what.

    `endpoints` are the models that it was merged from: those that its merge_card.json names unless given; `weights` theirs in the
    interpolation, equal unless given. `rank`, `steps`, `rate` and `seed` are surgery's.
    """

    model: str
    method: Method
    endpoints: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    rank: int = 16
    steps: int = surgery.STEPS
    rate: float = surgery.RATE
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"there is no repair {self.method!r}: choose {', '.join(METHODS)}")
        if self.method == "batchnorm" and (self.endpoints or self.weights):
            raise InputError("batchnorm goes by the data alone: leave the endpoints out")
        if self.weights and (len(self.weights) != len(self.endpoints) or abs(sum(self.weights) - 1) > 1e-6):
            raise InputError(f"weights {list(self.weights)} for {len(self.endpoints)} endpoints: give each one, 1 in all")


def repair(asked: Repair, exhibits: Exhibits, out: Path, progress: Progress) -> dict[str, Any]:
    """Repair a model on examples into the folder `out`, and return the card, which lies there as repair_card.json.

    "batchnorm", "norms" and "repair" give an ordinary checkpoint, loaded and run before it counts; "surgery" a file for each endpoint,
    NAME.surgery.safetensors. Raises InputError, and leaves no `out`, where anything fails.
    """
    check_absent(out)
    if out.suffix == ".safetensors":
        raise InputError(f"{out}: a repair gives a folder, with processor files and a card: name one")
    place = located(asked.model)
    checkpoint = Checkpoint.open(place)
    shown = subject(handle(asked.model), exhibits, "own")
    card = _card(asked, shown, checkpoint)
    if asked.method == "batchnorm":
        return _written(checkpoint, *_batchnorm(shown, card, progress), out)
    names = asked.endpoints or _merged_from(place)
    card["endpoints"] = [{"model": name, "weight": weight} for name, weight in zip(names, _weights(asked, names), strict=True)]
    if asked.method == "surgery":
        return _operated(asked, shown, names, card, out, progress)
    return _written(checkpoint, *_scaled(asked, shown, names, card, progress), out)


def _batchnorm(shown: Subject, card: dict[str, Any], progress: Progress) -> tuple[dict[str, Tensor], dict[str, Any]]:
    count = len(batchnorm.layers(shown.module)) * len(shown)
    with Draft(shown.module) as draft, progress("recomputing", count) as advance:
        batchnorm.refit(draft, shown, advance)
    return draft.changes, card


def _scaled(
    asked: Repair, shown: Subject, names: Sequence[str], card: dict[str, Any], progress: Progress
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    layers = scales.calls(shown, (scales.norms if asked.method == "norms" else scales.units)(shown.module))
    with progress("measuring the endpoints", len(names) * len(shown)) as advance:
        loaded = (shown.beside(handle(name)) for name in names)
        wanted = scales.targets(loaded, _weights(asked, names), layers, advance)
    before = scales.gap(shown, wanted)
    with Draft(shown.module) as draft, progress("repairing", len(layers) * len(shown)) as advance:
        scales.refit(draft, shown, wanted, advance)
        card["gap"] = {"what": "mean |deviation / wanted - 1|", "before": before, "after": scales.gap(shown, wanted)}
    lacking = [name for name in layers if getattr(shown.module.get_submodule(name), "bias", None) is None]
    return draft.changes, card | {"layers": len(layers), "scale_alone": lacking}


def _operated(asked: Repair, shown: Subject, names: Sequence[str], card: dict[str, Any], out: Path, progress: Progress) -> dict[str, Any]:
    files = {name: f"{Path(name.replace(':', '-')).name}.surgery.safetensors" for name in names}
    if len(set(files.values())) < len(names):
        raise InputError(f"two endpoints are called alike ({', '.join(names)}): rename a folder, as their files would have one name")
    with progress("reading states", len(shown)) as advance:
        own = surgery.states(shown, advance)
    made = {}
    for name, path in files.items():
        with progress(f"states of {name}", len(shown)) as advance:
            wanted = surgery.states(shown.beside(handle(name)), advance)
        with progress(f"operating for {name}", asked.steps) as advance:
            made[path] = _one(asked, name, card, (own, wanted), advance)
    card["surgery"] = {path: {key: found.card[key] for key in SURGERY} for path, found in made.items()}
    for path, found in made.items():
        found.write(out / path)
    with atomic(out / CARD, "w") as file:
        file.write(json.dumps(card, indent=2, ensure_ascii=False))
    return card


def _one(asked: Repair, name: str, card: Mapping[str, Any], states: tuple[Tensor, Tensor], advance: Callable[[], None]) -> surgery.Surgery:
    up, down, before, after = surgery.operate(*states, asked.rank, steps=asked.steps, rate=asked.rate, seed=asked.seed, advance=advance)
    distance = {"what": "mean |z - z'|", "before": before, "after": after}
    values: tuple[Any, ...] = (name, asked.rank, asked.steps, asked.rate, asked.seed, distance)
    return surgery.Surgery(up, down, {**card, **dict(zip(SURGERY, values, strict=True))})


def _written(checkpoint: Checkpoint, changes: Mapping[str, Tensor], card: dict[str, Any], out: Path) -> dict[str, Any]:
    """The checkpoint with what has changed, in its own names and dtypes."""
    found = {counterpart(name, checkpoint.entries): tensor for name, tensor in changes.items()}
    if None in found:
        lost = next(name for name in changes if counterpart(name, checkpoint.entries) is None)
        raise InputError(f"{checkpoint.path} does not hold {lost!r}, which was repaired: save the model with save_pretrained first")
    card["changed"] = len(found)
    with Writer(out, specs_of(checkpoint.entries), tied=checkpoint.tied, metadata=checkpoint.metadata) as writer:
        for name in checkpoint:
            writer.put(name, found[name].cpu() if name in found else checkpoint[name])
        writer.carry(checkpoint.carried(), {CARD: json.dumps(card, indent=2, ensure_ascii=False)})
        writer.finish()
    return checked(out, card, CARD)


def _weights(asked: Repair, names: Sequence[str]) -> tuple[float, ...]:
    return asked.weights or (1 / len(names),) * len(names)


def _merged_from(place: Path) -> tuple[str, ...]:
    """The experts that the merge card beside a model names."""
    try:
        inputs = json.loads((place / MERGE_CARD).read_text(encoding="utf-8"))["inputs"]
        found = tuple(str(entry["model"]) for entry in inputs if entry["role"] == "expert")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place} has no merge card that names what it was merged from: name the models with --endpoint") from error
    for name in found:
        if not name.startswith("embedded:") and not Path(name).expanduser().exists():
            raise InputError(f"{place} was merged from {name!r}, which is not here: name the models with --endpoint")
    return found


def _card(asked: Repair, shown: Subject, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "method": asked.method,
        "what": METHODS[asked.method],
        "model": asked.model,
        "fingerprint": fingerprint(shown.module),
        "bytes": checkpoint.nbytes,
        "data": shown.exhibits.note,
        "versions": {package: version(package) for package in ("asrlife", "torch", "transformers")},
        "checked": None,
    }
