"""Settings of a merge chosen by measuring merges, with a bootstrap that says whether the choice is better than what it is chosen over."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asrlife.errors import InputError
from asrlife.evaluate.bench import Bench, Merging, Probe, Values, places
from asrlife.evaluate.bootstrap import rate_difference
from asrlife.evaluate.minimum import evolve, golden
from asrlife.evaluate.objective import Metric, Objective, figure, shown
from asrlife.evaluate.report import Table

_NOISE = 1e-5
Verdict = Literal["better", "worse", "cannot be told apart", "no difference"]
CAUTION = (
    "The winner was chosen on the sentences that it is compared on, which flatters it: measure what was written on others before you "
    "report it."
)


@dataclass(frozen=True)
class Comparison:
    """The winner against another probe: its figure minus the other's, over the same items, with the 95 % interval; below 0 it is better.

    In word errors for each word, or nats for each token.
    """

    against: str
    difference: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Found:
    """What a search came to: `probes` in the order in which they were made, and which of them are what."""

    metric: Metric
    items: int
    limits: Mapping[str, tuple[float, float]]
    way: str
    ended: str
    probes: tuple[Probe, ...]
    winner: Probe
    default: Probe
    base: Probe
    runner_up: Probe | None
    measured: int
    problems: tuple[str, ...] = ()

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The winner against the base, the default setting and the runner-up, those that it is not itself."""
        others = {"base": self.base, "default": self.default, "runner-up": self.runner_up}
        return tuple(compared(self.winner, other, name) for name, other in others.items() if other is not None and other is not self.winner)

    @property
    def conclusion(self) -> str:
        """Whether the winner wins, in a sentence."""
        lowest = shown(self.metric, self.winner.mean)
        begin = f"{spelt(self.winner)} has the lowest {_NAMES[self.metric]} of {len(self.probes)} probes, {lowest}"
        rivals = [c for c in self.comparisons if c.against != "runner-up"]
        said = [f"{_SAID[c.verdict]} {_title(c.against, self)}" for c in self.comparisons]
        return f"{begin}: {'; '.join(said)}: {self._end(rivals)}." if said else f"{begin}."

    def _end(self, rivals: Sequence[Comparison]) -> str:
        beaten = [f"the {c.against}" for c in rivals if c.verdict == "better"]
        left = [f"the {c.against}" for c in rivals if c.verdict != "better"]
        if not beaten:
            return "nothing is won by it that these data can show"
        if left:
            return f"it really wins over {' and '.join(beaten)}, and not over {' and '.join(left)}"
        return "it really wins" + (", and merging adds nothing to the base" if self.winner is self.base else "")

    def roles(self, probe: Probe) -> list[str]:
        """What a probe is."""
        known = {"winner": self.winner, "base": self.base, "default": self.default, "runner-up": self.runner_up}
        return [name for name, other in known.items() if other is probe]

    def to_json(self) -> dict[str, Any]:
        """Everything but the figures of single items."""
        seconds, merging = sum(p.seconds for p in self.probes), sum(p.merging for p in self.probes)
        return {
            "metric": self.metric,
            "items": self.items,
            "parameters": {name: list(limits) for name, limits in self.limits.items()},
            "way": self.way,
            "ended": self.ended,
            "winner": self.winner.values,
            "conclusion": self.conclusion,
            "caution": CAUTION,
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "probes": [self._row(probe) for probe in self.probes],
            "seconds_per_probe": seconds / len(self.probes),
            "merging_share": merging / seconds if seconds else 0.0,
            "measured": self.measured,
            "reused": len(self.probes) - self.measured,
            "problems": list(self.problems),
        }

    def table(self) -> Table:
        """The probes, the best first."""
        heads = [*self.limits, f"{_NAMES[self.metric]}", "95 % interval", "", "s", "merging s"]
        rows = [
            [
                *(("as it is" if p.values is None else f"{p.values[name]:g}") for name in self.limits),
                shown(self.metric, p.mean), " to ".join(shown(self.metric, edge) for edge in p.bounds), ", ".join(self.roles(p)),
                f"{p.seconds:.2f}", f"{p.merging:.3f}",
            ]
            for p in sorted(self.probes, key=lambda probe: probe.mean)
        ]  # fmt: skip
        return Table(f"{self.way} on {self.items} items: {self.ended}", heads, rows)

    def _row(self, probe: Probe) -> dict[str, Any]:
        low, high = (figure(self.metric, edge) for edge in probe.bounds)
        figures = {"values": probe.values, self.metric: figure(self.metric, probe.mean), "low": low, "high": high}
        return figures | {"is": self.roles(probe), "seconds": probe.seconds, "merging_seconds": probe.merging}


