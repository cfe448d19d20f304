"""Names for exact weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "shared.weight", "word_embeddings.weight", "embeddings.weight", "embed_in.weight")
"""How names of input embeddings end."""

State = nn.Module | Mapping[str, Tensor]


def fingerprint(state: State, dtype: torch.dtype | None = None) -> str:
    """Hex SHA-256 over the sorted (name, dtype, shape, bytes) of a module or of its `state_dict()`, a tied tensor once.

    Buffers that no checkpoint keeps are left out: libraries rebuild them, and not always alike. With `dtype` it is that of the same weights
    with every floating tensor in it: a model in float32 that was loaded from a file in half precision has its file's in float32.
    """
    digest = hashlib.sha256()
    for name, found in sorted(unique(state)):
        tensor = found.to(dtype) if dtype and found.is_floating_point() else found
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def unique(state: State) -> Iterator[tuple[str, Tensor]]:
    """Every (name, tensor) that a checkpoint keeps, tied tensors under the embedding's name, as files have them, or the first by name."""
    tensors = state.state_dict(keep_vars=True) if isinstance(state, nn.Module) else state
    first: dict[tuple[object, ...], str] = {}
    for name in sorted(tensors, key=lambda name: (not name.endswith(EMBEDDINGS), name)):
        first.setdefault(_place(name, tensors[name]), name)
    kept = set(first.values())
    return ((name, tensor) for name, tensor in tensors.items() if name in kept)


def _place(name: str, tensor: Tensor) -> tuple[object, ...]:
    # an empty tensor has no memory to share
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else (name,)
