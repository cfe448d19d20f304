"""What fine-tuning, editing, merging and adaptation all produce: a difference of weights against a named base."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from numbers import Real
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from asrlife.delta.fingerprint import State, fingerprint, unique
from asrlife.delta.roles import chosen
from asrlife.errors import InputError


@dataclass(frozen=True, eq=False)
class Dense:
    """A difference written out, in the shape of its parameter."""

    value: Tensor

    def __post_init__(self) -> None:
        if not self.value.is_floating_point():
            raise InputError(f"a difference of dtype {self.value.dtype}: weights move in floating point only")

    @property
    def shape(self) -> torch.Size:
        """The shape of the parameter."""
        return self.value.shape

    def dense(self) -> Tensor:
        """The difference in the shape of the parameter."""
        return self.value

    def times(self, scale: float) -> Dense:
        """The difference, `scale` times as large."""
        return Dense(self.value * scale)

    def detached(self) -> Dense:
        """The same values out of reach of autograd and of whoever trains them further."""
        return Dense(_still(self.value))


@dataclass(frozen=True, eq=False)
class LowRank:
    """The difference `up @ down` of a matrix parameter of shape (out, in), with up (out, r) and down (r, in).

    (out, in) is the shape in which the parameter is stored; a transformers `Conv1D`, which stores its transpose, has them swapped.
    """

    up: Tensor
    down: Tensor

    def __post_init__(self) -> None:
        fits = self.up.dim() == 2 and self.down.dim() == 2 and self.up.shape[1] == self.down.shape[0]
        if not fits:
            raise InputError(f"up {tuple(self.up.shape)} and down {tuple(self.down.shape)} are not (out, r) and (r, in)")
        if self.up.dtype != self.down.dtype or not self.up.is_floating_point():
            raise InputError(f"up is {self.up.dtype} and down is {self.down.dtype}: they must share a floating dtype")

    @property
    def shape(self) -> torch.Size:
        """The shape of the parameter, (out, in)."""
        return torch.Size((self.up.shape[0], self.down.shape[1]))

    @property
    def rank(self) -> int:
        """The number of columns of `up`: an upper bound of the rank, since sums only lay factors side by side."""
        return self.up.shape[1]

    def dense(self) -> Tensor:
        """`up @ down` (out, in)."""
        return self.up @ self.down

    def times(self, scale: float) -> LowRank:
        """The difference, `scale` times as large; `down` is shared."""
        return LowRank(self.up * scale, self.down)

    def detached(self) -> LowRank:
        """The same values out of reach of autograd and of whoever trains them further."""
        return LowRank(_still(self.up), _still(self.down))


Change = Dense | LowRank


@dataclass(frozen=True, eq=False)
class Delta:
    """A vector in the space of the weights of one base: `base` is its fingerprint, a parameter not in `tensors` does not move.

    Sums, differences and multiples form a vector space up to rounding; low rank + low rank stays low rank, anything + dense is
    dense. Syn-to-Real (arXiv 2406.02925) is one line:
    `synthetic_target + scale * (real_source - synthetic_source)`.
    `note` is free JSON; its keys method, evidence, seed, parents and scores have their own place on the card of a delta file.
    """

    base: str
    tensors: Mapping[str, Change]
    note: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # a value must not change when the factors it was made of are trained further
        object.__setattr__(self, "tensors", MappingProxyType({name: change.detached() for name, change in self.tensors.items()}))
        object.__setattr__(self, "note", MappingProxyType(dict(self.note)))

    def __add__(self, other: Delta) -> Delta:
        return self._combined(other, 1.0, "sum") if isinstance(other, Delta) else NotImplemented

    def __sub__(self, other: Delta) -> Delta:
        return self._combined(other, -1.0, "difference") if isinstance(other, Delta) else NotImplemented

    def __mul__(self, scale: float) -> Delta:
        if not isinstance(scale, Real):
            return NotImplemented
        if not math.isfinite(scale):
            raise InputError(f"a delta cannot be scaled by {scale}: pass a finite number")
        note = {"method": "multiple", "scale": float(scale), "parents": [dict(self.note)]}
        return Delta(self.base, {name: change.times(float(scale)) for name, change in self.tensors.items()}, note)

    __rmul__ = __mul__

    def __neg__(self) -> Delta:
        return self * -1.0

    def dot(self, other: Delta) -> float:
        """The inner product over all parameters, in float64; low rank is never written out: <U1 D1, U2 D2> = sum(U1'U2 * D1 D2')."""
        self._check(other)
        return sum(inner(change, other.tensors[name]) for name, change in self.tensors.items() if name in other.tensors)

    def norm(self) -> float:
        """The Euclidean length over all parameters; exact to about 1e-8 of the largest term where low-rank terms cancel."""
        return math.sqrt(max(0.0, self.dot(self)))

    def cosine(self, other: Delta) -> float:
        """The cosine of the angle to `other`, -1..1; InputError where either is zero and so has no direction."""
        self._check(other)
        lengths = self.norm() * other.norm()
        if lengths == 0.0:
            raise InputError("a zero delta has no direction: no cosine")
        return max(-1.0, min(1.0, self.dot(other) / lengths))

    def restrict(
        self,
        pattern: str = "",
        *,
        roles: Collection[str] = (),
        without: Collection[str] = (),
        layers: tuple[int, int] | None = None,
    ) -> Delta:
        """The part on parameters in whose name the regular expression `pattern` is found; InputError where there is none.

        `roles` (of `asrlife.delta.roles.ROLES`) keeps tensors that have any of them, `without` drops those that do, `layers` keeps the
        layers first to last of each stack, counted from 0 at the input, and nothing outside layers.
        """
        kept = chosen(self.tensors, pattern, roles=roles, without=without, layers=layers)
        asked = {"pattern": pattern, "roles": list(roles), "without": list(without), "layers": list(layers or ())}
        if not kept:
            wanted = (
                repr(pattern) if list(asked.values())[1:] == [[], [], []] else str({key: value for key, value in asked.items() if value})
            )
            raise InputError(f"no parameter of the delta matches {wanted}: it has {', '.join(list(self.tensors)[:3]) or 'none'} ...")
        note = {"method": "restriction"} | {key: value for key, value in asked.items() if value} | {"parents": [dict(self.note)]}
        return Delta(self.base, {name: self.tensors[name] for name in kept}, note)

    def _combined(self, other: Delta, sign: float, method: str) -> Delta:
        self._check(other)
        tensors = dict(self.tensors)
        for name, change in other.tensors.items():
            signed = change if sign == 1.0 else change.times(sign)
            tensors[name] = together(tensors[name], signed) if name in tensors else signed
        return Delta(self.base, tensors, {"method": method, "parents": [dict(self.note), dict(other.note)]})

    def _check(self, other: Delta) -> None:
        if self.base != other.base:
            raise InputError(f"deltas of different bases, {self.base[:12]} and {other.base[:12]}: only deltas of one base combine")
        for name in self.tensors.keys() & other.tensors.keys():
            mine, theirs = tuple(self.tensors[name].shape), tuple(other.tensors[name].shape)
            if mine != theirs:
                raise InputError(f"{name!r} has shape {mine} in one delta and {theirs} in the other")


def between(base: State, tuned: State, note: Mapping[str, Any] | None = None, advance: Callable[[], None] = lambda: None) -> Delta:
    """The dense delta `tuned - base` over floating parameters and buffers, leaving out those that are equal.

    Raises InputError where names or shapes differ. Counters and other integers are not weights and are left out. `advance` is called after
    every tensor.
    """
    old, new = dict(unique(base)), dict(unique(tuned))
    for name in old.keys() ^ new.keys():
        raise InputError(f"{name!r} is only in the {'base' if name in old else 'tuned'} model: the two must have the same parameters")
    tensors = {}
    for name, before in old.items():
        after = new[name]
        if before.shape != after.shape:
            raise InputError(f"{name!r} has shape {tuple(before.shape)} in the base and {tuple(after.shape)} in the tuned model")
        if before.is_floating_point() and not torch.equal(before, after):
            exact = torch.promote_types(before.dtype, torch.float32)
            tensors[name] = Dense(after.detach().to(exact) - before.detach().to(exact))
        advance()
    return Delta(fingerprint(base), tensors, note or {})


def analogy(a: Delta, b: Delta, c: Delta) -> Delta:
    """The D of A : B = C : D (arXiv 2212.04089, section 5), `c + b - a`, in this order: what B has beyond A, given to C."""
    return c + b - a


def together(one: Change, other: Change) -> Change:
    """The sum of two differences of one parameter: factors side by side where both are low rank, dense otherwise."""
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        return LowRank(torch.cat([one.up, other.up], dim=1), torch.cat([one.down, other.down], dim=0))
    return Dense(one.dense() + other.dense())


def inner(one: Change, other: Change) -> float:
    """The inner product of two differences of one parameter, in float64."""
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        return float(((one.up.double().T @ other.up.double()) * (one.down.double() @ other.down.double().T)).sum())
    if isinstance(one, LowRank):
        return inner(other, one)
    if isinstance(other, LowRank):
        return float((other.up.double() * (one.dense().double() @ other.down.double().T)).sum())
    return float((one.value.double() * other.value.double()).sum())


def nearest(name: str, known: Mapping[str, object]) -> str:
    """The end of an error message: what the writer of an unknown `name` may have meant."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {near[0]!r}?" if near else ""


def _still(tensor: Tensor) -> Tensor:
    return tensor.detach().clone() if tensor.requires_grad else tensor
