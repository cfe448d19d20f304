"""What data say of a model's parameters: Fisher diagonals and Gram matrices of layers' inputs, and the files they are kept in.

Activations of two architectures, with which cross-architecture merging (arXiv 2602.05495) would match units, would be a third kind here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.fingerprint import fingerprint
from asrlife.delta.roles import place
from asrlife.delta.shards import Shard, Spec
from asrlife.delta.writer import Writer
from asrlife.errors import InputError
from asrlife.files import atomic
from asrlife.methods.merge.cards import card_of
from asrlife.methods.merge.leaves import Leaves, parameters
from asrlife.methods.merge.moments import watched
from asrlife.methods.merge.subject import Subject

Kind = Literal["fisher", "gram"]
FORMAT, VERSION = "asrlife evidence", 1
WHAT: Mapping[str, str] = {
    "fisher": "mean over examples of the squared gradient of the loss per label",
    "gram": "sum over steps of x x^T, x the input of a linear layer",
}


@dataclass(frozen=True, eq=False)
class Statistics:
    """Tensors by parameter name, and a card that says of what model and data they are.

    "fisher": E[g^2] in the parameter's shape. "gram": X^T X (in, in) under the name of the layer's weight. A weight-norm pair stands
    under the name of the weight that it makes.
    """

    kind: Kind
    tensors: Mapping[str, Tensor]
    card: Mapping[str, Any]

    def write(self, path: Path) -> Path:
        """A safetensors file and its card of the same name in JSON, each whole or not at all; InputError where `path` is there already."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: the name of an evidence file ends in .safetensors")
        text = json.dumps(self.card, indent=2, ensure_ascii=False) + "\n"
        specs = {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()}
        told = {"format": FORMAT, "kind": self.kind, "card": hashlib.sha256(text.encode()).hexdigest()}
        with Writer(path, specs, metadata=told) as writer:
            for name, tensor in self.tensors.items():
                writer.put(name, tensor)
            with atomic(path.with_suffix(".json"), "w") as file:
                file.write(text)
            return writer.finish()

    @classmethod
    def read(cls, path: Path) -> Statistics:
        """What `write` wrote, mapped and not read; InputError for another file, a card that is missing or of other numbers."""
        shard = Shard(path)
        if shard.metadata.get("format") != FORMAT or shard.metadata.get("kind") not in WHAT:
            raise InputError(f"{path} holds no evidence: make it with `asrlife evidence MODEL --kind fisher|gram --data DATA --out FILE`")
        card = card_of(shard, path)
        kind: Any = shard.metadata["kind"]
        return cls(kind, {name: shard.view(name) for name in shard.entries}, card)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the model that was measured: of its files, and of the network they make in float32."""
        found = self.card.get("fingerprints", {})
        return tuple(str(value) for value in found.values() if value) if isinstance(found, dict) else ()


def measure(
    subject: Subject,
    kind: Kind,
    *,
    checkpoint: Checkpoint | None = None,
    dtype: torch.dtype = torch.float32,
    advance: Callable[[], None] = lambda: None,
) -> Statistics:
    """Measure a model on its examples, one after the other and without padding; sums are taken and kept in `dtype`.

    `checkpoint`: the files of the model, whose fingerprint goes on the card beside that of the network; `advance` is called after every
    example. InputError where a number comes out NaN or infinite.
    """
    if kind not in WHAT:
        raise InputError(f"there is no evidence of the kind {kind!r}: ask for {' or '.join(WHAT)}")
    tensors, more = _fisher(subject, dtype, advance) if kind == "fisher" else _grams(subject, dtype, advance)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{subject.name}: the {kind} of {name!r} comes out NaN or infinite: take other data, or --dtype float64")
    prints = {"files": None if checkpoint is None else fingerprint(checkpoint), "network": fingerprint(subject.module)}
    card = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "what": WHAT[kind],
        "model": subject.name,
        "fingerprints": prints,
        "data": subject.exhibits.note,
        "examples": len(subject),
        "dtype": str(dtype).removeprefix("torch."),
        **more,
        "versions": {package: version(package) for package in ("asrlife", "torch", "transformers")},
    }
    return Statistics(kind, {name: tensor.cpu().contiguous() for name, tensor in sorted(tensors.items())}, card)


def _fisher(subject: Subject, dtype: torch.dtype, advance: Callable[[], None]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    leaves = Leaves.of(subject.module)
    sums = {name: torch.zeros_like(leaf, dtype=dtype, requires_grad=False) for name, leaf in leaves.tensors.items()}
    for index in range(len(subject)):
        for name, slope in leaves.gradients(subject.regret(index, leaves.weights())).items():
            sums[name] += slope.to(dtype).square_()
        advance()
    idle = sorted(name for name, total in sums.items() if not bool(total.any()))
    labels = "empirical on given texts" if subject.labels == "texts" else "empirical on the model's own greedy labels"
    return {name: total.div_(len(subject)) for name, total in sums.items()}, {"labels": labels, "without_gradient": idle}


def _grams(subject: Subject, dtype: torch.dtype, advance: Callable[[], None]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    layers = linear_layers(subject.module)
    sums: dict[str, Tensor] = {}
    steps: dict[str, int] = {}
    now = 0

    def taken(name: str, rows: Tensor) -> None:
        sound = subject.sound(name, rows, now)
        flat = sound.reshape(-1, sound.shape[-1]).to(dtype)
        found = flat.T @ flat
        sums[name] = found if name not in sums else sums[name].add_(found)
        steps[name] = steps.get(name, 0) + len(flat)

    with watched(layers, "in", taken):
        for index in range(len(subject)):
            now = index
            subject.show(index)
            advance()
    unseen = sorted(f"{name}.weight" for name in layers if name not in sums)
    kept = {f"{name}.weight": total for name, total in sums.items()}
    return kept, {"steps": {f"{name}.weight": count for name, count in sorted(steps.items())}, "never_called": unseen}


def linear_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Every Linear and transformers' Conv1D by name whose weight is its own: not a head that is tied to an embedding."""
    from transformers.pytorch_utils import Conv1D

    uses: dict[int, int] = {}
    for _, tensor in module.named_parameters(remove_duplicate=False):
        uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    own = parameters(module)
    found = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear | Conv1D)}
    return {name: part for name, part in found.items() if f"{name}.weight" in own and uses[id(own[f"{name}.weight"])] == 1}


def role_of(name: str) -> tuple[str, ...]:
    """The roles of a module's weight."""
    return place(f"{name}.weight").roles
