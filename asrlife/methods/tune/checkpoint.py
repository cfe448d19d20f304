"""Where a run stands, in one file that is whole or absent: tensors as safetensors, the rest as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed
from torch import Tensor

from asrlife.errors import InputError
from asrlife.files import atomic

FORMAT, VERSION = "asrlife tuning", "1"


def write(path: Path, run: Mapping[str, Any], state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Keep `state` and `tensors` of the run that `run` names; the file before it stays until the new one is on the disk."""
    header = {"format": FORMAT, "version": VERSION, "run": json.dumps(run, sort_keys=True), "state": json.dumps(state, allow_nan=False)}
    with atomic(path) as file:
        file.write(packed({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, metadata=header))


def read(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """What `write` kept, None where there is no file.

    Raises InputError for a damaged file, for one of another kind, and for one of another run, naming what differs.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # it is no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): remove it to begin anew") from error
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
        raise InputError(f"{path} is no checkpoint of `asrlife tune`: name another --resume, or remove it")
    _check_same(path, json.loads(header["run"]), json.loads(json.dumps(run)))
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name!r} holds NaN or Inf: remove the file to begin anew")
    return json.loads(header["state"]), tensors


def _check_same(path: Path, kept: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    for key in sorted(run.keys() | kept.keys()):
        ours, theirs = run.get(key), kept.get(key)
        if ours != theirs:
            found = _difference(key, theirs, ours)
            raise InputError(f"{path} is of another run ({found}): begin anew with --fresh, or name another --resume")


def _difference(key: str, kept: Any, now: Any) -> str:
    if isinstance(kept, dict) and isinstance(now, dict):
        inner = next(name for name in sorted(kept.keys() | now.keys()) if kept.get(name) != now.get(name))
        return f"{key}.{inner} was {kept.get(inner)!r} and is {now.get(inner)!r}"
    shown = [f"{value[:12]}" if isinstance(value, str) else repr(value) for value in (kept, now)]
    return f"{key} was {shown[0]} and is {shown[1]}"
