"""The step "compare": sums of deltas judged on three axes, their scale chosen on development questions, reported on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from asrlife.errors import InputError
from asrlife.recipe.registry import Place, Step
from asrlife.recipe.schema import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from asrlife.data.world.facts import World
    from asrlife.data.world.instructions import Part
    from asrlife.delta.delta import Delta
    from asrlife.evaluate.text import Comparison, Probe, Verdict
    from asrlife.models.text import TextModel

FACTORS = {"scale": 1.0, "-scale": -1.0}
Factor = float | Literal["scale", "-scale"]


class Asked(Settings):
    """A course of the closed world as a probe: what it measures, by which rule, and how many of its questions."""

    axis: Literal["reliability", "generality", "locality"]
    course: str
    rule: Literal["exact", "contains", "clean"] = "exact"
    name: str | None = None
    most: PositiveInt = 120


class Compare(Step):
    """`subjects` are sums {delta: factor} on `model`, the first the one that was not changed; the factor "scale" or "-scale" is searched.

    A delta is a file, the folder of a model that was fine-tuned from `model`, or a sum {delta: factor} of deltas before it.
    Of `scales`, the one with the best mean of reliability and generality on development questions is taken among those that keep at
    least the share `keep` of the first subject's locality.
    """

    kind: Literal["compare"]
    subjects: Mapping[str, Mapping[str, Factor]] = Field(min_length=1)
    deltas: Mapping[str, str | Mapping[str, float]]
    probes: tuple[Asked, ...] = Field(min_length=1)
    model: str = "embedded:lm"
    scales: tuple[float, ...] = Field(default=(0.2, 0.4, 0.6, 0.8, 1.0, 1.2), min_length=1)
    keep: float = Field(default=0.95, ge=0, le=1)
    world: int = 0
    texts: NonNegativeInt = 100
    share: float = Field(default=0.5, gt=0, le=1, description="how many development questions for each question of the report")
    title: str = "Deltas of a language model"
    notes: tuple[str, ...] = ()
    report: str = "report"
    threads: PositiveInt = 1

    @model_validator(mode="after")
    def _known(self) -> Compare:
        for label, terms in self.subjects.items():
            if unknown := [name for name in terms if name not in self.deltas]:
                raise ValueError(f"subject {label!r} names the delta {unknown[0]!r}; deltas are {', '.join(self.deltas)}")
        if searched(next(iter(self.subjects.values()))):
            raise ValueError("the first subject is what the others are compared with: it has no scale to search")
        return self

    def run(self, place: Place) -> Mapping[str, Any]:
        """Search, judge, and write report.json, report.html and picture.png into out:REPORT."""
        import torch

        from asrlife.data.world.facts import make
        from asrlife.evaluate.text_pictures import picture
        from asrlife.models.text import load_text

        torch.set_num_threads(self.threads)
        model, world = load_text(self.model), make(self.world)
        deltas = loaded(model, self.deltas, place)
        search = {label: self.search(model, label, deltas, world) for label, terms in self.subjects.items() if searched(terms)}
        chosen = {label: best(trials, self.keep) for label, trials in search.items()}
        comparison = self.judged(model, deltas, world, chosen)
        page = comparison.report(curves_of(search)).write(place.out / self.report)
        picture(comparison, search, chosen, page.with_name("picture.png"))
        return {"chosen scales": chosen, **told(comparison), "report": str(page), "comparison": comparison.to_json()}

    def search(self, model: TextModel, label: str, deltas: Mapping[str, Delta], world: World) -> dict[float, Verdict]:
        """Every scale on development questions; 0.0 stands for the first subject."""
        from asrlife.evaluate.text import judge

        probes = self.asked(world, "dev")
        first = next(iter(self.subjects))
        trials = {}
        for scale in (0.0, *self.scales):
            with placed(model, self.summed(label if scale else first, deltas, scale)):
                trials[scale] = judge(model, probes, subject=f"{label}, {scale:g}")
        return trials

    def judged(self, model: TextModel, deltas: Mapping[str, Delta], world: World, chosen: Mapping[str, float]) -> Comparison:
        """Every subject on the questions that are reported."""
        from asrlife.data.world.courses import course
        from asrlife.evaluate.text import Comparison, drawn, judge

        probes = self.asked(world, "test")
        texts = [q.text for q in drawn(course("facts", world, "test"), self.texts, 7)]
        verdicts = []
        for label in self.subjects:
            with placed(model, self.summed(label, deltas, chosen.get(label, 0.0))):
                verdicts.append(judge(model, probes, texts, label))
        facts = {
            "model": self.model,
            **{f"scale of {label}": f"{scale:g}, chosen on development questions" for label, scale in chosen.items()},
        }
        return Comparison(self.title, tuple(verdicts), facts, self.notes)

    def summed(self, label: str, deltas: Mapping[str, Delta], scale: float) -> Delta | None:
        """The sum of a subject at a scale; None for the model as it is."""
        terms = self.subjects[label].items()
        return total({name: FACTORS[f] * scale if isinstance(f, str) else f for name, f in terms}, deltas)

    def asked(self, world: World, part: Part) -> list[Probe]:
        """The probes on questions of a part."""
        from asrlife.data.world.courses import CRUDE, course
        from asrlife.evaluate.text import Probe, drawn

        probes = []
        for ask in self.probes:
            most = ask.most if part == "test" else max(1, round(ask.most * self.share))
            questions = drawn(course(ask.course, world, part), most, 3)
            probes.append(Probe(ask.axis, ask.name or ask.course, questions, ask.rule, frozenset(CRUDE)))
        return probes


def searched(terms: Mapping[str, Factor]) -> bool:
    """Whether a factor is to be searched."""
    return any(isinstance(factor, str) for factor in terms.values())


def loaded(model: TextModel, sources: Mapping[str, str | Mapping[str, float]], place: Place) -> dict[str, Delta]:
    """The deltas by name, from files, from folders of models that were fine-tuned from `model`, and as sums of those before."""
    deltas: dict[str, Delta] = {}
    for name, source in sources.items():
        if isinstance(source, str):
            deltas[name] = read(model, name, place.path(source))
        elif unknown := [term for term in source if term not in deltas]:
            raise InputError(f"delta {name!r} is a sum with {unknown[0]!r}, which does not stand before it")
        elif (found := total(source, deltas)) is None:
            raise InputError(f"delta {name!r} is an empty sum: name the deltas that it is made of")
        else:
            deltas[name] = found
    return deltas


def read(model: TextModel, name: str, path: Path) -> Delta:
    """A delta from its file, or from the folder of a model that was fine-tuned from `model`."""
    from asrlife.delta import file
    from asrlife.delta.delta import between
    from asrlife.models.text import load_text

    return between(model.module, load_text(path).module, {"method": "difference", "of": name}) if path.is_dir() else file.load(path)


def total(factors: Mapping[str, float], deltas: Mapping[str, Delta]) -> Delta | None:
    """The sum of deltas, each with its factor; None for no delta at all."""
    found = None
    for name, factor in factors.items():
        term = deltas[name] * float(factor)
        found = term if found is None else found + term
    return found


def placed(model: TextModel, delta: Delta | None) -> Any:
    """A context in which the model has the weights of a delta."""
    from contextlib import nullcontext

    from asrlife.delta.weights import applied

    return nullcontext() if delta is None else applied(model.module, delta)


def best(trials: Mapping[float, Verdict], keep: float) -> float:
    """The scale with the best mean of reliability and generality among those that keep locality; the most local one where none does."""
    floor = keep * (trials[0.0].mean("locality") or 0.0)
    scales = [scale for scale in trials if scale]
    good = [scale for scale in scales if (trials[scale].mean("locality") or 0.0) >= floor]
    if not good:
        return max(scales, key=lambda scale: trials[scale].mean("locality") or 0.0)
    return max(good, key=lambda scale: _gain(trials[scale]))


def _gain(verdict: Verdict) -> float:
    means = [mean for axis in ("reliability", "generality") if (mean := verdict.mean(axis)) is not None]
    if not means:
        raise InputError("no probe measures reliability or generality: there is nothing to choose a scale by")
    return sum(means) / len(means)


def curves_of(search: Mapping[str, Mapping[float, Verdict]]) -> Sequence[Any]:
    """The axes over the scale on development questions, a curve for each subject that was searched."""
    from asrlife.evaluate.report import Curve

    axes: tuple[Any, ...] = ("reliability", "generality", "locality")
    return [
        Curve(
            f"{label}: by scale, development questions", "scale", "right (%)",
            {axis: [(s, 100 * mean) for s, v in trials.items() if (mean := v.mean(axis)) is not None] for axis in axes},
        )
        for label, trials in search.items()
    ]  # fmt: skip


def told(comparison: Comparison) -> dict[str, str]:
    """A line for each subject."""
    return {
        v.subject: ", ".join(f"{o.probe.name} {100 * o.share:.1f}" for o in v.outcomes) + f"; perplexity {v.perplexity or 0:.3f}"
        for v in comparison.verdicts
    }
