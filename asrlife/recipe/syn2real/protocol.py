"""The two protocols, for one seed: what is tuned, which vector is added, how its scale is chosen, and what is tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from asrlife.delta.delta import Delta
from asrlife.evaluate.leave_one_out import Trial
from asrlife.evaluate.report import Axis
from asrlife.recipe.syn2real.domains import Heard
from asrlife.recipe.syn2real.workshop import Hearing, Workshop, mean
from asrlife.text.similarity import similarities

Kind = Literal["one", "mean", "nearest"]
Protocol = Literal["strict", "published"]
KINDS: tuple[Kind, ...] = ("one", "mean", "nearest")
BASE, SOURCE, SYNTHETIC, TOPLINE = "base", "source", "synthetic", "topline"


SHARED = (BASE, TOPLINE)  # by all protocols


def row(kind: Kind) -> str:
    """What a model with a vector is called."""
    return f"+ {kind}"


JUDGED = (BASE, SYNTHETIC, row("one"))  # on all three axes


@dataclass(frozen=True, eq=False)
class Experiment:
    """One seed of one model. `domains` are left out in turn; `near` utterances of each other domain measure locality."""

    workshop: Workshop
    hear: Hearing
    seed: int
    scales: Sequence[float]
    near: int
    said: Mapping[str, Sequence[Any]]  # synthetic tests of each domain, by voices that no training heard
    chosen: dict[str, Any] = field(default_factory=dict)
    _errors: dict[tuple[str, str], float] = field(default_factory=dict)
    _tests: dict[tuple[str, str], tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @property
    def domains(self) -> Mapping[str, Heard]:
        """All of them."""
        return self.workshop.domains

    def others(self, *without: str) -> tuple[str, ...]:
        """The domains but for some."""
        return tuple(name for name in self.domains if name not in without)

    def nearest(self, target: str, among: Sequence[str]) -> str:
        """The domain whose texts are most like the target's; the first of several that are."""
        found = similarities(self.domains[target].texts, {name: self.domains[name].texts for name in among})
        return max(among, key=lambda name: found[name])

    def vector(self, kind: Kind, target: str, among: Sequence[str]) -> Delta:
        """One vector of all of `among` together, the mean of one of each, or that of the domain whose texts are nearest to the target's."""
        if kind == "one":
            return self.workshop.vector(among)
        if kind == "mean":
            return mean([self.workshop.vector([name]) for name in among])
        return self.workshop.vector([self.nearest(target, among)])

    def heard(self, name: str, delta: Delta | None, test: str, utterances: Sequence[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Errors and words of a test, those of rows that protocols share only once."""
        if name not in SHARED:
            return self.hear(delta, utterances)
        if (name, test) not in self._tests:
            self._tests[name, test] = self.hear(delta, utterances)
        return self._tests[name, test]

    def error(self, made: Callable[[], Delta], name: str, key: str) -> float:
        """The WER of a domain's real development speech under the delta that is `made` where `key`, which tells equal deltas, is new."""
        if (key, name) not in self._errors:
            wrong, words = self.hear(made(), list(self.domains[name].real["dev"]))
            self._errors[key, name] = sum(wrong) / sum(words)
        return self._errors[key, name]


@dataclass(frozen=True, eq=False)
class Strict:
    """No real speech of the target anywhere before the test: tuning takes a fixed number of steps, and the scale is chosen as if each of
    the other domains were the target in its turn, on its real development speech and with vectors of the rest."""

    at: Experiment
    name: Protocol = "strict"

    def trials(self, target: str) -> list[Trial]:
        """The tests of one target."""
        at, among = self.at, self.at.others(target)
        synthetic = at.workshop.synthetic([target])
        rows: dict[str, Delta | None] = {BASE: None, SOURCE: at.workshop.real(among), SYNTHETIC: synthetic}
        for kind in KINDS:
            rows[row(kind)] = synthetic + at.vector(kind, target, among) * self.scale(kind, target)
        rows[TOPLINE] = at.workshop.real([target])
        return tested(at, target, rows)

    def scale(self, kind: Kind, target: str) -> float:
        """The scale with the lowest mean error over the other domains; for "one" that of "nearest", as both are vectors of one tuning."""
        among = self.at.others(target)
        inner: Kind = "nearest" if kind == "one" else kind
        errors = {scale: sum(self._rehearsed(inner, name, target, scale) for name in among) / len(among) for scale in self.at.scales}
        return noted(self.at, self.name, target, kind, errors)

    def _rehearsed(self, kind: Kind, name: str, target: str, scale: float) -> float:
        among = self.at.others(target, name)
        told = self.at.nearest(name, among) if kind == "nearest" else "+".join(among)

        def made() -> Delta:
            return self.at.workshop.synthetic([name]) + self.at.vector(kind, name, among) * scale

        return self.at.error(made, name, f"{kind} {told} {scale}")


@dataclass(frozen=True, eq=False)
class Published:
    """As the authors' code has it: the target is tuned on from a model of all source speech, real and synthetic, at a tenth of the rate,
    and real development speech of the *target* chooses the best weights and the scale."""

    at: Experiment
    name: Protocol = "published"

    def trials(self, target: str) -> list[Trial]:
        """The tests of one target."""
        at, among, dev = self.at, self.at.others(target), self.at.domains[target].real["dev"]
        synthetic = at.workshop.continued(among, target, dev)
        rows: dict[str, Delta | None] = {BASE: None, SOURCE: at.workshop.mixed(among, dev), SYNTHETIC: synthetic}
        for kind in KINDS:
            vector = at.vector(kind, target, among)
            moved = {scale: synthetic + vector * scale for scale in at.scales}
            errors = {scale: at.error(partial(moved.__getitem__, scale), target, f"published {kind} {scale}") for scale in at.scales}
            rows[row(kind)] = moved[noted(at, self.name, target, kind, errors)]
        rows[TOPLINE] = at.workshop.real([target])
        return tested(at, target, rows)


def noted(at: Experiment, protocol: Protocol, target: str, kind: Kind, errors: Mapping[float, float]) -> float:
    """The scale of the lowest error, the smallest of equals; all of them are kept for the report."""
    best = min(errors, key=lambda scale: (errors[scale], scale))
    at.chosen[f"{protocol} {target} {kind}"] = {"scale": best, "errors": {str(scale): round(e, 4) for scale, e in errors.items()}}
    return best


def usual(chosen: Mapping[str, Any]) -> float:
    """The scale of a mean of vectors that had the lowest error over all targets of a strict experiment, the smallest of equals."""
    trials = [each["errors"] for name, each in chosen.items() if name.startswith("strict ") and name.endswith(" mean")]
    means = {float(scale): sum(errors[scale] for errors in trials) / len(trials) for scale in trials[0]}
    return min(means, key=lambda scale: (means[scale], scale))


def tested(at: Experiment, target: str, rows: Mapping[str, Delta | None]) -> list[Trial]:
    """Each row on the target's real test; those that the comparison turns on also on its synthetic test and on real tests of the others."""
    away = [u for name in at.others(target) for u in list(at.domains[name].real["test"])[: at.near]]
    real = list(at.domains[target].real["test"])
    sets: dict[Axis, Sequence[Any]] = {"reliability": at.said[target], "generality": real, "locality": away}
    found = []
    for name, delta in rows.items():
        for axis, utterances in sets.items():
            if axis == "generality" or name in JUDGED:
                found.append(Trial(name, axis, target, at.seed, *at.heard(name, delta, f"{axis} {target}", utterances)))
    return found


PROTOCOLS: Mapping[Protocol, Callable[[Experiment], Strict | Published]] = {"strict": Strict, "published": Published}
