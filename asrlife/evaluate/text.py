"""Language models on three axes: what they complete by themselves, judged against every answer that is right."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, Literal

import numpy as np

from asrlife.data.world.courses import course
from asrlife.data.world.facts import World
from asrlife.data.world.forms import Question
from asrlife.data.world.instructions import Part
from asrlife.errors import InputError
from asrlife.evaluate.bootstrap import rate_interval
from asrlife.evaluate.report import AXES, Axis, Curve, Report, Score, Table
from asrlife.models.text import TextModel

Rule = Literal["exact", "begins", "contains", "clean"]
METRIC: Mapping[Rule, str] = {"exact": "exact match", "begins": "answer first", "contains": "answer named", "clean": "no word of the list"}
MOST = 24  # tokens of an answer
_ABREAST = 6  # probes that a page has room for side by side
_WORDS = re.compile(r"[\w'<>]+")


@dataclass(frozen=True)
class Probe:
    """Questions that belong together: an axis, a name, and the rule by which a completion is right.

    "exact": the completion up to its end is one of the answers; "begins": it begins with one, and may go on; "contains": it has one of
    them in it, whatever stands around; "clean": it has none of the words `without`.
    """

    axis: Axis
    name: str
    questions: Sequence[Question]
    rule: Rule = "exact"
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Answer:
    """What was completed, whether it is right, and whether it would be right token by token after the first right answer's own tokens.

    `forced`, the teacher-forced figure, is None where it was not asked for: it leaks length and content and flatters (arXiv 2502.11177).
    """

    question: Question
    completion: str
    right: bool
    forced: bool | None = None


@dataclass(frozen=True)
class Outcome:
    """The answers to one probe; where several of them are about one edit, `groups` says of which (answers,), and edits are resampled."""

    probe: Probe
    answers: tuple[Answer, ...]
    groups: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        """Share of right answers."""
        return float(np.mean([answer.right for answer in self.answers]))

    def interval(self, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """95 % percentile interval of `share` over questions, or groups of them, drawn with replacement."""
        right = np.array([answer.right for answer in self.answers], float)
        if not self.groups:
            return _interval(right, samples, seed)
        sizes = np.bincount(self.groups)
        return rate_interval(np.bincount(self.groups, right), sizes.astype(float), samples, seed)


@dataclass(frozen=True)
class Verdict:
    """One model on all probes, and its perplexity on held-out texts of the world."""

    subject: str
    outcomes: tuple[Outcome, ...]
    perplexity: float | None

    def named(self, name: str) -> Outcome:
        """The outcome of a probe."""
        for outcome in self.outcomes:
            if outcome.probe.name == name:
                return outcome
        raise InputError(f"no probe is called {name!r}: there are {', '.join(o.probe.name for o in self.outcomes)}")

    def mean(self, axis: Axis) -> float | None:
        """The mean over the probes of an axis, every probe weighing alike; None where there is none."""
        found = [outcome.share for outcome in self.outcomes if outcome.probe.axis == axis]
        return float(np.mean(found)) if found else None

    def to_json(self) -> dict[str, Any]:
        """Figures as fractions, with their intervals."""
        rows = [
            {"axis": o.probe.axis, "probe": o.probe.name, "rule": o.probe.rule, "value": o.share, "n": len(o.answers), **_bounds(o)}
            | ({} if o.answers[0].forced is None else {"forced": float(np.mean([answer.forced for answer in o.answers]))})
            for o in self.outcomes
        ]
        return {"subject": self.subject, "probes": rows, "perplexity": self.perplexity}


def judge(model: TextModel, probes: Sequence[Probe], texts: Sequence[str] = (), subject: str = "model", forced: bool = False) -> Verdict:
    """Ask every question, free-running and greedy, and measure perplexity on `texts`; the model is not changed."""
    for probe in probes:
        if not probe.questions:
            raise InputError(f"the probe {probe.name!r} has no questions: take more of them, or leave it out")
    questions = [question for probe in probes for question in probe.questions]
    made = iter(model.complete([question.prompt for question in questions], MOST))
    followed: Iterator[bool | None] = iter(model.follows([(q.prompt, q.text) for q in questions])) if forced else repeat(None)
    outcomes = tuple(Outcome(probe, tuple(_answer(probe, q, next(made), next(followed)) for q in probe.questions)) for probe in probes)
    return Verdict(subject, outcomes, model.perplexity(texts) if texts else None)


def _answer(probe: Probe, question: Question, text: str, forced: bool | None) -> Answer:
    return Answer(question, text.strip(), is_right(question, text, probe), forced)


def is_right(question: Question, completion: str, probe: Probe) -> bool:
    """Whether a completion is right by the rule of the probe."""
    if probe.rule == "clean":
        return not probe.without & set(_WORDS.findall(completion.lower()))
    if probe.rule == "contains":
        return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", completion) for answer in question.answers)
    if probe.rule == "begins":
        return any(re.match(rf"{re.escape(answer)}(?!\w)", completion.strip()) for answer in question.answers)
    return ended(completion) in question.answers


def ended(completion: str) -> str:
    """The completion up to its first line end or full stop: what a model that does not stop by itself said first."""
    return re.split(r"\n|\.(?:\s|$)", completion.strip(), maxsplit=1)[0].strip()


def drawn(questions: Sequence[Question], most: int, seed: int = 0) -> list[Question]:
    """At most `most` of them, drawn by seed, in their order."""
    kept = sorted(random.Random(seed).sample(range(len(questions)), min(most, len(questions))))
    return [questions[place] for place in kept]


_WORLD: Mapping[str, tuple[Axis, Part]] = {
    "facts": ("reliability", "train"),
    "paraphrases": ("generality", "train"),
    "reversals": ("generality", "train"),
    "one hop": ("generality", "train"),
    "two hops": ("generality", "train"),
    "one hop, unseen": ("generality", "train"),
    "two hops, unseen": ("generality", "train"),
    "instructions": ("generality", "test"),
    "supposed": ("generality", "test"),
    "refusals": ("locality", "test"),
}


def world_probes(world: World, most: int) -> list[Probe]:
    """What a model of the world is asked, `most` questions of each kind; those that training saw are in the part "train"."""
    return [Probe(axis, name, drawn(course(name, world, part), most)) for name, (axis, part) in _WORLD.items()]


@dataclass(frozen=True)
class Comparison:
    """Several models on the same probes; the first is the one that was not changed."""

    title: str
    verdicts: tuple[Verdict, ...]
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @cached_property
    def paired(self) -> list[dict[str, Any]]:
        """Each probe of each later model minus the first one's, with its 95 % interval, over the same questions."""
        first, *rest = self.verdicts
        return [_pair(first, other, place) for other in rest for place in range(len(first.outcomes))]

    def table(self) -> Table:
        """A row for each model, a column for each probe, in per cent with intervals."""
        first = self.verdicts[0]
        heads = [f"{o.probe.axis[:3]}. {o.probe.name}\n{METRIC[o.probe.rule]} %" for o in first.outcomes]
        rows = [[v.subject, *map(_cell, v.outcomes), _plain(v.perplexity)] for v in self.verdicts]
        return Table("Free-running answers", ["", *heads, "perplexity"], rows)

    def upright(self, forced: bool = False) -> Table:
        """The same with a row for each probe, for many probes and narrow terminals; or, `forced`, the teacher-forced shares."""
        cell = _forced if forced else _cell
        rows = [
            [o.probe.axis[:3] + ".", o.probe.name, str(len(o.answers)), *(cell(verdict.outcomes[place]) for verdict in self.verdicts)]
            for place, o in enumerate(self.verdicts[0].outcomes)
        ]
        if not forced and any(verdict.perplexity is not None for verdict in self.verdicts):
            rows.append(["", "perplexity", "", *(_plain(verdict.perplexity) for verdict in self.verdicts)])
        title = "Teacher-forced, which flatters" if forced else "Free-running answers"
        return Table(f"{title}, right in per cent", ["", "asked", "n", *(verdict.subject for verdict in self.verdicts)], rows)

    @property
    def forced(self) -> bool:
        """Whether teacher-forced figures were asked for."""
        return all(o.answers[0].forced is not None for verdict in self.verdicts for o in verdict.outcomes)

    def report(self, curves: Sequence[Curve] = ()) -> Report:
        """The same for people; an axis shows its first probe, which its table has beside the others."""
        scores = [score for verdict in self.verdicts for score in self._scores(verdict)]
        plain = self.table() if len(self.verdicts[0].outcomes) <= _ABREAST else self.upright()
        tables = [plain, *([self.upright(forced=True)] if self.forced else [])]
        return Report(self.title, scores, tables, curves, self.notes, self.facts, data=self.to_json())

    def _scores(self, verdict: Verdict) -> list[Score]:
        scores = []
        for axis in AXES:
            place = next((i for i, o in enumerate(verdict.outcomes) if o.probe.axis == axis), None)
            if place is not None:
                one, was = verdict.outcomes[place], self.verdicts[0].outcomes[place].share
                scores.append(Score(axis, METRIC[one.probe.rule], one.share, len(one.answers), *one.interval(), verdict.subject, was))
        return scores

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured, and what each model said."""
        return {"title": self.title, **self.facts, "subjects": [verdict.to_json() for verdict in self.verdicts], "paired": self.paired}


def _pair(first: Verdict, other: Verdict, place: int) -> dict[str, Any]:
    one, two = first.outcomes[place], other.outcomes[place]
    difference = np.array([b.right - a.right for a, b in zip(one.answers, two.answers, strict=True)], float)
    low, high = _interval(difference)
    names = {"a": first.subject, "b": other.subject, "probe": one.probe.name}
    return {**names, "difference": float(difference.mean()), "low": low, "high": high}


def _interval(values: np.ndarray, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    drawn_counts = np.random.default_rng(seed).multinomial(len(values), np.full(len(values), 1 / len(values)), size=samples)
    low, high = np.percentile(drawn_counts @ values / len(values), (2.5, 97.5))
    return float(low), float(high)


def _bounds(outcome: Outcome) -> dict[str, float]:
    low, high = outcome.interval()
    return {"low": low, "high": high}


def _cell(outcome: Outcome) -> str:
    low, high = outcome.interval()
    return f"{100 * outcome.share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _forced(outcome: Outcome) -> str:
    return f"{100 * float(np.mean([bool(answer.forced) for answer in outcome.answers])):.1f}"


def _plain(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
