"""Stacks of every awkward kind."""

from __future__ import annotations

import torch
from torch import Tensor

from asrlife.methods.merge import METHODS, Stack


def count(name: str, wanted: int = 3) -> int:
    """How many experts a stack for the method has: `wanted` where it takes as many."""
    least, most = METHODS[name].experts
    if name == "slerp":
        return 1
    return max(least, min(wanted, most or wanted))


def scattered(shape: tuple[int, ...], number: int, seed: int = 0, spread: float = 0.1, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A base of N(0, 1) and `number` experts N(0, spread) away from it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator, dtype=dtype)
    return [base, *(base + spread * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(number))]


def evidence(name: str, experts: list[Tensor], seed: int = 1) -> tuple[Tensor, ...]:
    """Fisher diagonals or Gram matrices, where the method goes by them."""
    generator = torch.Generator().manual_seed(seed)
    if name == "fisher":
        return tuple(torch.rand(expert.shape, generator=generator, dtype=expert.dtype) for expert in experts)
    if name == "regmean" and experts[0].dim() > 1 and experts[0].numel():
        width = experts[0].numel() // experts[0].shape[0]
        inputs = [torch.randn(2 * width + 1, width, generator=generator, dtype=experts[0].dtype) for _ in experts]
        return tuple(found.T @ found for found in inputs)
    return ()


def stacked(name: str, tensors: list[Tensor], **each: tuple[float, ...]) -> Stack:
    """A stack for the method `name` of a base, left out where it has no use for one, and experts."""
    base = None if METHODS[name].base == "unused" else tensors[0]
    return Stack("model.layers.5.self_attn.q_proj.weight", base, tuple(tensors[1:]), each, 3, evidence(name, tensors[1:]))
