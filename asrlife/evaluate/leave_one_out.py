"""Word error rates of experiments that leave one domain out after the other, over domains and seeds, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from asrlife.errors import InputError
from asrlife.evaluate.evaluation import Rate
from asrlife.evaluate.forgetting import Change
from asrlife.evaluate.report import AXES, Axis

_TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Trial:
    """Errors and words of each utterance of one test, of one kind of model (`row`), with one domain left out, under one seed."""

    row: str
    axis: Axis
    domain: str
    seed: int
    errors: tuple[int, ...]
    words: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Board:
    """All trials of one protocol; every row of an axis has the same tests under the same seeds."""

    trials: tuple[Trial, ...]
    samples: int = 1000

    @cached_property
    def _by(self) -> dict[tuple[Axis, str], dict[str, list[Trial]]]:
        found: dict[tuple[Axis, str], dict[str, list[Trial]]] = {}
        for trial in sorted(self.trials, key=lambda trial: trial.seed):
            found.setdefault((trial.axis, trial.row), {}).setdefault(trial.domain, []).append(trial)
        return found

    def rows(self, axis: Axis) -> tuple[str, ...]:
        """The rows of an axis, in the order in which they came."""
        return tuple(dict.fromkeys(trial.row for trial in self.trials if trial.axis == axis))

    @property
    def domains(self) -> tuple[str, ...]:
        """Those that were left out."""
        return tuple(dict.fromkeys(trial.domain for trial in self.trials))

    def rate(self, axis: Axis, row: str, domain: str | None = None) -> Rate:
        """The WER with one domain left out, or the mean of the WERs over all; its interval draws seeds and utterances anew."""
        value, draws, count = self._drawn(axis, row, domain)
        return Rate(value, *_bounds(draws), count)

    def change(self, axis: Axis, before: str, after: str, domain: str | None = None) -> Change:
        """The rate of `after` minus that of `before`; both draw the same seeds and utterances."""
        (first, one, _), (second, other, _) = self._drawn(axis, before, domain), self._drawn(axis, after, domain)
        return Change(second - first, *_bounds(other - one))

    def relative(self, axis: Axis, before: str, after: str) -> Change:
        """The same as a share of `before`: -0.1 is ten per cent fewer errors."""
        (first, one, _), (second, other, _) = self._drawn(axis, before, None), self._drawn(axis, after, None)
        return Change((second - first) / first, *_bounds((other - one) / np.maximum(one, 1e-12)))

    def by_seed(self, axis: Axis, row: str) -> dict[int, float]:
        """The mean over domains under each seed."""
        found: dict[int, list[float]] = {}
        for trials in self._found(axis, row).values():
            for trial in trials:
                found.setdefault(trial.seed, []).append(sum(trial.errors) / sum(trial.words))
        return {seed: float(np.mean(rates)) for seed, rates in found.items()}

    def _found(self, axis: Axis, row: str) -> dict[str, list[Trial]]:
        if (axis, row) not in self._by:
            raise InputError(f"no trial of {row!r} on {axis}; there are {', '.join(self.rows(axis)) or 'none'}")
        return self._by[axis, row]

    def _drawn(self, axis: Axis, row: str, domain: str | None) -> tuple[float, np.ndarray, int]:
        """The figure, the same of each drawn sample, and the number of utterances."""
        found = self._found(axis, row)
        chosen = found if domain is None else {domain: found[domain]}
        values, draws, count = [], [], 0
        for name, trials in chosen.items():
            errors, words = np.array([t.errors for t in trials], float), np.array(trials[0].words, float)
            seeds, utterances = self._weights(len(trials), len(words), list(found).index(name))
            values.append(errors.mean(0).sum() / words.sum())
            draws.append(np.einsum("bs,su,bu->b", seeds, errors, utterances) / (utterances @ words))
            count += len(words)
        return float(np.mean(values)), np.mean(draws, axis=0), count

    def _weights(self, seeds: int, utterances: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """How often each seed, as a share, and each utterance is in each sample; seeds are drawn alike for all domains."""
        of_seeds = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), self.samples) / seeds
        of_utterances = np.random.default_rng([1, number]).multinomial(utterances, np.full(utterances, 1 / utterances), self.samples)
        return of_seeds, of_utterances.astype(float)

    def to_json(self, against: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
        """Every rate by axis, row and domain as fractions, and the wanted differences (before, after)."""
        axes: dict[str, Any] = {}
        for axis, row in self._by:
            figures: dict[str, Any] = {"mean": asdict(self.rate(axis, row)), "by_seed": self.by_seed(axis, row)}
            figures["domains"] = {name: asdict(self.rate(axis, row, name)) for name in self._by[axis, row]}
            axes.setdefault(axis, {})[row] = figures
        return {"axes": axes, "differences": [line for pair in against for line in self._differences(*pair)]}

    def _differences(self, before: str, after: str) -> list[dict[str, Any]]:
        axes = [axis for axis in AXES if {before, after} <= set(self.rows(axis))]
        return [
            {
                "axis": axis, "before": before, "after": after, "points": asdict(self.change(axis, before, after)),
                "relative": asdict(self.relative(axis, before, after)),
            }
            for axis in axes
        ]  # fmt: skip


def _bounds(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, _TAILS)
    return float(low), float(high)
