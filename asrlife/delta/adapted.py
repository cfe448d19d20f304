"""A checkpoint with a LoRA adapter on it, which is never written out as a whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.delta import Change
from asrlife.delta.lora import CONFIG, WEIGHTS, changes


class Adapted(Checkpoint):
    """`base` with the peft folder `adapter` on it: W + s B A for what it moves, in float32 or better, worked out when asked for.

    All else, names, dtypes as listed, ties and files, is the base's. Raises InputError as `read_lora` does: for what is no plain LoRA,
    or of another base.
    """

    def __init__(self, base: Checkpoint, adapter: Path) -> None:
        """Read the factors, which are small."""
        self._changes: dict[str, Change] = {}
        self.adapter = adapter
        super().__init__(base.path, base.shards)
        self._changes = changes(adapter, base)

    def __getitem__(self, name: str) -> Tensor:
        before = self.raw(name)
        if name not in self._changes:
            return before
        change = self._changes[name].dense()
        exact = torch.promote_types(before.dtype, change.dtype)
        return before.to(exact) + change.to(exact)

    @property
    def moved(self) -> tuple[str, ...]:
        """The tensors that the adapter moves."""
        return tuple(self._changes)

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the base and of the adapter."""
        return (*super().files, self.adapter / CONFIG, self.adapter / WEIGHTS)

    def fingerprint(self) -> str:
        """SHA-256 over the base's fingerprint and the adapter's files."""
        digest = hashlib.sha256(Checkpoint(self.path, self.shards).fingerprint().encode())
        for name in (CONFIG, WEIGHTS):
            digest.update((self.adapter / name).read_bytes())
        return digest.hexdigest()
