"""Covariances kept on disk: what the keys of a model vary by is measured once, and not for every edit."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from asrlife.delta.fingerprint import fingerprint
from asrlife.errors import InputError
from asrlife.files import atomic, cache_folder
from asrlife.methods.edit.algebra import Covariance
from asrlife.methods.edit.keys import covariances
from asrlife.methods.edit.sites import Site

if TYPE_CHECKING:
    from asrlife.models.text import TextModel

_LOG = logging.getLogger("asrlife")
_FORMAT = 1
_DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError, InputError)


def digest(texts: Sequence[str]) -> str:
    """SHA-256 of texts in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def kept_covariances(
    model: TextModel, at: Sequence[Site], source: str, texts: Callable[[], Sequence[str]], cache: Path | bool = True,
    most: int = 2048, shrinkage: float = 1e-4,
) -> list[Covariance]:  # fmt: skip
    """`covariances` over `texts()`, which `source` tells apart from others: read where they were kept, else measured in one pass and kept.

    `cache` is the folder, True for $XDG_CACHE_HOME/asrlife/covariances (by default in ~/.cache), False for none. A file is taken only if
    weights, source, layer and settings are those asked for, its numbers those that were written, and its matrix positive definite.
    """
    folder = cache_folder("covariances") if cache is True else cache or None
    base = model.fingerprint() if folder else ""
    notes = {site.layer: _note(base, source, site, most, shrinkage) for site in at}
    found: dict[int, Covariance] = {}
    for site in at:
        kept = _read(_path(folder, notes[site.layer]), notes[site.layer]) if folder else None
        if kept is not None:
            found[site.layer] = kept
    missing = [site for site in at if site.layer not in found]
    if missing:
        found |= dict(zip((site.layer for site in missing), covariances(model, texts(), missing, most, shrinkage), strict=True))
    if folder:
        for site in missing:
            _keep(_path(folder, notes[site.layer]), notes[site.layer], found[site.layer])
    return [found[site.layer] for site in at]


def _note(base: str, source: str, site: Site, most: int, shrinkage: float) -> dict[str, Any]:
    told = {"base": base, "texts": source, "layer": site.layer, "weight": site.name, "size": site.weight.shape[1]}
    return {"format": _FORMAT, **told, "most": most, "shrinkage": shrinkage}


def _path(folder: Path, note: dict[str, Any]) -> Path:
    return folder / f"{hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()}.safetensors"


def _keep(path: Path, note: dict[str, Any], known: Covariance) -> None:
    tensors = {"covariance": known.matrix.contiguous()}
    data = safetensors.torch.save(tensors, {"note": json.dumps(note | {"sum": fingerprint(tensors)}, sort_keys=True)})
    try:
        with atomic(path) as file:
            file.write(data)
    except OSError as error:
        _LOG.warning("the covariance of keys cannot be kept in %s (%s): it will be measured again", path.parent, error.strerror)


def _read(path: Path, note: dict[str, Any]) -> Covariance | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["note"])
            matrix = file.get_tensor("covariance")
        if told != note | {"sum": fingerprint({"covariance": matrix})}:
            raise ValueError("it is of something else, or its numbers are not those that were written")
        return _checked(matrix, note["size"])
    except _DAMAGE as error:
        _LOG.warning("%s cannot be used (%s): measuring the covariance of keys again", path, error)
        return None


def _checked(matrix: torch.Tensor, size: int) -> Covariance:
    if matrix.shape != (size, size) or matrix.dtype != torch.float64 or not torch.allclose(matrix, matrix.T):
        raise ValueError(f"it is no symmetric float64 matrix of {size} x {size}")
    known = Covariance(matrix)
    if not bool(known.factor.isfinite().all()):
        raise ValueError("it holds NaN or Inf")
    return known
