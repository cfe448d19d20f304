"""Averages weighted by what each expert's own data say of its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.merge.consensus import scalar, total
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.settings import Positive, Share


@dataclass(frozen=True)
class Fisher(Method):
    """Fisher merging (arXiv 2111.09832): W = sum_i w_i (F_i + floor) W_i / sum_i w_i (F_i + floor), entry by entry.

    The evidence is the diagonal E[g^2] of each expert's Fisher information, in the parameter's shape; InputError without it.
    """

    name: ClassVar[str] = "fisher"
    paper: ClassVar[str] = "2111.09832"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0}
    base: ClassVar[Literal["unused"]] = "unused"
    evidence: ClassVar[Literal["fisher"]] = "fisher"
    needs_evidence: ClassVar[bool] = True
    floor: Positive = 1e-6

    def combine(self, stack: Stack) -> Tensor:
        """Weigh, add, divide."""
        first = stack.experts[0]
        for diagonal in stack.evidence:
            if diagonal.shape != first.shape:
                raise InputError(f"fisher: {stack.name!r} is {tuple(first.shape)} and its Fisher diagonal {tuple(diagonal.shape)}")
        if not stack.evidence:
            raise InputError(f"fisher: no Fisher diagonal for {stack.name!r}: estimate one on data for each model with `asrlife evidence`")
        weights = self.own(stack, "weight")
        if any(weight < 0 for weight in weights) or not any(weights):
            raise InputError(f"fisher: weights of {stack.name!r} are {weights}: pass numbers of 0 or more, not all 0")
        shares = [(found.to(first) + self.floor) * scalar(weight, first) for found, weight in zip(stack.evidence, weights, strict=True)]
        parts = [expert * share for expert, share in zip(stack.experts, shares, strict=True)]
        return total(parts).div_(total(shares))


@dataclass(frozen=True)
class RegMean(Method):
    """RegMean (arXiv 2212.09849): W = (sum_i w_i W_i G_i) (sum_i w_i G_i)^-1, the least change of all experts' outputs on their inputs.

    The evidence G_i = X_i^T X_i (in, in) is the Gram matrix of the inputs of a linear layer W (out, in), its entries off the diagonal
    taken times `alpha`. Along inputs that none of the data have, and for parameters without evidence, W is the weighted mean.
    `transposed` is a regular expression for the names of weights stored as (in, out). Solved in float64.
    """

    name: ClassVar[str] = "regmean"
    paper: ClassVar[str] = "2212.09849"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0}
    base: ClassVar[Literal["unused"]] = "unused"
    evidence: ClassVar[Literal["gram"]] = "gram"
    alpha: Share = 0.9
    transposed: str = r"(^|\.)(c_attn|c_proj|c_fc|q_attn)\.weight$"  # transformers' Conv1D, as in GPT-2

    def combine(self, stack: Stack) -> Tensor:
        """Average, and move to where the outputs agree best."""
        weights = self.own(stack, "weight")
        if any(weight < 0 for weight in weights) or not any(weights):
            raise InputError(f"regmean: weights of {stack.name!r} are {weights}: pass numbers of 0 or more, not all 0")
        first = stack.experts[0]
        turned = bool(re.search(self.transposed, stack.name)) and first.dim() == 2
        matrices = [(expert.T if turned else expert.reshape(first.shape[0] if first.dim() else 1, -1)).double() for expert in stack.experts]
        mean = total([matrix * (weight / sum(weights)) for matrix, weight in zip(matrices, weights, strict=True)])
        if stack.evidence:
            mean = mean + self._moved([matrix - mean for matrix in matrices], self._grams(stack, matrices[0].shape[1], weights))
        return (mean.T if turned else mean).to(first.dtype).contiguous()

    def _grams(self, stack: Stack, width: int, weights: tuple[float, ...]) -> list[Tensor]:
        found = []
        for gram, weight in zip(stack.evidence, weights, strict=True):
            if gram.shape != (width, width):
                raise InputError(f"regmean: {stack.name!r} has {width} inputs and its Gram matrix is {tuple(gram.shape)}")
            exact = gram.double() * weight
            found.append(exact * self.alpha + torch.diag(exact.diagonal() * (1 - self.alpha)))
        return found

    def _moved(self, apart: list[Tensor], grams: list[Tensor]) -> Tensor:
        """(sum_i D_i G_i) (sum_i G_i)^+, D_i what an expert is away from the mean."""
        pull = total([matrix @ gram for matrix, gram in zip(apart, grams, strict=True)])
        return pull @ torch.linalg.pinv(total(grams), hermitian=True)
