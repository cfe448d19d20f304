"""The scores of CounterFact by probabilities, and how varied a model writes: what the literature on editing reports.

Teacher-forced: they say which of two answers is the likelier, not which one is given. Report them beside free-running answers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from asrlife.data.edit import EditRequest
from asrlife.errors import InputError
from asrlife.evaluate.bootstrap import draws
from asrlife.models.text import TextModel

Kind = Literal["rewrite", "paraphrases", "neighbours"]
KINDS: tuple[Kind, ...] = ("rewrite", "paraphrases", "neighbours")
_LETTERS: Mapping[Kind, str] = {"rewrite": "E", "paraphrases": "P", "neighbours": "N"}
_TOKENS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Odds:
    """Mean negative log-likelihoods per token (nats) of the new and the true answer behind one prompt: P[.] = exp(-nats)."""

    new: float
    true: float

    @property
    def margin(self) -> float:
        """P[new] - P[true]."""
        return math.exp(-self.new) - math.exp(-self.true)


@dataclass(frozen=True)
class Record:
    """One request's odds on its rewrite, its paraphrases and its neighbours; either of the last two may be empty."""

    rewrite: tuple[Odds, ...]
    paraphrases: tuple[Odds, ...] = ()
    neighbours: tuple[Odds, ...] = ()

    def success(self, kind: Kind) -> float | None:
        """The share of prompts with P[new] > P[true], of neighbours with P[true] > P[new]; None without prompts."""
        return _mean([_turned(odds.true - odds.new, kind) > 0 for odds in getattr(self, kind)])

    def magnitude(self, kind: Kind) -> float | None:
        """The mean of P[new] - P[true], of neighbours of P[true] - P[new]; None without prompts."""
        return _mean([_turned(odds.margin, kind) for odds in getattr(self, kind)])


@dataclass(frozen=True)
class Figure:
    """A mean over `n` records with its 95 % percentile interval over records drawn with replacement."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """As a dictionary."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True)
class Scores:
    """ES, PS and NS as `success`, EM, PM and NM as `magnitude` by kind, and S, the harmonic mean of the three successes.

    A kind that no record has is missing, and `score` is then None. Source: arXiv 2202.05262, section 3.4.
    """

    success: dict[Kind, Figure]
    magnitude: dict[Kind, Figure]
    score: Figure | None

    def to_json(self) -> dict[str, Any]:
        """The figures under the names that the literature gives them, as fractions."""
        named = {f"{_LETTERS[kind]}S": each for kind, each in self.success.items()}
        named |= {f"{_LETTERS[kind]}M": each for kind, each in self.magnitude.items()}
        return {name: each.to_json() for name, each in named.items()} | {"S": None if self.score is None else self.score.to_json()}


def scores(records: Sequence[Record], samples: int = 1000, seed: int = 0) -> Scores:
    """All figures of some records; InputError for none."""
    if not records:
        raise InputError("no record was measured: give at least one request")
    times = draws(len(records), samples, seed)
    shares = {kind: _column([record.success(kind) for record in records]) for kind in KINDS}
    sizes = {kind: _column([record.magnitude(kind) for record in records]) for kind in KINDS}
    return Scores(_figures(shares, times), _figures(sizes, times), _harmonic(list(shares.values()), times))


def harmonic(values: Sequence[float]) -> float:
    """The harmonic mean, 0 where any of them is."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def measured(model: TextModel, requests: Sequence[EditRequest], asked: Callable[[EditRequest, str], str] = lambda _, p: p) -> list[Record]:
    """The odds of each request's prompts, put to the model as `asked` (request, prompt) has them.

    Neighbours are asked for the request's target against their own answer. Raises InputError for a request that has no `truth`.
    """
    for request in requests:
        if not request.truth:
            raise InputError(
                f"the edit of {request.subject!r} has no truth to compare its target with: give it, or score free-running answers"
            )
    rows = [(request, kind, *row) for request in requests for kind in KINDS for row in _rows(request, kind)]
    new = nats(model, [(asked(request, prompt), answer) for request, _, prompt, answer, _ in rows])
    true = nats(model, [(asked(request, prompt), answer) for request, _, prompt, _, answer in rows])
    found: dict[tuple[int, Kind], list[Odds]] = {}
    for (request, kind, *_), one, other in zip(rows, new, true, strict=True):
        found.setdefault((id(request), kind), []).append(Odds(one, other))
    return [Record(*(tuple(found.get((id(request), kind), ())) for kind in KINDS)) for request in requests]


def nats(model: TextModel, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """The mean negative log-likelihood per token of each (prompt, answer), the end of the text not counted."""
    for prompt, answer in pairs:
        if not answer.strip():
            raise InputError(f"the answer to {prompt!r} is empty: give one")
    found = model.surprise([(prompt, f"{prompt} {answer}") for prompt, answer in pairs])
    return [float(each[:-1].double().mean()) for each in found]


def generation_entropy(texts: Sequence[str]) -> float:
    """GE in bits: the mean over texts of H2 / 3 + 2 H3 / 3, n-gram entropies; the literature prints it times 100 (arXiv 2202.05262)."""
    if not texts:
        raise InputError("no text has no entropy: give at least one")
    return float(np.mean([ngram_entropy(words, 2) / 3 + 2 * ngram_entropy(words, 3) / 3 for words in map(_TOKENS.findall, texts)]))


def ngram_entropy(words: Sequence[str], n: int) -> float:
    """-sum p log2 p over the n-grams of a text, in bits; 0 for a text of fewer than n words (arXiv 1809.05972)."""
    counts = Counter(zip(*(words[first:] for first in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(count / total * math.log2(count / total) for count in counts.values()) + 0.0


def _rows(request: EditRequest, kind: Kind) -> list[tuple[str, str, str]]:
    """(prompt, new, true) of one kind."""
    if kind == "neighbours":
        return [(prompt, request.target, answer) for prompt, answer in request.neighbours]
    if kind == "paraphrases":
        return [(prompt, answer, request.truth) for prompt, answer in request.paraphrases]
    return [(request.prompt, request.target, request.truth)]


def _turned(value: float, kind: Kind) -> float:
    return -value if kind == "neighbours" else value


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _column(values: Sequence[float | None]) -> np.ndarray:
    """With NaN for what a record does not have."""
    return np.array([np.nan if value is None else value for value in values])


def _figures(columns: dict[Kind, np.ndarray], times: np.ndarray) -> dict[Kind, Figure]:
    return {kind: _figure(column, _means(column, times)) for kind, column in columns.items() if not np.isnan(column).all()}


def _means(column: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The mean of each drawn set of records over those that have the figure, (samples,)."""
    there = ~np.isnan(column)
    with np.errstate(invalid="ignore"):
        found: np.ndarray = times[:, there] @ column[there] / times[:, there].sum(1)
    return found


def _figure(column: np.ndarray, drawn: np.ndarray) -> Figure:
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Figure(float(np.nanmean(column)), float(low), float(high), int((~np.isnan(column)).sum()))


def _harmonic(columns: Sequence[np.ndarray], times: np.ndarray) -> Figure | None:
    """S and its interval: the three are drawn together, since they are of the same records."""
    if any(np.isnan(column).all() for column in columns):
        return None
    drawn = np.array([harmonic(row) for row in np.stack([_means(column, times) for column in columns], 1) if not np.isnan(row).any()])
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Figure(harmonic([float(np.nanmean(column)) for column in columns]), float(low), float(high), len(columns[0]))
