"""One way on one trial, and many of them together with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from asrlife.errors import InputError
from asrlife.evaluate.bootstrap import rate_difference, rate_interval
from asrlife.evaluate.wer import Counts, count
from asrlife.recipe.teach_a_name.cast import Trial
from asrlife.recipe.teach_a_name.ears import closeness, written

SETS = ("taught", "other", "alike", "rest")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was heard after one name was taught: texts by set, and from them counts that add up."""

    trial: Trial
    heard: dict[str, list[str]]
    rest: Sequence[str]  # what is said in the set that has nothing to do with the name
    settings: dict[str, Any] = field(default_factory=dict)

    def said(self, part: str) -> list[str]:
        """The right texts of a set."""
        return list(self.rest) if part == "rest" else [str(one.text) for one in getattr(self.trial, part)]

    def written(self, part: str) -> int:
        """Utterances in which the name is written."""
        return sum(written(self.trial.name, text) for text in self.heard[part])

    def closeness(self, part: str) -> float:
        """Summed over utterances."""
        return sum(closeness(self.trial.name, text) for text in self.heard[part])

    def counts(self, part: str) -> Counts:
        """Wrong words and letters."""
        return sum((count(said, text) for said, text in zip(self.said(part), self.heard[part], strict=True)), Counts())


@dataclass(frozen=True)
class Figure:
    """A ratio over all edits of a way, `low` to `high` its 95 % interval; edits are drawn with replacement, not utterances.

    `n` counts what is divided by: utterances, or words. `change` is the difference to the model without any edit, with its interval.
    """

    value: float
    low: float
    high: float
    n: int
    change: tuple[float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class Verdict:
    """All trials of one way; `before` those of the model as it was, in the same order."""

    way: str
    outcomes: tuple[Outcome, ...]
    before: tuple[Outcome, ...]

    def __post_init__(self) -> None:
        if not self.outcomes or len(self.outcomes) != len(self.before):
            raise InputError(
                f"{self.way}: {len(self.outcomes)} trials beside {len(self.before)} of the model as it was: give the same ones"
            )

    def figures(self) -> dict[str, Figure]:
        """By what they measure."""
        found = {f"{part}: name written": self._share(part, "written") for part in ("taught", "other")}
        found |= {f"{part}: closeness of the name": self._share(part, "closeness") for part in ("taught", "other")}
        found |= {f"{part}: false insertions": self._share(part, "written") for part in ("alike", "rest") if self._has(part)}
        return found | {f"{part}: WER": self._wer(part) for part in SETS if self._has(part)}

    def _has(self, part: str) -> bool:
        return all(outcome.heard[part] for outcome in self.outcomes)

    def _share(self, part: str, what: str) -> Figure:
        sizes = np.array([len(one.heard[part]) for one in self.outcomes], float)
        before, after = (np.array([getattr(one, what)(part) for one in some], float) for some in (self.before, self.outcomes))
        return _figure(before, after, sizes)

    def _wer(self, part: str) -> Figure:
        before, after = ([one.counts(part) for one in some] for some in (self.before, self.outcomes))
        words = np.array([one.words for one in after], float)
        return _figure(np.array([one.errors for one in before], float), np.array([one.errors for one in after], float), words)

    def to_json(self) -> dict[str, Any]:
        """Figures, and what was heard."""
        rows = [{"name": one.trial.name, "seed": one.trial.seed, "heard": one.heard} for one in self.outcomes]
        return {"way": self.way, "edits": len(rows), "figures": {name: asdict(one) for name, one in self.figures().items()}, "trials": rows}


def _figure(before: np.ndarray, after: np.ndarray, sizes: np.ndarray) -> Figure:
    change = rate_difference(before, after, sizes)
    return Figure(float(after.sum() / sizes.sum()), *rate_interval(after, sizes), int(sizes.sum()), change)


def gain(verdict: Verdict) -> float:
    """What settings are chosen by: the mean of the name written in taught utterances, and of its closeness in others."""
    figures = verdict.figures()
    return (figures["taught: name written"].value + figures["other: closeness of the name"].value) / 2


def cost(verdict: Verdict) -> float:
    """Words more that are wrong in utterances without the name, as a share of all words there."""
    change = verdict.figures()["rest: WER"].change
    assert change is not None
    return change[0]


def best(tried: Sequence[Verdict], most: float) -> int:
    """The place of the one with the largest gain among those that cost at most `most`; of the cheapest where none does."""
    good = [place for place, verdict in enumerate(tried) if cost(verdict) <= most]
    if not good:
        return min(range(len(tried)), key=lambda place: cost(tried[place]))
    return max(good, key=lambda place: gain(tried[place]))
