"""Where a delta moves the weights, by layer and role: a table of norms and cosines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from asrlife.delta.delta import Change, Delta, Dense, inner
from asrlife.delta.roles import PARTS, ROLES, place
from asrlife.errors import InputError


@dataclass(frozen=True)
class Cell:
    """The part of a delta in one layer (None: outside layers) and role of one stack.

    `norm` is Euclidean, `share` its square's share of the whole, `rms` the norm of a mean entry, `relative` the norm by that of the base's
    weights there, `cosine` that of the angle to the other delta (or to the base's weights); None where there is nothing to compare with.
    """

    part: str
    layer: int | None
    role: str
    tensors: int
    parameters: int
    norm: float
    share: float
    rms: float
    relative: float | None
    cosine: float | None

    def to_json(self) -> dict[str, Any]:
        """The cell as a JSON object."""
        return asdict(self)


def cells(
    delta: Delta, base: Mapping[str, Tensor] | None = None, other: Delta | None = None, advance: Callable[[], None] = lambda: None
) -> list[Cell]:
    """The delta's cells, from the input to the output, by role within; `advance` is called after every tensor.

    Lengths are those of `base`, cosines those to `other`, or to the base's weights without one. InputError for a base that lacks a tensor.
    """
    groups: dict[tuple[str, int | None, str], list[str]] = {}
    for name in delta.tensors:
        where = place(name)
        groups.setdefault((where.part, where.layer, where.role), []).append(name)
    whole = delta.norm() ** 2
    found = []
    for where_, names in groups.items():
        part = Delta(delta.base, {name: delta.tensors[name] for name in names})
        weights = None if base is None else Delta(delta.base, {name: Dense(_weight(base, name, part)) for name in names})
        against = weights if other is None else Delta(other.base, {name: other.tensors[name] for name in names if name in other.tensors})
        found.append(_cell(where_, part, whole, weights, against))
        for _ in names:
            advance()
    return sorted(found, key=_order)


def _order(cell: Cell) -> tuple[int, int, int]:
    return PARTS.index(cell.part), -1 if cell.layer is None else cell.layer, ROLES.index(cell.role)


def _cell(where: tuple[str, int | None, str], delta: Delta, whole: float, weights: Delta | None, against: Delta | None) -> Cell:
    norm, length = delta.norm(), weights.norm() if weights else 0.0
    count = sum(change.shape.numel() for change in delta.tensors.values())
    directed = against is not None and norm and against.norm()
    return Cell(
        *where, len(delta.tensors), count, norm, norm**2 / whole if whole else 0.0, norm / math.sqrt(count) if count else 0.0,
        norm / length if length else None, delta.cosine(against) if against is not None and directed else None,
    )  # fmt: skip


def _weight(base: Mapping[str, Tensor], name: str, delta: Delta) -> Tensor:
    if name not in base or base[name].shape != delta.tensors[name].shape:
        raise InputError(f"the base has no {name!r} of shape {tuple(delta.tensors[name].shape)}: give the base that the delta was made for")
    return base[name].detach().float()


@dataclass(frozen=True)
class Pair:
    """How two deltas of one base lie to one another, in all or in one role.

    `conflict` is the fraction of the entries that both move (are not 0) in which their signs differ: what TIES elects signs for;
    `overlap` the fraction of the entries moved by either that both move. None where nothing is moved by both, or by either.
    """

    role: str
    cosine: float | None
    conflict: float | None
    overlap: float | None


def compare(one: Delta, other: Delta, advance: Callable[[], None] = lambda: None) -> list[Pair]:
    """The two deltas by role, and last in all (role ""); InputError where they do not combine. Low rank is written out tensor by tensor."""
    one.dot(other)  # refuses other bases and shapes
    counts: dict[str, list[float]] = {}
    for name in dict.fromkeys([*one.tensors, *other.tensors]):
        numbers = _counted(one.tensors.get(name), other.tensors.get(name))
        for role in (place(name).role, ""):
            counts[role] = [total + number for total, number in zip(counts.get(role, [0.0] * 6), numbers, strict=True)]
        advance()
    order = sorted((role for role in counts if role), key=ROLES.index)
    return [_pair(role, counts[role]) for role in [*order, ""] if role in counts]


def _counted(mine: Change | None, theirs: Change | None) -> list[float]:
    """Product, squares, and how many entries are moved by both, by either, and against one another."""
    squares = [inner(change, change) if change else 0.0 for change in (mine, theirs)]
    if mine is None or theirs is None:
        alone = mine or theirs
        return [0.0, *squares, 0.0, float(torch.count_nonzero(alone.dense())) if alone else 0.0, 0.0]
    a, b = mine.dense(), theirs.dense()
    both = (a != 0) & (b != 0)
    opposed = both & (a.signbit() != b.signbit())
    return [inner(mine, theirs), *squares, float(both.sum()), float(((a != 0) | (b != 0)).sum()), float(opposed.sum())]


def _pair(role: str, sums: list[float]) -> Pair:
    product, mine, theirs, both, either, conflicts = sums
    lengths = math.sqrt(max(0.0, mine) * max(0.0, theirs))
    cosine = max(-1.0, min(1.0, product / lengths)) if lengths else None
    return Pair(role, cosine, conflicts / both if both else None, both / either if either else None)
