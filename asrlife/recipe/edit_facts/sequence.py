"""The step "edit-sequence": edits one after the other on one model, and what is left of it on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from asrlife.errors import InputError
from asrlife.recipe.edit_facts.editors import Editors, development, texts_of
from asrlife.recipe.registry import Place

if TYPE_CHECKING:
    from asrlife.data.world.edits import Case
    from asrlife.evaluate.text import Verdict
    from asrlife.models.text import TextModel


class EditSequence(Editors):
    """`edits` facts of the split "edit", one after the other, judged after each number in `at`.

    What is asked: all edits so far and what follows from them, and of the last `asked` cases what should stay; a fact that is edited
    itself, now or later, is not among it.
    """

    kind: Literal["edit-sequence"]
    edits: PositiveInt = 200
    at: tuple[PositiveInt, ...] = Field(default=(1, 10, 25, 50, 100, 150, 200), min_length=1)
    asked: PositiveInt = 60
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    phrasings: NonNegativeInt = 0
    title: str = "Edits one after the other"
    report: str = "sequence"

    def run(self, place: Place) -> Mapping[str, Any]:
        """Edit and judge; sequence.json and sequence.png go into out:REPORT. An editor that is done is not run again."""
        from asrlife.data.world.edits import cases
        from asrlife.evaluate.editing_pictures import sequence_picture

        model, world, facts = self.opened("edit", self.edits)
        if len(facts) < max(self.at):
            raise InputError(f"at: {max(self.at)} edits are asked about and there are {len(facts)}: take fewer, or more edits")
        found: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in self.editors}
        for name in self.editors:
            for seed in self.seeds:
                found[name].append(self.kept(place, model, cases(world, facts, self.phrasings, seed), name, seed))
        path = place.out / self.report / "sequence.png"
        sequence_picture(self.title, found, path)
        return {"picture": str(path), "curves": found}

    def kept(self, place: Place, model: TextModel, every: Sequence[Case], name: str, seed: int) -> list[dict[str, Any]]:
        """What an earlier run with the same settings found, or a new run."""
        from asrlife.files import atomic

        path = place.out / self.report / f"{name}-{seed}.json"
        one = self.model_dump(mode="json", include={"edits", "at", "asked", "phrasings", "model", "world"})
        settings = one | {"editor": dict(self.editors[name]), "of": model.fingerprint()}
        if path.is_file() and (known := json.loads(path.read_text(encoding="utf-8")))["settings"] == settings:
            return list(known["points"])
        points = self.followed(place, model, every, name, seed)
        with atomic(path, "w") as file:
            json.dump({"settings": settings, "points": points}, file, indent=1)
        return points

    def followed(self, place: Place, model: TextModel, every: Sequence[Case], name: str, seed: int) -> list[dict[str, Any]]:
        """A row for each number of edits, 0 among them."""
        from asrlife.data.world.facts import make
        from asrlife.methods.edit.edit import bench, edits

        world = make(self.world)
        editor, texts = self.editor(name, model, [case.request for case in development(world)]), texts_of(world)
        points = [self.judged(model, every, 0, None, texts)]
        with place.bar(f"editing by {name}, seed {seed}", len(every)) as advance:
            at = bench(model, editor, seed=seed)
            for number, total in enumerate(edits(model, [case.request for case in every], editor, at, 1, advance), 1):
                if number in self.at:
                    points.append(self.judged(model, every, number, total, texts))
        return points

    def judged(self, model: TextModel, every: Sequence[Case], count: int, delta: Any, texts: Sequence[str]) -> dict[str, Any]:
        """Shares of right answers by what was asked, and the perplexity."""
        from asrlife.evaluate.editing import AXIS, judge_all

        edited = {(case.request.subject, question.about.relation) for case in every for question in case.asked["the edit"]}
        made = [case.only(lambda name, _: AXIS[name] != "locality") for case in every[:count]]
        stays = [
            case.only(lambda name, about: AXIS[name] == "locality" and (about.subject, about.relation) not in edited)
            for case in every[-self.asked :]
        ]
        after = judge_all(model, stays, delta, "stays", texts)
        before = judge_all(model, made, delta, "made") if made else None
        return {"edits": count, **_shares(before), **_shares(after), "perplexity": after.perplexity}


def _shares(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {}
    return {o.probe.name: {"value": o.share, **dict(zip(("low", "high"), o.interval(), strict=True))} for o in verdict.outcomes}