_NAMES: Mapping[Metric, str] = {"wer": "WER", "perplexity": "perplexity"}
_SAID: Mapping[Verdict, str] = {
    "better": "better than",
    "worse": "worse than",
    "cannot be told apart": "not to be told apart from",
    "no difference": "no different from",
}


def compared(winner: Probe, other: Probe, name: str) -> Comparison:
    """The winner against another, paired by item."""
    (ours, sizes), (theirs, _) = winner.arrays, other.arrays
    difference, low, high = rate_difference(theirs, ours, sizes)
    verdict: Verdict = "better" if high < 0 else "worse" if low > 0 else "cannot be told apart"
    # equal weights that were worked out in two ways differ in their last bits
    return Comparison(name, difference, low, high, "no difference" if np.allclose(ours, theirs, _NOISE, _NOISE) else verdict)


def search(
    merging: Merging,
    objective: Objective,
    module: Any,
    limits: Mapping[str, tuple[float, float]],
    *,
    keep: Path,
    stamp: Any = None,
    probes: int = 12,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Found:
    """Measure the base, the default setting and at most `probes` others within `limits`, in `module`, whose weights are put back.

    One free setting goes by golden section, which stops early where the bootstrap cannot tell its bracket's probes apart, several by
    CMA-ES. The winner is the lowest of all that lie within the limits; of equal ones the nearest to the default. `keep` is the JSON file
    of probes: those of the same `stamp` and data that it has are not measured again. Raises InputError where nothing can be scored.
    """
    with places(module, merging.donor, merging.names) as tensors:
        bench = Bench(merging, objective, tensors, keep, stamp)
        bench.advance = advance
        base, default = bench.at(merging.base), bench.at(merging.default)
        ended = _run(bench, merging, limits, probes, seed)
        found = tuple(bench.used.values())
        inside = ranked([probe for probe in found if _within(probe.values, limits)], default, limits)
        winner, runner_up = inside[0], inside[1] if len(inside) > 1 else None
        way = "golden section" if len(limits) == 1 else "CMA-ES"
        problems = tuple(getattr(objective, "problems", ()))
        return Found(
            objective.metric, len(objective), limits, way, ended, found, winner, default, base, runner_up, bench.measured, problems
        )


def _run(bench: Bench, merging: Merging, limits: Mapping[str, tuple[float, float]], probes: int, seed: int) -> str:
    names = list(limits)
    if len(names) > 1:
        start = [merging.default[name] for name in names]
        return evolve(lambda at: bench.at(dict(zip(names, at, strict=True))).mean, list(limits.values()), start, probes, seed)
    (name,) = names

    def even(low: float, high: float) -> bool:
        within = [p for p in bench.used.values() if p.values is not None and low - 1e-9 <= p.values[name] <= high + 1e-9]
        best = min(within, key=lambda probe: probe.mean)
        return all(compared(best, other, "").verdict != "better" for other in within)

    return golden(lambda value: bench.at({name: value}).mean, *limits[name], probes, even)


def ranked(probes: list[Probe], default: Probe, limits: Mapping[str, tuple[float, float]]) -> list[Probe]:
    """The best first; of those as good as it but for rounding, the nearest to the default."""
    best = min(probe.mean for probe in probes)
    return sorted(probes, key=lambda p: (best if p.mean <= best * (1 + _NOISE) else p.mean, _away(p, default, limits)))


def _within(values: Values | None, limits: Mapping[str, tuple[float, float]]) -> bool:
    return values is not None and all(low - 1e-9 <= values[name] <= high + 1e-9 for name, (low, high) in limits.items())


def _away(probe: Probe, default: Probe, limits: Mapping[str, tuple[float, float]]) -> float:
    if probe.values is None or default.values is None:
        return 0.0
    return sum(abs(probe.values[name] - default.values[name]) / (high - low) for name, (low, high) in limits.items())


def spelt(probe: Probe) -> str:
    """The settings of a probe as text."""
    return "the base as it is" if probe.values is None else ", ".join(f"{name} {value:g}" for name, value in probe.values.items())


def _title(name: str, found: Found) -> str:
    probe = {"base": found.base, "default": found.default, "runner-up": found.runner_up}[name]
    if probe is None:
        raise InputError(f"there is no {name}")
    settings = "" if probe.values is None else f"{spelt(probe)}, "
    return f"the {name} ({settings}{shown(found.metric, probe.mean)})"


def text(found: Found) -> str:
    """The JSON document that lies beside a model that was chosen so."""
    return json.dumps(found.to_json(), indent=2, ensure_ascii=False)
