"""One task vector of several: a sum, or the mean of those whose sign won."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Elect = Literal["weighted", "plain", "frequency"]
Divide = Literal["weights", "count"]
_NOTHING = 1e-8  # weights that sum to less cancel, and nothing is divided by them


def total(parts: Sequence[Tensor]) -> Tensor:
    """The sum, from the first to the last."""
    found = parts[0].clone()
    for part in parts[1:]:
        found.add_(part)
    return found


def scalar(value: float, like: Tensor) -> Tensor:
    """A number in the dtype that sums are taken in: a weight is rounded once, before it multiplies."""
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def summed(vectors: Sequence[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """sum_i w_i v_i, divided by sum_i w_i where `normalize` asks for it and the weights do not cancel."""
    factors = [scalar(weight, vectors[0]) for weight in weights]
    mixed = total([vector * factor for vector, factor in zip(vectors, factors, strict=True)])
    divisor = torch.stack(factors).sum()
    return mixed.div_(divisor) if normalize and abs(float(divisor)) >= _NOTHING else mixed


def elected(vectors: Sequence[Tensor], weights: Sequence[float], normalize: bool, elect: Elect, divide: Divide) -> Tensor:
    """The sum of w_i v_i over the experts that agree in sign with the winner, entry by entry; divided by what agreed under `normalize`.

    "weighted" elects the sign of sum_i w_i v_i, "plain" that of sum_i v_i, "frequency" that of the majority; a tie elects plus. An entry
    of 0 agrees with nobody, NaN with everybody. The divisor is the sum of the agreeing weights, or their count.
    """
    factors = [scalar(weight, vectors[0]) for weight in weights]
    weighted = [vector * factor for vector, factor in zip(vectors, factors, strict=True)]
    voters = weighted if elect == "weighted" else vectors
    votes = [voter.sign() for voter in voters] if elect == "frequency" else voters
    plus = total(votes) >= 0
    # NaN is not at most 0 either: it takes part, and the sum is NaN
    masks = [torch.where(plus, voter <= 0, voter >= 0).logical_not_() for voter in voters]
    mixed = total([part.where(mask, 0) for part, mask in zip(weighted, masks, strict=True)])
    if not normalize:
        return mixed
    shares = factors if divide == "weights" else [scalar(1.0, mixed)] * len(factors)
    divisor = total([torch.where(mask, share, 0) for mask, share in zip(masks, shares, strict=True)])
    return mixed.div_(divisor.where(divisor != 0, 1))
