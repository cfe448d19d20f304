"""The safetensors format by hand: a header is checked before any of it is believed, tensors are views of the mapped file."""

from __future__ import annotations

import json
import math
import mmap
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrlife.errors import InputError

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16, "BF16": torch.bfloat16,
    "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32,
    "C64": torch.complex64, "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64,
}  # fmt: skip
"""The format's names of the dtypes that torch has, in the order of the format's own list, by which files are sorted."""
CODES = {dtype: code for code, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""

# a writable private map, so that a write by mistake stays in memory, without a claim on swap for the whole file
_PRIVATE = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True)
class Spec:
    """What a tensor is: its dtype and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Entry(Spec):
    """A tensor in a file: bytes `start` to `start + nbytes` of `path`, counted from the beginning of the file."""

    path: Path
    start: int


class Shard:
    """One safetensors file, mapped when the first tensor is asked for; nothing is copied."""

    def __init__(self, path: Path) -> None:
        """Read the header; InputError where the file is cut short, damaged, of an unknown dtype or no safetensors at all."""
        self.path = path
        self.metadata, self.entries = _read(path)
        self._map: mmap.mmap | None = None

    def view(self, name: str) -> Tensor:
        """The tensor as a view of the file; what is written into it stays in memory and never reaches the file."""
        return view(self._mapped(), self.entries[name], aligned=False)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, flags=_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return self._map


def view(mapped: mmap.mmap, entry: Entry, aligned: bool = True) -> Tensor:
    """The bytes of `entry` in a mapped file as a tensor; a copy where the file does not align them and `aligned` does not promise it."""
    if not entry.nbytes:
        return torch.empty(entry.shape, dtype=entry.dtype)
    if not aligned and entry.start % entry.dtype.itemsize:
        raw = torch.frombuffer(mapped, dtype=torch.uint8, count=entry.nbytes, offset=entry.start).clone()
        return raw.view(entry.dtype).view(entry.shape)
    return torch.frombuffer(mapped, dtype=entry.dtype, count=entry.numel, offset=entry.start).view(entry.shape)


def layout(path: Path, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, Entry]]:
    """The header of a file of `specs` and the places of its tensors, in the order in which safetensors itself lays them."""
    widest = list(DTYPES.values())[::-1]
    names = sorted(specs, key=lambda name: (widest.index(specs[name].dtype), name))
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in names:
        spec = specs[name]
        table[name] = {"dtype": CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [offset, offset + spec.nbytes]}
        offset += spec.nbytes
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    places = {name: Entry(specs[name].dtype, specs[name].shape, path, first + table[name]["data_offsets"][0]) for name in names}
    return len(text).to_bytes(8, "little") + text, places


def split(specs: Mapping[str, Spec], largest: int, stem: str = "model") -> dict[str, list[str]]:
    """File names, as Hugging Face gives them, with the tensors of each: in order, and in one file while they fit in `largest` bytes."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, spec in specs.items():
        if groups[-1] and filled + spec.nbytes > largest:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += spec.nbytes
    if len(groups) == 1:
        return {f"{stem}.safetensors": groups[0]}
    return {f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors": names for number, names in enumerate(groups, 1)}


def _read(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            _check_kind(path, head)
            length = int.from_bytes(head, "little")
            if size < 8 or length > size - 8:
                raise InputError(f"{path} is cut short: {size} bytes, its header alone needs {length + 8}; copy or download it again")
            table = _table(path, file.read(length))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    metadata = table.pop("__metadata__", {})
    entries = {name: _entry(path, name, fields, 8 + length) for name, fields in table.items()}
    _check_cover(path, entries.values(), 8 + length, size)
    return {str(key): str(value) for key, value in metadata.items()}, entries


def _check_kind(path: Path, head: bytes) -> None:
    if len(head) < 8 or int.from_bytes(head, "little") <= LONGEST_HEADER:
        return
    if head[:2] == b"PK" or head[:1] == b"\x80":
        raise InputError(
            f"{path} is a pickle, which can run code, whatever its name: convert it once where you trust it, with transformers' "
            "from_pretrained(OLD).save_pretrained(NEW)"
        )
    if head.startswith(b"version "):
        raise InputError(f"{path} is a pointer of git-lfs, not the file itself: fetch it with `git lfs pull`")
    raise InputError(f"{path} is no safetensors file, or a damaged one: its header would be longer than the format allows")


def _table(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands twice")
        return found

    try:
        table = json.loads(text, object_pairs_hook=once)
        if not isinstance(table, dict) or not isinstance(table.get("__metadata__", {}), dict):
            raise ValueError("it is no table of tensors")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no safetensors file, or a damaged one: its header does not read ({error})") from error
    return table


def _entry(path: Path, name: str, fields: Any, first: int) -> Entry:
    try:
        code, shape, (start, stop) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
        sound = all(type(number) is int and number >= 0 for number in (*shape, start, stop)) and isinstance(code, str)
    except (TypeError, KeyError, ValueError):
        sound = False
    if not sound:
        raise InputError(f"{path} is damaged: its header does not say what {name!r} is; copy or download it again")
    if code not in DTYPES:
        raise InputError(f"{path}: {name!r} has dtype {code}, which torch has not: convert the checkpoint to one of {', '.join(DTYPES)}")
    entry = Entry(DTYPES[code], shape, path, first + start)
    if stop - start != entry.nbytes:
        raise InputError(f"{path} is damaged: {name!r} {list(shape)} of {code} needs {entry.nbytes} bytes and has {stop - start}")
    return entry


def _check_cover(path: Path, entries: Iterable[Entry], first: int, size: int) -> None:
    """The format wants every byte in exactly one tensor, which also keeps two tensors from sharing memory unnoticed."""
    expected = first
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.nbytes)):
        if entry.start != expected:
            raise InputError(f"{path} is damaged: its tensors overlap or leave gaps at byte {entry.start}; copy or download it again")
        expected += entry.nbytes
    if size < expected:
        raise InputError(f"{path} is cut short: {size} bytes of {expected}; copy or download it again")
    if size > expected:
        raise InputError(f"{path} is damaged: {size - expected} bytes after its last tensor; copy or download it again")
