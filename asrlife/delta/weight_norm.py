"""Weights that are kept as a gain and a direction: weight = g v / |v| (arXiv 1602.07868)."""

from __future__ import annotations

import torch
from torch import Tensor


def effective(gain: Tensor, direction: Tensor) -> Tensor:
    """The weight of a pair, as torch works it out; the norm runs over the axes along which `gain` has size 1."""
    return direction * (gain / _norm(gain, direction))


def split(weight: Tensor, gain: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (gain, direction) of `weight` whose direction is as long as the given one, so that it trains on as before."""
    norm = _norm(gain, weight)
    return norm, torch.where(norm == 0, direction, weight * (_norm(gain, direction) / norm))


def _norm(gain: Tensor, direction: Tensor) -> Tensor:
    axes = [axis for axis in range(direction.dim()) if gain.shape[axis] == 1]
    return torch.linalg.vector_norm(direction, dim=axes, keepdim=True)
