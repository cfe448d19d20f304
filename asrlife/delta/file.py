"""Delta files: one .safetensors with the numbers and a JSON card of the same name beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as pack_tensors
from torch import Tensor

from asrlife.delta.delta import Change, Delta, Dense, LowRank
from asrlife.delta.shards import Shard
from asrlife.errors import InputError
from asrlife.files import atomic

VERSION = 1
"""The format this code writes, and the only one it reads."""

OWN_PLACE = ("method", "evidence", "seed", "parents", "scores")
"""Keys of a delta's note that stand on the card by themselves; null where the note has none."""


def save(delta: Delta, path: Path) -> None:
    """Write `path` (.safetensors) and its card (.json), each whole or not at all; the card names the bytes it belongs to.

    Equal differences give equal bytes. A dense difference of parameter `name` is the tensor `name`, a low-rank one is `name.up` and
    `name.down` with `name` in the card's low_rank list. Raises InputError for NaN or Inf, a note that is not JSON, or two differences that
    would share a tensor name.
    """
    _check_suffix(path)
    header, numbers = _parts(pack_tensors(_pack(delta), metadata={"format": "asrlife delta", "version": str(VERSION)}))
    digest = hashlib.sha256(header)
    digest.update(numbers)
    card = _card(delta, digest.hexdigest())
    with atomic(path) as file:
        file.write(header)
        file.write(numbers)
    with atomic(path.with_suffix(".json"), "w") as file:
        file.write(card)


def load(path: Path) -> Delta:
    """Read what `save` wrote, its numbers as views of the mapped file, which may be replaced meanwhile and not overwritten.

    InputError names what is missing, truncated, of another version, inconsistent or not finite.
    """
    _check_suffix(path)
    card = _read_card(path.with_suffix(".json"))
    try:
        digest = _digest(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the .safetensors file of a delta") from error
    if digest != card["sha256"]:
        raise InputError(f"{path} is truncated or not the file its card describes: copy both files again")
    shard = Shard(path)
    tensors = {name: shard.view(name) for name in shard.entries}
    delta = Delta(card["base"], _unpack(tensors, card["low_rank"], path), _note(card))
    _check_finite(tensors, path)
    return delta


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_suffix(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: the name of a delta file ends in .safetensors")


def _check_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{where}: {name!r} holds NaN or Inf: the training that made it diverged")


def _pack(delta: Delta) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, change in delta.tensors.items():
        parts = {name: change.value} if isinstance(change, Dense) else {f"{name}.up": change.up, f"{name}.down": change.down}
        for key, part in parts.items():
            if key in tensors:
                raise InputError(f"two differences would both be stored as {key!r}: rename one parameter")
            # safetensors refuses views of a larger buffer
            tensors[key] = part.detach().cpu().clone(memory_format=torch.contiguous_format)
    _check_finite(tensors, "the delta")
    return tensors


def _unpack(tensors: Mapping[str, Tensor], low_rank: list[str], path: Path) -> dict[str, Change]:
    factors = {f"{name}.{side}" for name in low_rank for side in ("up", "down")}
    for key in sorted(factors - tensors.keys()):
        raise InputError(f"{path} lacks the tensor {key!r} that its card promises")
    changes: dict[str, Change] = {name: LowRank(tensors[f"{name}.up"], tensors[f"{name}.down"]) for name in low_rank}
    return changes | {name: Dense(tensor) for name, tensor in tensors.items() if name not in factors}


def _parts(packed: bytes) -> tuple[bytes, memoryview]:
    """The header with its metadata in order, which safetensors writes in a random one, and the numbers."""
    length = int.from_bytes(packed[:8], "little")
    told = json.loads(packed[8 : 8 + length])
    told["__metadata__"] = dict(sorted(told["__metadata__"].items()))
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # numbers begin where they are aligned
    return len(text).to_bytes(8, "little") + text, memoryview(packed)[8 + length :]


def _card(delta: Delta, digest: str) -> str:
    own = {key: delta.note.get(key) for key in OWN_PLACE}
    fields = {
        "version": VERSION,
        "base": delta.base,
        **own,
        "low_rank": [name for name, change in delta.tensors.items() if isinstance(change, LowRank)],
        "note": {key: value for key, value in delta.note.items() if key not in OWN_PLACE},
        "sha256": digest,
    }
    try:
        return json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"the note of the delta is not JSON ({error}): keep strings, finite numbers, lists and mappings") from error


def _note(card: Mapping[str, Any]) -> dict[str, Any]:
    return {key: card[key] for key in OWN_PLACE if card.get(key) is not None} | card["note"]


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the card {path} cannot be read ({error.strerror}): a delta is two files, keep them together") from error
    except ValueError as error:
        raise InputError(f"the card {path} is not JSON ({error})") from error
    if not isinstance(card, dict) or card.get("version") != VERSION:
        found = card.get("version") if isinstance(card, dict) else None
        raise InputError(f"{path} has format version {found!r}, this asrlife reads {VERSION}: use the asrlife that wrote it")
    for key, kind in {"base": str, "low_rank": list, "note": dict, "sha256": str}.items():
        if not isinstance(card.get(key), kind):
            raise InputError(f"the card {path} has no valid {key!r}: write it with save")
    if not all(isinstance(name, str) for name in card["low_rank"]):
        raise InputError(f"the card {path} has no valid 'low_rank': it lists parameter names")
    return card
