"""The step "edit-facts": each fact edited alone, by every editor and in context, on three axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from asrlife.recipe.edit_facts.editors import Editors, development, texts_of
from asrlife.recipe.edit_facts.kept import kept
from asrlife.recipe.edit_facts.make import BASE, prompters
from asrlife.recipe.registry import Place

if TYPE_CHECKING:
    from asrlife.data.world.edits import Case
    from asrlife.data.world.facts import World
    from asrlife.delta.delta import Delta
    from asrlife.evaluate.text import Verdict
    from asrlife.methods.edit.editors import Editor
    from asrlife.models.text import TextModel

_TOGETHER = 40  # edits whose values are sought at once
NOTES = (
    "Answers are free-running and greedy, and the teacher-forced figures stand beside them. Intervals are over edits.",
    "A reversal counts where it names the edited subject; others of which it is true as well are right, too, but tell nothing of the edit.",
    "In context: the model is not changed, the new fact stands before each question; ike: behind demonstrations with development facts.",
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
        """Edit and judge; report.json, report.html and picture.png go into out:REPORT. What is judged there is not judged again."""
        from asrlife.data.world.edits import cases
        from asrlife.evaluate.text import Comparison
        from asrlife.evaluate.text_pictures import picture
        from asrlife.recipe.compare import told

        model, world, facts = self.opened(self.split, self.edits)
        asked = [case for seed in self.seeds for case in cases(world, facts, self.phrasings, seed)]
        verdicts = tuple(self.judged(place, model, world, asked))
        head = {"model": self.model, "edits": f"{len(asked)}, {len(self.seeds)} seeds", "phrasings": str(self.phrasings)}
        comparison = Comparison(self.title, verdicts, head, NOTES)
        page = comparison.report().write(place.out / self.report)
        picture(comparison, {}, {}, page.with_name("picture.png"))
        return {**told(comparison), "report": str(page), "comparison": comparison.to_json()}

    def judged(self, place: Place, model: TextModel, world: World, asked: Sequence[Case]) -> Iterator[Verdict]:
        """The model as it is, in context, and each editor on every case."""
        from asrlife.evaluate.editing import judge_each

        texts, known = texts_of(world), development(world)
        prompted: dict[str, Any] = {BASE: None} | {
            name: prompter.asked for name, prompter in prompters(model, self.premise, [case.demonstration() for case in known]).items()
        }
        for name, rewritten in prompted.items():
            with place.bar(f"asking {name}", len(asked)) as advance:
                judge = partial(judge_each, model, asked, asked=rewritten, subject=name, texts=texts, advance=advance)
                yield self.kept(place, model, name, asked, judge)
        sought: dict[Any, Any] = {}
        for name in self.editors:
            editor = self.editor(name, model, [case.request for case in known])
            yield self.kept(place, model, name, asked, partial(self.edited, place, model, asked, editor, texts, sought))

    def kept(self, place: Place, model: TextModel, name: str, asked: Sequence[Case], judge: Callable[[], Verdict]) -> Verdict:
        """The verdict of an earlier run with the same settings, or a new one."""
        fixed = self.model_dump(mode="json", include={"edits", "split", "seeds", "phrasings", "model", "world", "premise"})
        settings = fixed | {"editor": dict(self.editors.get(name, {})), "of": model.fingerprint()}
        return kept(place.out / self.report / "kept" / f"{name}.json", settings, name, asked, judge)

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
