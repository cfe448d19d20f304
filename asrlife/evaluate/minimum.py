"""Where a function that is dear to evaluate is least: golden section for one number, CMA-ES for several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from asrlife.errors import InputError

_SHARE = (math.sqrt(5) - 1) / 2
_WORST = 1e9  # what CMA-ES is told in place of infinity


def golden(
    of: Callable[[float], float], low: float, high: float, probes: int, even: Callable[[float, float], bool] = lambda a, b: False
) -> str:
    """Narrow [low, high] by golden section with at most `probes` calls of `of`, both ends among them, and say why it ended.

    Every step keeps (sqrt 5 - 1) / 2 of the bracket. `even` says of a bracket that its probes cannot be told apart, which ends the search.
    Finds the minimum of a function with one valley, and of others a low place. Fewer than 4 probes raise InputError.
    """
    if probes < 4:
        raise InputError(f"{probes} probes are too few: golden section begins with 4")
    of(low), of(high)
    left, right = high - _SHARE * (high - low), low + _SHARE * (high - low)
    at_left, at_right = of(left), of(right)
    for _ in range(probes - 4):
        if even(low, high):
            return f"the bootstrap cannot tell apart what lies between {low:.4g} and {high:.4g}"
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _SHARE * (high - low)
            at_left = of(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _SHARE * (high - low)
            at_right = of(right)
    return f"{probes} probes are done; the bracket is {low:.4g} to {high:.4g}"


def evolve(
    of: Callable[[tuple[float, ...]], float], limits: Sequence[tuple[float, float]], start: Sequence[float], probes: int, seed: int
) -> str:
    """CMA-ES (arXiv 1604.00772, by the library cma) within `limits` with at most `probes` calls of `of`, and why it ended.

    It begins at `start`, with a standard deviation of 0.3 of each range; the same `seed` and figures give the same probes.
    """
    import cma

    # cma takes the seed 0 for the clock
    spans = [(low, high - low) for low, high in limits]
    inside = [min(max((value - low) / span, 0.0), 1.0) for value, (low, span) in zip(start, spans, strict=True)]
    usual = 4 + int(3 * math.log(len(limits)))
    options = {"bounds": [0.0, 1.0], "popsize": min(usual, probes), "seed": seed + 1, "verbose": -9, "verb_log": 0, "verb_disp": 0}
    strategy = cma.CMAEvolutionStrategy(inside, 0.3, options)
    left = probes
    while not strategy.stop():
        asked = strategy.ask()
        if left < len(asked):
            break
        found = [of(tuple(low + float(x) * span for x, (low, span) in zip(each, spans, strict=True))) for each in asked]
        strategy.tell(asked, [min(value, _WORST) if math.isfinite(value) else _WORST for value in found])
        left -= len(asked)
    reason = ", ".join(strategy.stop()) or f"{probes - left} of {probes} probes are done, in whole generations"
    return reason
