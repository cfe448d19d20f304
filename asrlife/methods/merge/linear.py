"""Averages of whole models, and one model as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.merge.consensus import scalar
from asrlife.methods.merge.method import Method, Stack


@dataclass(frozen=True)
class Linear(Method):
    """Model soup (arXiv 2203.05482): W = sum_i weight_i * W_i, divided by sum_i weight_i where `normalize` is set.

    Each term is added by a fused multiply-add where the machine has one, as in mergekit 0.1.5, whose bits these are. Weights that sum to
    0 cannot be normalised: InputError.
    """

    name: ClassVar[str] = "linear"
    paper: ClassVar[str] = "2203.05482"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0}
    base: ClassVar[Literal["unused"]] = "unused"
    normalize: bool = True

    def combine(self, stack: Stack) -> Tensor:
        """Add up, divide."""
        factors = [scalar(weight, stack.experts[0]) for weight in self.own(stack, "weight")]
        found = torch.zeros_like(stack.experts[0])
        for expert, factor in zip(stack.experts, factors, strict=True):
            found.addcmul_(expert, factor)
        if not self.normalize:
            return found
        divisor = torch.stack(factors).sum()
        if float(divisor) == 0:
            raise InputError(f"linear: the weights of {stack.name!r} sum to 0: pass others, or normalize false")
        return found.div_(divisor)


@dataclass(frozen=True)
class Passthrough(Method):
    """The one model's parameter, times its `scale`."""

    name: ClassVar[str] = "passthrough"
    per_model: ClassVar[Mapping[str, float]] = {"scale": 1.0}
    base: ClassVar[Literal["unused"]] = "unused"
    experts: ClassVar[tuple[int, int | None]] = (1, 1)

    def combine(self, stack: Stack) -> Tensor:
        """Scale."""
        return stack.experts[0] * scalar(self.own(stack, "scale")[0], stack.experts[0])
