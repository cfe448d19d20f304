"""What of each task vector stays, as kernels are told: settled before they run, for any method that thins by magnitude or by lot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from asrlife.methods.merge import philox
from asrlife.methods.merge.cut import selected
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.merge.sparsify import total_of
from asrlife.methods.merge.team import BLOCK, Team, memory
from asrlife.methods.merge.vectors import Breadcrumbs, BreadcrumbsTies, DareLinear, DareTies, TaskArithmetic, Ties

TRIM, MIDDLE, LOT = 0, 1, 2
"""Kinds of rules: what is large stays, what is large but not the largest, what the lot says."""
THINNED = (TaskArithmetic, Ties, Breadcrumbs, BreadcrumbsTies, DareLinear, DareTies)
"""Methods whose thinning a rule can tell."""
Cut = tuple[int, int]
"""The bits of a magnitude, and the element up to which it belongs, where it occurs, to what is larger."""
ALL: Cut = (-1, 1 << 62)
NONE: Cut = (0x80000000, -1)


@dataclass(frozen=True)
class Rule:
    """One expert's: of TRIM stays what is in `kept`; of MIDDLE, of that what is not in `top`; of LOT what has a lot below `limit`.

    `limit` is in 2^-24, `key` the two words that start the lot. What stays is divided by `chance` and multiplied by `multiplier`.
    """

    kind: int = TRIM
    kept: Cut = ALL
    top: Cut = NONE
    key: tuple[int, int] = (0, 0)
    limit: int = 0
    chance: float = 1.0
    multiplier: float = 1.0


def rules(method: Method, stack: Stack, team: Team) -> tuple[Any, ...]:
    """The rules of all experts as columns: kind, bits and last element of the cut, top, key, limit, chance, multiplier."""
    found = [_rule(method, stack, index, team) for index in range(len(stack.experts))]
    if getattr(method, "rescale", "none") == "l1":
        found = [replace(rule, multiplier=_multiplier(stack, index, found, team)) for index, rule in enumerate(found)]
    return _columns(found)


def _columns(found: list[Rule]) -> tuple[Any, ...]:
    integers = zip(*((rule.kind, *rule.kept, rule.top, rule.key, rule.limit) for rule in found), strict=True)
    floats = zip(*((rule.chance, rule.multiplier) for rule in found), strict=True)
    return (*(np.array(column, np.int64) for column in integers), *(np.array(column, np.float32) for column in floats))


def _rule(method: Method, stack: Stack, index: int, team: Team) -> Rule:
    if isinstance(method, Ties):
        return Rule(kept=_trimmed(method, stack, index, team))
    if isinstance(method, Breadcrumbs | BreadcrumbsTies):
        return _middle(method, stack, index, team)
    if isinstance(method, DareLinear | DareTies):
        return _lot(method, stack, index)
    return Rule()


def _trimmed(method: Ties, stack: Stack, index: int, team: Team) -> Cut:
    limit, density = method.own(stack, "threshold")[index], method.own(stack, "density")[index]
    if limit > 0:
        return int(np.float32(limit).view(np.int32)), ALL[1]
    if density >= 1 or density <= 0:
        return ALL if density >= 1 else NONE
    return _largest(stack, index, max(1, int(density * stack.experts[0].numel())), team)


def _middle(method: Breadcrumbs | BreadcrumbsTies, stack: Stack, index: int, team: Team) -> Rule:
    density, gamma, total = method.own(stack, "density")[index], method.own(stack, "gamma")[index], stack.experts[0].numel()
    if density >= 1:
        return Rule()
    kept = int(density * total)
    outliers = min(int(gamma * total), total - kept)
    return Rule(MIDDLE, _largest(stack, index, kept + outliers, team), _largest(stack, index, outliers, team))


def _lot(method: DareLinear | DareTies, stack: Stack, index: int) -> Rule:
    density = method.own(stack, "density")[index]
    if density >= 1 or density <= 0:
        return Rule(kept=ALL if density >= 1 else NONE)
    chance = float(np.float32(density))
    key = philox.key(stack.seed, stack.name, index)
    return Rule(LOT, key=key, limit=int(np.ceil(chance * 2**24)), chance=chance if method.rescale == "paper" else 1.0)


def _largest(stack: Stack, index: int, count: int, team: Team) -> Cut:
    if count <= 0 or count >= stack.experts[index].numel():
        return NONE if count <= 0 else ALL
    return selected(_pair(stack, index), count, team)


def _multiplier(stack: Stack, index: int, found: list[Rule], team: Team) -> float:
    from asrlife.methods.merge import kernels

    pair, columns = _pair(stack, index), _columns([found[index]])
    sums = np.zeros((-(-pair[0].numel() // BLOCK), 2), np.float64)
    team.run(lambda start, stop: kernels.lengths(*memory(pair), columns, 0, start, stop, sums))
    whole, left = (np.float32(total_of(column)) for column in sums.T.tolist())
    return float(whole / left) if left > 0 else 1.0


def _pair(stack: Stack, index: int) -> tuple[Tensor, Tensor]:
    assert stack.base is not None
    return stack.base, stack.experts[index]
