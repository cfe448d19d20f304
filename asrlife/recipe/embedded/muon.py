"""Muon in float32, for processors that bfloat16 is slow on: torch's own, which is in bfloat16, takes twenty times as long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.775, 2.0315)  # as torch.optim.Muon
_STEPS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V' of a matrix U S V' (n, m), in its own precision: five quintic Newton-Schulz steps X <- a X + (b A + c A A) X, A = X X'."""
    a, b, c = _QUINTIC
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum with Nesterov's look ahead, made orthogonal; a step is as long as AdamW's (0.2 sqrt(max(n, m)), arXiv 2502.16982)."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.01, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, matrix.grad, group)

    def _move(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        moment = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
        moment.lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(moment, group["momentum"])
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(orthogonalised(ahead), alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)
