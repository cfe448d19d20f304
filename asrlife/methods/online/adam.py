"""Adam on flat weights, a row for each utterance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from asrlife.models.handle import Recogniser

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8

Span = tuple[slice, int]
ONCE: tuple[Span, ...] = ((slice(None), 1),)


class Adam:
    """torch.optim.AdamW without weight decay on `values` (rows, P), each row with moments and a number of updates of its own.

    `first` and `second` (rows, P) move in place, as `values` does. `spans` applies the update k times to a part of the columns, each
    time with the same gradient and a count of its own: what AdamW on a CPU does to a tensor that is listed k times (pytorch#40967).
    """

    def __init__(
        self, values: Tensor, first: Tensor, second: Tensor, counts: Sequence[int], lr: float, spans: Sequence[Span] = ONCE
    ) -> None:
        self.values, self.first, self.second = values, first, second
        self.counts = list(counts)
        self.lr = lr
        self.spans = spans

    @classmethod
    def fresh(cls, values: Tensor, lr: float, spans: Sequence[Span] = ONCE) -> Adam:
        """Moments of no update."""
        return cls(values, torch.zeros_like(values), torch.zeros_like(values), [0] * len(values), lr, spans)

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Move `values` once against `gradient` (rows, P)."""
        for part, times in self.spans:
            for turn in range(times):
                self._apply(part, gradient, [count * times + turn for count in self.counts])
        self.counts = [count + 1 for count in self.counts]

    def row(self, index: int) -> dict[str, Tensor]:
        """Copies of the weights and the moments (P,) of one row, as a state keeps them."""
        return {"weights": self.values[index].clone(), "first": self.first[index].clone(), "second": self.second[index].clone()}

    def _apply(self, part: slice, gradient: Tensor, counts: list[int]) -> None:
        whole = self.values, gradient, self.first, self.second
        values, slopes, first, second = ([row[part] for row in matrix] for matrix in whole)
        steps = [torch.tensor(float(count + 1), device=self.values.device) for count in counts]
        torch._fused_adamw_(
            values, slopes, first, second, [], steps, amsgrad=False, lr=self.lr, beta1=_BETA1, beta2=_BETA2,
            weight_decay=0.0, eps=_EPSILON, maximize=False, grad_scale=None, found_inf=None,
        )  # fmt: skip


def listed(model: Recogniser, names: Sequence[str]) -> tuple[Span, ...]:
    """How often the published code lists each parameter: once for every module around it from the front-end's own on."""
    spans: list[Span] = []
    start = 0
    for name in names:
        stop = start + model.module.get_parameter(name).numel()
        parts = name.split(".")
        front = len(parts) > 2 and parts[1] in ("feature_extractor", "feature_projection")
        spans.append((slice(start, stop), len(parts) - 2 if front else 1))
        start = stop
    return tuple(spans)
