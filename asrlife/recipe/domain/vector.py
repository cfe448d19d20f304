"""Syn-to-Real: what real speech teaches beyond synthetic speech, as a vector, and how much of it a domain takes (arXiv 2406.02925)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.errors import InputError
from asrlife.files import atomic
from asrlife.recipe.domain.plan import Domain, digest, digest_of

if TYPE_CHECKING:
    from asrlife.data.utterance import Utterance
    from asrlife.delta.delta import Delta
    from asrlife.methods.tune import Watch
    from asrlife.models.handle import Recogniser

FILE = "syn2real.safetensors"
SCALE = 0.2
GRID = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def packaged(model: Recogniser) -> Path | None:
    """The vector that ships for the weights of `model`, under whatever name: ASSETS/*/syn2real.safetensors made for this base."""
    from asrlife.models.load import ASSETS

    base = model.fingerprint()
    return next((path for path in sorted(ASSETS.glob(f"*/{FILE}")) if _base(path) == base), None)


def _base(path: Path) -> str | None:
    try:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("base") if isinstance(found, dict) else None


@dataclass(frozen=True, eq=False)
class Vector:
    """A Syn-to-Real vector, where it is from, and the scale that its card recommends."""

    delta: Delta
    origin: str
    digest: str

    @property
    def scale(self) -> float:
        """That of the card's note, or else the usual one; raises InputError where the card has no finite number there."""
        found = self.delta.note.get("scale", SCALE)
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            raise InputError(f"the card of the Syn-to-Real vector has the scale {found!r}: give a number with --scale")
        return float(found)

    def told(self) -> dict[str, Any]:
        """What tells this vector from another."""
        return {"sha256": self.digest}


def vector_of(asked: Domain, model: Recogniser) -> Vector | None:
    """One's own vector or the packaged one; None where there is none or none is wanted. InputError for one of another model."""
    from asrlife.delta import file

    if asked.scale is not None and not math.isfinite(asked.scale):
        raise InputError(f"--scale {asked.scale}: give a finite number, as 0.2")
    if not asked.vector:
        return None
    path = asked.syn2real or packaged(model)
    if path is None:
        return None
    delta = file.load(path)
    if delta.base != model.fingerprint():
        fix = f"give one that was made for {model.name}, or --no-syn2real"
        raise InputError(f"--syn2real {path}: was made for base {delta.base[:12]}, and {model.name} is {model.fingerprint()[:12]}: {fix}")
    _check_names(path, delta, model)
    vector = Vector(delta, "given" if asked.syn2real else "packaged", digest(path))
    if asked.scale is None:
        _ = vector.scale  # a card that is wrong is told before hours of work
    return vector


def _check_names(path: Path, delta: Delta, model: Recogniser) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.module.state_dict().items()}
    for name, change in delta.tensors.items():
        if shapes.get(name) != tuple(change.shape):
            raise InputError(f"--syn2real {path}: moves {name!r} of shape {tuple(change.shape)}, which {model.name} has not")


@dataclass(frozen=True)
class Chosen:
    """How much of the vector is added, why, and the word error rates on the real dev set, where they chose it."""

    scale: float
    why: str
    probes: Mapping[str, float]


def chosen(
    asked: Domain, model: Recogniser, tuned: Delta, vector: Vector, dev: Sequence[Utterance] | None, watch: Watch
) -> Chosen:  # fmt: skip
    """The scale that was asked for, or the best on `dev`, or that of the card; the least of those that are equally good."""
    if asked.scale is not None:
        return Chosen(asked.scale, "asked for", {})
    if dev is None:
        own = "scale" in vector.delta.note
        return Chosen(vector.scale, "of the vector's card" if own else "the usual one", {})
    probes = _probed(asked, model, tuned, vector, dev, watch)
    best = min(GRID, key=lambda scale: (probes[str(scale)], scale))
    return Chosen(best, f"the best of {len(GRID)} on {len(dev)} real utterances for development", probes)


def _probed(
    asked: Domain, model: Recogniser, tuned: Delta, vector: Vector, dev: Sequence[Utterance], watch: Watch
) -> dict[str, float]:  # fmt: skip
    """WER on `dev` by scale; what an interrupted run measured is kept."""
    from asrlife.delta.weights import applied
    from asrlife.evaluate.forgetting import counts
    from asrlife.evaluate.wer import word_error_rate

    path = asked.work / "scales.json"
    key = digest_of([digest(asked.work / "synthetic.safetensors"), vector.digest, [(one.id, one.text) for one in dev]])
    found = kept(path, key)
    with watch.stage("choosing the scale", len(GRID) * len(dev)) as advance:
        for scale in GRID:
            if str(scale) in found:
                [advance() for _ in dev]
                continue
            with applied(model.module, tuned + vector.delta * scale):
                found[str(scale)] = word_error_rate(counts(model, dev, advance))
            keep(path, key, found)
    return found


def kept(path: Path, key: str) -> dict[str, Any]:
    """What `keep` wrote under the same key; nothing where there is no such file, or it is of other inputs."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found["found"]) if found["key"] == key else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def keep(path: Path, key: str, found: Mapping[str, Any]) -> None:
    """Write measurements with the digest of what they were made from."""
    with atomic(path, "w") as file:
        json.dump({"key": key, "found": dict(found)}, file, ensure_ascii=False, indent=1)


def summed(tuned: Delta, vector: Vector | None, scale: float) -> Delta:
    """synthetic + scale * vector; the synthetic delta as it is without a vector."""
    return tuned if vector is None or scale == 0 else tuned + vector.delta * scale
