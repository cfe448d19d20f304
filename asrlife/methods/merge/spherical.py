"""Means on spheres: directions are turned into one another, lengths are averaged or left alone.

Angles and lengths are taken in float64, whatever the stack's dtype: near-parallel directions are the rule among tuned models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.merge.consensus import scalar, total
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.settings import Count, Finite, Positive

_TINY = 1e-8
_CHUNK = 1 << 16  # elements that are widened at once


def turned(one: Tensor, other: Tensor, t: float, straight: float, dim: int) -> Tensor:
    """sin((1-t) a)/sin(a) one + sin(t a)/sin(a) other, `a` the angle between the vectors along `dim`, in the dtype of `one`.

    Where the sine of the angle is at most `straight`, or a vector is zero, the straight line (1-t) one + t other.
    """
    if one.dim() == 1:
        return _turned_whole(one, other, t, straight)
    lengths = [torch.linalg.vector_norm(vector.double(), dim=dim, keepdim=True) for vector in (one, other)]
    units = [vector.double() / length.clamp_min(_TINY) for vector, length in zip((one, other), lengths, strict=True)]
    cosine = (units[0] * units[1]).sum(dim=dim, keepdim=True).clamp(-1, 1)
    line = ((1 - cosine.square()).clamp_min(0).sqrt() <= straight) | (lengths[0] <= _TINY) | (lengths[1] <= _TINY)
    angle = torch.acos(cosine.where(~line, 0))
    first = torch.where(line, 1 - t, torch.sin((1 - t) * angle) / torch.sin(angle)).to(one.dtype)
    second = torch.where(line, t, torch.sin(t * angle) / torch.sin(angle)).to(one.dtype)
    return first * one + second * other


def _turned_whole(one: Tensor, other: Tensor, t: float, straight: float) -> Tensor:
    """`turned` of flat vectors; nothing but the result is held whole."""
    lengths = [math.sqrt(_dot(one, one)), math.sqrt(_dot(other, other))]
    cosine = max(-1.0, min(1.0, _dot(one, other) / (max(lengths[0], _TINY) * max(lengths[1], _TINY))))
    first, second = 1 - t, t
    if math.sqrt(1 - cosine**2) > straight and min(lengths) > _TINY:
        angle = math.acos(cosine)
        first, second = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    found = one * scalar(first, one)
    for part, more in zip(found.split(_CHUNK), other.split(_CHUNK), strict=True):
        part.add_(more * scalar(second, one))
    return found


def _dot(one: Tensor, other: Tensor) -> float:
    return sum(float(part.double() @ more.double()) for part, more in zip(one.split(_CHUNK), other.split(_CHUNK), strict=True))


@dataclass(frozen=True)
class Slerp(Method):
    """Spherical interpolation from the base (t = 0) to the one expert (t = 1), or between two experts where there is no base.

    W = sin((1-t) a)/sin(a) W_0 + sin(t a)/sin(a) W_1, a the angle in radians between the flattened tensors; the straight line
    where |cos a| > `threshold`. mergekit 0.1.5's to about a unit in the last place of float32.
    """

    name: ClassVar[str] = "slerp"
    base: ClassVar[Literal["optional"]] = "optional"
    experts: ClassVar[tuple[int, int | None]] = (1, 2)
    symmetric: ClassVar[bool] = False
    t: Finite = 0.5
    threshold: Positive = 0.9995

    def combine(self, stack: Stack) -> Tensor:
        """Turn from one to the other."""
        ends = [end.reshape(-1) for end in (*([] if stack.base is None else [stack.base]), *stack.experts)]
        if len(ends) != 2:
            raise InputError(f"slerp goes from a base to one model, or between two without a base: {stack.name!r} has {len(ends)} in all")
        return turned(ends[0], ends[1], self.t, math.sqrt(max(0.0, 1 - self.threshold**2)), 0)


@dataclass(frozen=True)
class NuSlerp(Method):
    """Spherical interpolation by weights, t = w_2 / (w_1 + w_2), of two models, or of their task vectors where there is a base.

    `nuslerp_flatten` takes a tensor as one vector; without it vectors lie along the last dimension, under `nuslerp_row_wise` along
    the first (the names are mergekit's). Weights that cancel mean t = 0.5.
    """

    name: ClassVar[str] = "nuslerp"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0}
    base: ClassVar[Literal["optional"]] = "optional"
    experts: ClassVar[tuple[int, int | None]] = (2, 2)
    nuslerp_row_wise: bool = False
    nuslerp_flatten: bool = True

    def combine(self, stack: Stack) -> Tensor:
        """Turn from one to the other, and put the base back."""
        first, second = self.own(stack, "weight")
        t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
        ends = [expert if stack.base is None else expert - stack.base for expert in stack.experts]
        if self.nuslerp_flatten or ends[0].dim() == 0:
            ends = [end.reshape(-1) for end in ends]
        found = turned(ends[0], ends[1], t, _TINY, 0 if self.nuslerp_row_wise else -1).reshape(stack.experts[0].shape)
        return found if stack.base is None else stack.base + found


def _flat(stack: Stack) -> list[Tensor]:
    """The experts, or their task vectors where there is a base, flat and in float64."""
    return [(expert if stack.base is None else expert - stack.base).reshape(-1).double() for expert in stack.experts]


def _shares(method: Method, stack: Stack, normalize: bool = True) -> list[float]:
    weights = method.own(stack, "weight")
    if not normalize:
        return list(weights)
    if abs(math.fsum(weights)) < _TINY:
        raise InputError(f"{method.name}: the weights of {stack.name!r} sum to 0: pass others")
    return [weight / math.fsum(weights) for weight in weights]


def _mean(vectors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return total([vector * share for vector, share in zip(vectors, shares, strict=True)])


@dataclass(frozen=True)
class MultiSlerp(Method):
    """Spherical mean of several models, or of their task vectors, in one step: out along the tangents at the mean direction, and back.

    Directions are u_i = v_i / max(|v_i|, eps), m the direction of sum_i w_i u_i, g = sum_i w_i (u_i - <u_i, m> m); the result is
    (cos|g| m + sin|g| g/|g|) * sum_i w_i |v_i|. Where the directions cancel it is the weighted mean. One expert is returned as it is.
    """

    name: ClassVar[str] = "multislerp"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0}
    base: ClassVar[Literal["optional"]] = "optional"
    normalize_weights: bool = True
    eps: Positive = 1e-8

    def combine(self, stack: Stack) -> Tensor:
        """Interpolate, and put the base back."""
        if len(stack.experts) == 1:
            return stack.experts[0].clone()
        found = self._between(_flat(stack), _shares(self, stack, self.normalize_weights))
        found = found.to(stack.experts[0].dtype).reshape(stack.experts[0].shape)
        return found if stack.base is None else stack.base + found

    def _between(self, vectors: list[Tensor], shares: list[float]) -> Tensor:
        lengths = [float(vector.norm()) for vector in vectors]
        units = [vector / max(length, self.eps) for vector, length in zip(vectors, lengths, strict=True)]
        mean = _mean(units, shares)
        if float(mean.norm()) < self.eps:
            return _mean(vectors, shares)
        mean = mean / mean.norm()
        tangent = _mean([unit - (unit @ mean) * mean for unit in units], shares)
        angle = max(float(tangent.norm()), self.eps)
        turned_mean = mean * math.cos(angle) + tangent * (math.sin(angle) / angle)
        return turned_mean * math.fsum(share * length for share, length in zip(shares, lengths, strict=True))


@dataclass(frozen=True)
class Karcher(Method):
    """Karcher mean on the sphere (arXiv 2603.04972), times the mean length.

    Directions u_i; from their mean m walks by exp_m(sum_i w_i log_m(u_i)) until a step is shorter than `tol` (radians) or `max_iter` are
    done. Models of no length count for the length alone; the log of what lies opposite to m is undefined, and left out.
    """

    name: ClassVar[str] = "karcher"
    paper: ClassVar[str] = "2603.04972"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0}
    base: ClassVar[Literal["unused"]] = "unused"
    max_iter: Count = 10
    tol: Positive = 1e-5

    def combine(self, stack: Stack) -> Tensor:
        """Walk to the mean direction, and give it the mean length."""
        first = stack.experts[0]
        if len(stack.experts) == 1:
            return first.clone()
        vectors, shares = [expert.reshape(-1).double() for expert in stack.experts], _shares(self, stack)
        lengths = [float(vector.norm()) for vector in vectors]
        long = [index for index, length in enumerate(lengths) if length > self.tol]
        whole = math.fsum(shares[index] for index in long)
        if not long or abs(whole) < _TINY:
            return _mean(vectors, shares).to(first.dtype)
        mean = self._direction([vectors[index] / lengths[index] for index in long], [shares[index] / whole for index in long])
        return (mean * math.fsum(share * length for share, length in zip(shares, lengths, strict=True))).to(first.dtype)

    def _direction(self, units: list[Tensor], shares: list[float]) -> Tensor:
        mean = _mean(units, shares)
        mean = mean / mean.norm() if float(mean.norm()) >= self.tol else units[0]
        for _ in range(self.max_iter):
            step = _mean([_log(mean, unit, self.tol) for unit in units], shares)
            length = float(step.norm())
            if length < self.tol:
                break
            mean = math.cos(length) * mean + math.sin(length) / length * step
            mean = mean / mean.norm()
        return mean


def _log(mean: Tensor, unit: Tensor, tol: float) -> Tensor:
    """The tangent at `mean` that leads to `unit`."""
    cosine = float((mean @ unit).clamp(-1, 1))
    angle = math.acos(cosine)
    return torch.zeros_like(mean) if math.sin(angle) < tol else (unit - cosine * mean) * (angle / math.sin(angle))
