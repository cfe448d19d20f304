"""Checkpoints that differ from a given one as tuning would make them."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, from however many files."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def tuned(folder: Path, out: Path, seed: int, spread: float = 0.01, dtype: torch.dtype | None = None) -> Path:
    """A copy of a folder whose floating weights have moved; running variances stay positive, buffers stay."""
    shutil.copytree(folder, out)
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, tensor in sorted(weights(folder).items()):
        moved[name] = tensor
        if tensor.is_floating_point():
            step = spread * torch.randn(tensor.shape, generator=generator)
            moved[name] = (tensor + (step.abs() if name.endswith("running_var") else step)).to(dtype or tensor.dtype)
    for path in out.glob("*.safetensors*"):
        path.unlink()
    save_file(moved, out / "model.safetensors", metadata={"format": "pt"})
    return out
