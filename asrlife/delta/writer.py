"""Checkpoints that are whole or absent: preallocated shards in a folder beside, renamed into place when all is on the disk."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from asrlife.delta.shards import Entry, Spec, layout, split
from asrlife.errors import InputError
from asrlife.files import atomic, sync

SHARD_SIZE = 5_000_000_000
"""Bytes; what Hugging Face puts into one file."""
PIECE = 1 << 18
"""Elements rounded, or bytes copied, at once: pieces stay in a core's cache."""
PLAN = "plan"
OWN_SCORES = ("scores", "confidence", "training", "pretext", "warning")
"""What a recogniser's card.json says of its own weights, and would be untrue of new ones."""


class Writer:
    """Writes the tensors of `specs` to `out`: one file where its name ends in .safetensors, else a Hugging Face folder.

    A context manager: `place(name)` is where a tensor is written in pieces, in any order and from any thread, until `done(name)`; `put`
    does both; `finish` makes `out` appear at once. What was begun lies in `.NAME.partial` beside `out`. A shard whose tensors are all
    there goes to the disk and stays there when the work is interrupted: a Writer of the same `plan` (any text that says all that the
    bytes depend on) has them in `finished` and needs only the rest; another plan, or "", starts clean. `shard_size` in bytes; `tied` as
    in Checkpoint; without `durable`, nothing waits for the disk and a power cut may damage what was written.
    """

    def __init__(
        self,
        out: Path,
        specs: Mapping[str, Spec],
        *,
        plan: str = "",
        shard_size: int = SHARD_SIZE,
        tied: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        durable: bool = True,
    ) -> None:
        """Lay the files out; InputError where `out` is there already, somebody else writes it, or the disk is too small."""
        self.out, self._durable, self._tied = out, durable, dict(tied or {})
        every = dict(specs) | {copy: specs[name] for copy, name in self._tied.items()}
        every = {name: Spec(spec.dtype, tuple(spec.shape)) for name, spec in sorted(every.items())}
        metadata = {"format": "pt"} | dict(metadata or {})
        self._single = out.suffix == ".safetensors"
        groups = {out.name: list(every)} if self._single else split(every, shard_size)
        self._folder = out.parent / f".{out.name}.partial"
        check_absent(out)
        self._lock = _claim(self._folder, out)
        self._resume(plan and json.dumps([plan, {name: str(spec) for name, spec in every.items()}, groups, metadata]))
        self._parts = [_Part(self._folder / file, {n: every[n] for n in names}, metadata, durable) for file, names in groups.items()]
        self._part = {name: part for part in self._parts for name in part.specs}
        _check_room(out, sum(part.nbytes for part in self._parts if not part.whole))

    @property
    def finished(self) -> frozenset[str]:
        """Tensors that an interrupted run of the same plan has put on the disk: they need not be given again."""
        whole = {name for part in self._parts if part.whole for name in part.specs}
        return frozenset(whole - set(self._tied) - {first for copy, first in self._tied.items() if copy not in whole})

    def place(self, name: str) -> Place:
        """Where a tensor is written."""
        return self._part[name].place(name)

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, rounded to the dtype of its place; InputError for another shape."""
        place = self.place(name)
        if tensor.shape != place.spec.shape:
            raise InputError(f"{name!r} has shape {list(tensor.shape)}, and its place in {self.out} has {list(place.spec.shape)}")
        flat = tensor.detach().reshape(-1)
        for first in range(0, flat.numel(), PIECE):
            place.write(first, flat[first : first + PIECE])
        self.done(name)

    def done(self, name: str) -> None:
        """Say that a tensor is written; the shard that it completes goes to the disk."""
        for copy in (copy for copy, first in self._tied.items() if first == name):
            if not self._part[copy].whole:
                self.place(copy).copy(self.place(name))
                self._part[copy].done(copy)
        self._part[name].done(name)

    def carry(self, files: Iterable[Path], texts: Mapping[str, str] | None = None) -> None:
        """Put files beside the weights of a folder, and `texts` by file name; card.json goes without measurements of the old weights."""
        for source in () if self._single else files:
            inner = source.parent.name == "additional_chat_templates"
            folder = self._folder / source.parent.name if inner else self._folder
            folder.mkdir(exist_ok=True)
            _copy(source, folder / source.name)
        for name, text in (texts or {}).items():
            with atomic(self._folder / name, "w") as file:
                file.write(text)

    def finish(self) -> Path:
        """Make `out` appear; InputError naming tensors that were never written."""
        missing = [name for part in self._parts for name in part.missing]
        if missing:
            raise InputError(f"{self.out} is not whole: {len(missing)} tensors such as {missing[0]!r} were never written")
        if len(self._parts) > 1:
            self._write_index()
        (self._folder / PLAN).unlink(missing_ok=True)
        sync(self._folder)
        check_absent(self.out)
        if self._single:
            self._unpack()
        else:
            os.replace(self._folder, self.out)
        sync(self.out.parent)
        os.close(self._lock)
        self._lock = -1
        return self.out

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave whole shards, which a second run can use, and nothing else."""
        for part in self._parts:
            part.close()
        if self._lock < 0:
            return
        if any(part.whole for part in self._parts) and (self._folder / PLAN).is_file():
            for part in self._parts:
                part.begun.unlink(missing_ok=True)
        else:
            shutil.rmtree(self._folder)
        os.close(self._lock)
        self._lock = -1

    def _resume(self, plan: str) -> None:
        digest, told = hashlib.sha256(plan.encode()).hexdigest(), self._folder / PLAN
        if not plan or not told.is_file() or told.read_text() != digest:
            for path in self._folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if plan:
            with atomic(told, "w") as file:
                file.write(digest)

    def _write_index(self) -> None:
        size = sum(spec.nbytes for part in self._parts for spec in part.specs.values())
        where = {name: part.path.name for part in self._parts for name in part.specs}
        with atomic(self._folder / "model.safetensors.index.json", "w") as file:
            json.dump({"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}, file, indent=2)

    def _unpack(self) -> None:
        for path in sorted(self._folder.iterdir(), key=lambda path: path == self._parts[0].path):
            os.replace(path, self.out.parent / path.name)
        self._folder.rmdir()


@dataclass(frozen=True)
class Place:
    """The bytes of a tensor `spec` in an open file, from byte `start` on."""

    spec: Spec
    start: int
    file: int

    def write(self, first: int, piece: Tensor) -> None:
        """Write elements `first` and on from a flat tensor, rounded to the dtype of the place."""
        # written, not mapped: the kernel would clear every fresh page first, and be asked for each
        piece = piece.to(device="cpu", dtype=self.spec.dtype).contiguous()
        self._send(piece.view(torch.uint8).numpy().data, self.start + first * self.spec.dtype.itemsize)

    def copy(self, other: Place) -> None:
        """Write what another place of the same spec holds."""
        for first in range(0, self.spec.nbytes, PIECE):
            size = min(PIECE, self.spec.nbytes - first)
            self._send(memoryview(os.pread(other.file, size, other.start + first)), self.start + first)

    def _send(self, left: memoryview, at: int) -> None:
        while left:
            count = os.pwrite(self.file, left, at)
            left, at = left[count:], at + count


class _Part:
    """One preallocated file; `begun` until its last tensor is written, then `path`."""

    def __init__(self, path: Path, specs: Mapping[str, Spec], metadata: Mapping[str, str], durable: bool) -> None:
        self.path, self.begun, self.specs, self._durable = path, path.with_suffix(".begun"), specs, durable
        self._head, self._places = layout(path, specs, metadata)
        self.nbytes = len(self._head) + sum(spec.nbytes for spec in specs.values())
        self.missing = set() if path.is_file() else set(specs)
        self._file = -1

    @property
    def whole(self) -> bool:
        return not self.missing

    def place(self, name: str) -> Place:
        self._open()
        return Place(self.specs[name], self._places[name].start, self._file)

    def done(self, name: str) -> None:
        self.missing.discard(name)
        if not self.missing and not self.path.is_file():
            self._keep()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> None:
        if self._file >= 0:
            return
        if self.path.is_file():  # a resumed run wants a tensor of it once more
            self._file = os.open(self.path, os.O_RDWR)
            return
        self._file = os.open(self.begun, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.posix_fallocate(self._file, 0, self.nbytes)
        os.pwrite(self._file, self._head, 0)

    def _keep(self) -> None:
        self._open()  # a file without a tensor
        if self._durable:
            os.fsync(self._file)
        self.close()
        os.replace(self.begun, self.path)
        sync(self.path.parent)


def check_absent(out: Path) -> None:
    """Raise InputError where something is already at the place of a result."""
    if out.is_file() or out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is there already: choose another place, or remove it first")


def _claim(folder: Path, out: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino != folder.stat().st_ino:
            raise FileNotFoundError
    except OSError as error:  # held by another process, or just renamed by it
        os.close(lock)
        raise InputError(f"{out} is being written by another process: wait for it, or choose another place") from error
    return lock


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise InputError(f"{out} needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f}: make room, or choose another place")


def _copy(source: Path, target: Path) -> None:
    if source.name == "card.json":
        card: Any = json.loads(source.read_text(encoding="utf-8"))
        kept = {key: value for key, value in card.items() if key not in OWN_SCORES} if isinstance(card, dict) else card
        with atomic(target, "w") as file:
            json.dump(kept, file, indent=2, ensure_ascii=False)
        return
    with atomic(target) as file, source.open("rb") as original:
        shutil.copyfileobj(original, file)


def specs_of(entries: Mapping[str, Entry]) -> dict[str, Spec]:
    """What the tensors of a checkpoint are, without where they lie."""
    return {name: Spec(entry.dtype, entry.shape) for name, entry in entries.items()}
