"""Adam on two flat vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8

Span = tuple[slice, int]
ONCE: tuple[Span, ...] = ((slice(None), 1),)


class Adam:
    """torch.optim.AdamW without weight decay, float for float, on `values` (P,) with moments that can be taken out and put back.

    Its own copies of `first` and `second` (P,) move in place. `spans` applies the update k times to a part of the vector, each time
    with the same gradient and a count of its own: what AdamW on a CPU does to a tensor that is listed k times (pytorch#40967).
    """

    def __init__(self, values: Tensor, first: Tensor, second: Tensor, count: int, lr: float, spans: Sequence[Span] = ONCE) -> None:
        self.values = values
        self.first = first.to(values.device, copy=True)
        self.second = second.to(values.device, copy=True)
        self.count = count
        self.lr = lr
        self.spans = spans

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Move `values` once against `gradient` (P,)."""
        for part, times in self.spans:
            for turn in range(times):
                self._apply(part, gradient[part], self.count * times + turn + 1)
        self.count += 1

    def _apply(self, part: slice, gradient: Tensor, count: int) -> None:
        first, second = self.first[part], self.second[part]
        first.lerp_(gradient, 1 - _BETA1)
        second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        scale = (second.sqrt() / (1 - _BETA2**count) ** 0.5).add_(_EPSILON)
        self.values[part].addcdiv_(first, scale, value=-self.lr / (1 - _BETA1**count))
