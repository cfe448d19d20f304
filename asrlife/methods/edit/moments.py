"""Running mean and spread of rows, over a life of edits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST = 1e-12  # of a spread: what never varies is left at nought


@dataclass(eq=False)
class Moments:
    """`count` rows seen, their `mean` (width,) and summed squares of deviations `spread` (width,), in float64 (Welford, 1962).

    A life begins with one row of noughts, so that the first edit has a spread: without it a single row less its own mean would be nothing.
    """

    mean: Tensor
    spread: Tensor
    count: int = 1

    @classmethod
    def new(cls, width: int) -> Moments:
        """Of one row of noughts."""
        return cls(torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        """Take in `rows` (n, width), all at once: the same as one after the other (Chan, Golub and LeVeque, 1979)."""
        new, total = len(rows), self.count + len(rows)
        mean = rows.double().mean(0)
        gap = mean - self.mean
        self.spread = self.spread + (rows.double() - mean).square().sum(0) + gap.square() * (self.count * new / total)
        self.mean = self.mean + gap * (new / total)
        self.count = total

    def normalised(self, rows: Tensor) -> Tensor:
        """(rows - mean) / standard deviation, (n, width)."""
        return (rows.double() - self.mean) / (self.spread / self.count).sqrt().clamp_min(_LEAST)
