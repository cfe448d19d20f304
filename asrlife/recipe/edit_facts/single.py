"""The step "edit-facts": each fact edited alone, by every editor and in context, on three axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from asrlife.recipe.edit_facts.editors import Editors, development, prompter, texts_of
from asrlife.recipe.edit_facts.make import BASE, CONTEXT
from asrlife.recipe.registry import Place

if TYPE_CHECKING:
    from asrlife.data.world.edits import Case
    from asrlife.delta.delta import Delta
    from asrlife.evaluate.text import Comparison, Verdict
    from asrlife.methods.edit.editors import Editor
    from asrlife.models.text import TextModel

NOTES = (
    "Answers are free-running and greedy; report.json has the teacher-forced figures beside them. Intervals are over edits.",
    "A reversal counts where it names the edited subject; others of which it is true as well are right, too, but tell nothing of the edit.",
    "In context: the model is not changed, the new fact stands before each question.",
)


class EditFacts(Editors):
    """`edits` facts of the split `split`, each edited alone, once for each of `seeds`, which draw the new objects, the prompts that an edit
    is made from, and the questions. `phrasings` further prompts go into each edit."""

    kind: Literal["edit-facts"]
    edits: PositiveInt = 200
    split: Literal["edit", "edit_dev"] = "edit"
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2), min_length=1)
    phrasings: NonNegativeInt = 0
    title: str = "One fact at a time"
    report: str = "single"

    def run(self, place: Place) -> Mapping[str, Any]:
        """Edit and judge; report.json, report.html and picture.png go into out:REPORT, and what is judged is kept and not judged again."""
        from asrlife.evaluate.text_pictures import picture
        from asrlife.recipe.compare import told

        model, world, facts = self.opened(self.split, self.edits)
        from asrlife.data.world.edits import cases

        asked = [case for seed in self.seeds for case in cases(world, facts, self.phrasings, seed)]
        comparison = self.judged(place, model, asked)
        page = comparison.report().write(place.out / self.report)
        picture(comparison, {}, {}, page.with_name("picture.png"))
        return {**told(comparison), "report": str(page), "comparison": comparison.to_json()}

    def judged(self, place: Place, model: TextModel, asked: Sequence[Case]) -> Comparison:
        """The model as it is, in context, and each editor on every case."""
        from asrlife.data.world.facts import make
        from asrlife.evaluate.editing import judge_each
        from asrlife.evaluate.text import Comparison

        texts = texts_of(self.world)
        with place.bar("asking the model as it is, and in context", 2 * len(asked)) as advance:
            verdicts = [judge_each(model, asked, subject=BASE, texts=texts, advance=advance)]
            verdicts.append(judge_each(model, asked, asked=prompter(self.premise).asked, subject=CONTEXT, texts=texts, advance=advance))
        known, sought = development(make(self.world)), dict[Any, Any]()
        verdicts += [self.edited(place, model, asked, self.editor(name, model, known), texts, sought) for name in self.editors]
        facts = {"model": self.model, "edits": f"{len(asked)}, {len(self.seeds)} seeds", "phrasings": str(self.phrasings)}
        return Comparison(self.title, tuple(verdicts), facts, NOTES)

    def edited(
        self, place: Place, model: TextModel, asked: Sequence[Case], editor: Editor, texts: Sequence[str], sought: dict[Any, Any]
    ) -> Verdict:  # fmt: skip
        """Edits a few at a time, so that a bar can show how far it is; `sought` has what editors before looked for."""
        from asrlife.evaluate.editing import judge_each
        from asrlife.methods.edit.edit import bench, edit_each

        deltas: list[Delta] = []
        with place.bar(f"editing by {editor.name}", 2 * len(asked)) as advance:
            at = replace(bench(model, editor), sought=sought)
            for first in range(0, len(asked), _TOGETHER):
                some = [case.request for case in asked[first : first + _TOGETHER]]
                deltas += edit_each(model, some, editor, at)
                for _ in some:
                    advance()
            return judge_each(model, asked, deltas, subject=editor.name, texts=texts, advance=advance)


_TOGETHER = 40
