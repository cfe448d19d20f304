"""The step "teach-a-name": names taught in several ways, settings chosen on some, judged on others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from asrlife.recipe.registry import Place, Step
from asrlife.recipe.teach_a_name.cast import Cast, Trial, trial
from asrlife.recipe.teach_a_name.ways import School, Way

if TYPE_CHECKING:
    from asrlife.models.handle import Recogniser
    from asrlife.recipe.teach_a_name.ears import Sound
    from asrlife.recipe.teach_a_name.judge import Outcome, Verdict

UNEDITED = "unedited"


class TeachAName(Step):
    """Teach each name of `cast` to `model` in each of `ways`, one name at a time, for each of `seeds`.

    Of a way's settings those are taken that gain most on the development names, of those that make at most the share `most` of the words of
    other utterances wrong that were right. `rest` are everyday sentences without the names, `speech` those that hold an edit back.
    """

    kind: Literal["teach-a-name"]
    cast: Cast
    ways: Mapping[str, Way] = Field(min_length=1)
    model: str = "embedded:ctc"
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    dev_seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    speech: PositiveInt = 100
    rest: PositiveInt = 40
    families: tuple[str, ...] = ("assistant", "grid")
    most: NonNegativeFloat = 0.02
    title: str = "Names taught to"
    report: str = "report"
    threads: PositiveInt = 1

    @model_validator(mode="after")
    def _known(self) -> TeachAName:
        if missing := [name for name in self.cast.dev if name not in self.cast.names]:
            raise ValueError(f"the development name {missing[0]!r} is not among the names")
        if not self.cast.reported():
            raise ValueError("all names are development names: leave some to report on")
        return self

    def run(self, place: Place) -> Mapping[str, Any]:
        """Choose, judge, and write report.json and picture.png into out:REPORT."""
        import torch

        from asrlife.files import atomic
        from asrlife.models.load import load
        from asrlife.recipe.teach_a_name.picture import picture

        torch.set_num_threads(self.threads)
        model = load(self.model)
        chosen, searched = self.chosen(model, place)
        verdicts = self.judged(model, chosen, place)
        found = {"model": self.model, "chosen": chosen, "search": searched, "ways": [verdict.to_json() for verdict in verdicts]}
        folder = place.out / self.report
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "report.json", "w") as file:
            json.dump(found, file, ensure_ascii=False, indent=1)
        path = picture(verdicts, folder / "picture.png", f"{self.title} {self.model}")
        shown = {verdict.way: _told(verdict) for verdict in verdicts}
        return {"chosen": chosen, "figures": shown, "report": str(folder / "report.json"), "picture": str(path)}

    def chosen(self, model: Recogniser, place: Place) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
        """The settings of each way that the development names speak for, and what each of them was worth there."""
        from asrlife.recipe.teach_a_name.judge import Verdict, best, cost, gain

        tries = {label: list(way.candidates()) for label, way in self.ways.items()}
        trials = self.trials(self.cast.dev, self.dev_seeds)
        room, settled, told = Room(self, model, 0), dict[str, dict[str, Any]](), dict[str, list[dict[str, Any]]]()
        with place.bar("choosing", len(trials) * sum(map(len, tries.values()))) as advance:
            before = [room.outcome(one) for one in trials]
            for label, candidates in tries.items():
                found = [
                    Verdict(label, tuple(room.after(label, told_, one, advance) for one in trials), tuple(before)) for told_ in candidates
                ]
                settled[label] = candidates[best(found, self.most)]
                told[label] = [
                    {"settings": one, "gain": gain(verdict), "cost": cost(verdict)} for one, verdict in zip(candidates, found, strict=True)
                ]
        return settled, told

    def judged(self, model: Recogniser, chosen: Mapping[str, Mapping[str, Any]], place: Place) -> list[Verdict]:
        """The model as it is, and each way at its settings, on the names that are reported."""
        from asrlife.recipe.teach_a_name.judge import Verdict

        trials, room = self.trials(self.cast.reported(), self.seeds), Room(self, model, 1)
        with place.bar("judging", len(trials) * len(chosen)) as advance:
            before = tuple(room.outcome(one) for one in trials)
            after = {label: tuple(room.after(label, told, one, advance) for one in trials) for label, told in chosen.items()}
        return [Verdict(UNEDITED, before, before), *(Verdict(label, found, before) for label, found in after.items())]

    def trials(self, names: Sequence[str], seeds: Sequence[int]) -> list[Trial]:
        """Each name with each seed."""
        return [trial(self.cast, name, seed) for name in names for seed in seeds]


class Room:
    """Where trials take place: a model, the speech that holds it back, and what else it is to hear."""

    def __init__(self, step: TeachAName, model: Recogniser, part: int) -> None:
        from asrlife.recipe.teach_a_name.said import everyday, waves

        self.step, self.model = step, model
        self.school = School(model, waves(everyday(step.speech, seed=10)))
        self.rest = everyday(step.rest, seed=20 + part, families=step.families, voices=step.cast.tests)
        self._sounds: dict[Any, Sound] = {}

    def outcome(self, one: Trial, moved: Sequence[str] = ()) -> Outcome:
        """What the model hears as its weights are, those of `moved` not being what they were."""
        from asrlife.recipe.teach_a_name.ears import heard
        from asrlife.recipe.teach_a_name.judge import Outcome

        key = _below(moved)
        found = {part: heard(self.model, self._sound(key, moved, (one.name, one.seed, part), getattr(one, part))) for part in _OWN}
        found["rest"] = heard(self.model, self._sound(key, moved, "rest", self.rest))
        return Outcome(one, found, [str(each.text) for each in self.rest])

    def after(self, label: str, told: Mapping[str, Any], one: Trial, advance: Callable[[], None]) -> Outcome:
        """The same after the name was taught."""
        from asrlife.delta.weights import applied

        delta = self.school.taught(self.step.ways[label], told, one)
        with applied(self.model.module, delta):
            found = self.outcome(one, tuple(delta.tensors))
        advance()
        return found

    def _sound(self, below: bool, moved: Sequence[str], key: Any, utterances: Sequence[Any]) -> Sound:
        from asrlife.recipe.teach_a_name.ears import prepared

        if below:  # the parts that would be kept have moved
            return prepared(self.model, utterances, moved)
        if key not in self._sounds:
            self._sounds[key] = prepared(self.model, utterances, [_TOP])
        return self._sounds[key]


_OWN = ("taught", "other", "alike")
_TOP = "lm_head.weight"  # no part that `cached` keeps depends on it, in any network


def _below(moved: Sequence[str]) -> bool:
    """Whether what `cached` keeps (a front-end's frames, an encoder's states) may have moved."""
    return any("feature_" in name or "model.encoder." in name for name in moved)


def _told(verdict: Verdict) -> dict[str, str]:
    return dict(_lines(verdict))


def _lines(verdict: Verdict) -> Iterator[tuple[str, str]]:
    for name, one in verdict.figures().items():
        yield name, f"{100 * one.value:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f}) % of {one.n}"
