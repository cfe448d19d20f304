"""Means and deviations of activations brought to those of the endpoints, and folded into weights and biases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asrlife.delta.roles import HEAD
from asrlife.errors import InputError
from asrlife.methods.merge.leaves import parameters
from asrlife.methods.merge.moments import Moments, Side, until_enough, watched
from asrlife.methods.merge.repair.draft import Draft, pair_of
from asrlife.methods.merge.statistics import linear_layers, role_of
from asrlife.methods.merge.subject import Subject

DEAD = 1e-6  # of the largest deviation of a layer: a unit that moves less than that is left as large as it is


class Target(NamedTuple):
    """What every unit of a layer should have, (units,) in float64."""

    mean: Tensor
    deviation: Tensor


def norms(module: nn.Module) -> dict[str, nn.Module]:
    """Every LayerNorm, RMSNorm and GroupNorm with a gain; InputError where there is none."""
    own = parameters(module)
    found = {name: part for name, part in module.named_modules() if _is_norm(part) and f"{name}.weight" in own}
    if not found:
        raise InputError(f"{type(module).__name__} has no norm whose gain could be refitted")
    return found


def units(module: nn.Module) -> dict[str, nn.Module]:
    """Every Linear, Conv1D and Conv1d, but heads and layers whose weight has another use: what REPAIR rescales."""
    own = parameters(module)
    convolutions = {
        name: part for name, part in module.named_modules()
        if isinstance(part, nn.Conv1d) and (f"{name}.weight" in own or pair_of(module, name) is not None)
    }  # fmt: skip
    found = linear_layers(module) | convolutions
    return {name: found[name] for name, _ in module.named_modules() if name in found and HEAD not in role_of(name)}


def calls(shown: Subject, layers: Mapping[str, nn.Module]) -> list[str]:
    """The layers in the order in which the first example comes through them; what it never comes through is left out."""
    order: dict[str, None] = {}
    with watched(layers, "out", lambda name, _: order.setdefault(name)):
        shown.show(0)
    return list(order)


def moments(
    shown: Subject, names: Sequence[str], advance: Callable[[], None] = lambda: None, side: Side = "out", last: bool = False
) -> dict[str, Moments]:
    """Of what the layers give ("out") or are given for all examples, padding left out; `last`: nothing behind them is computed."""
    found = {name: Moments() for name in names}
    now = 0

    def taken(name: str, rows: Tensor) -> None:
        found[name].add(shown.sound(name, rows, now))

    with watched({name: shown.module.get_submodule(name) for name in names}, side, taken, last):
        for index in range(len(shown)):
            now = index
            until_enough(partial(shown.show, index))
            advance()
    return found


def targets(
    endpoints: Iterable[Subject], weights: Sequence[float], names: Sequence[str], advance: Callable[[], None] = lambda: None
) -> dict[str, Target]:
    """The weighted mean of the endpoints' means, and of their deviations, unit by unit; an iterator's endpoints are loaded in turn."""
    found: dict[str, Target] = {}
    for endpoint, weight in zip(endpoints, weights, strict=True):
        own = moments(endpoint, names, advance)
        for name in names:
            part = Target(own[name].mean * weight, own[name].deviation * weight)
            found[name] = part if name not in found else Target(*(a + b for a, b in zip(found[name], part, strict=True)))
    return found


def refit(draft: Draft, shown: Subject, wanted: Mapping[str, Target], advance: Callable[[], None]) -> None:
    """Fold y -> a y + c into every layer, a = deviation wanted / deviation found and c = mean wanted - a * mean found, unit by unit.

    The layers come one after the other as data run through them (REPAIR, arXiv 2211.08403), so that each is measured behind those that
    are repaired: `advance` is called layers x examples times. A layer without a bias takes no c.
    """
    for name, target in wanted.items():
        own = moments(shown, [name], advance, last=True)[name]
        if not own.count:
            raise InputError(f"{name} gives nothing on these examples: give others")
        alive = own.deviation > DEAD * own.deviation.max()
        factor = torch.where(alive, target.deviation / torch.where(alive, own.deviation, 1.0), 1.0)
        draft.fold(name, factor, target.mean - factor * own.mean)


def gap(shown: Subject, wanted: Mapping[str, Target], advance: Callable[[], None] = lambda: None) -> float:
    """The mean over layers of the mean over units of |deviation found / deviation wanted - 1|; units that should not move are left out."""
    own = moments(shown, list(wanted), advance)
    found = []
    for name, target in wanted.items():
        moving = target.deviation > DEAD * target.deviation.max()
        if bool(moving.any()):
            found.append(float((own[name].deviation[moving] / target.deviation[moving] - 1).abs().mean()))
    return sum(found) / max(1, len(found))


def _is_norm(part: nn.Module) -> bool:
    return isinstance(part, nn.LayerNorm | nn.GroupNorm) or type(part).__name__.endswith("RMSNorm")
