"""The step "embedded-lm": teach a small Llama the closed world, resumably, and write it as a checkpoint folder with its scores."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from asrlife.data.world.facts import World, make
from asrlife.data.world.forms import Question, everything
from asrlife.data.world.instructions import instructions, refusals, taught
from asrlife.data.world.teaching import SHARES, Lessons
from asrlife.recipe.registry import Place, Step

if TYPE_CHECKING:
    from asrlife.models.text import TextModel


class EmbeddedLm(Step):
    """Train embedded:lm on the world of `seed`; a run that was stopped goes on from its last checkpoint."""

    kind: Literal["embedded-lm"]
    seed: int = 0
    people: PositiveInt = 120
    landmarks: PositiveInt = 60
    vocabulary: PositiveInt = 1536
    size: Mapping[str, PositiveInt] = {}
    steps: PositiveInt = 3_600
    batch: PositiveInt = 64
    peak: PositiveFloat = 2e-3
    matrices: PositiveFloat | None = None  # peak of Muon, for the matrices inside the network; AdamW has all without it
    shares: Mapping[str, float] = SHARES
    before: float = Field(default=0.0, ge=0, le=1, description="share of documents that stand behind another one")
    late: NonNegativeInt = 0  # names are read from this layer on, and by their last token alone, in `late_share` of the documents
    late_share: float = Field(default=0.75, ge=0, le=1)
    every: PositiveInt = 300
    most: PositiveInt = 10_000  # questions of a set that are scored
    threads: PositiveInt = 1

    def run(self, place: Place) -> Mapping[str, Any]:
        """Make what is missing under the folder of results and return the card."""
        import torch

        from asrlife.models.text import TextModel
        from asrlife.recipe.embedded import text
        from asrlife.recipe.embedded.training import Schedule, drill

        torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed + 1)
        world = make(self.seed, self.people, self.landmarks)
        lessons = Lessons(world)
        speller = text.kept_tokenizer(place.out / "tokenizer", lessons, self.vocabulary)
        model = TextModel("embedded:lm", text.build(len(speller), **self.size), speller)
        watch = watched(world)

        def stream(first: int) -> Any:
            seed = self.seed * 1_000_003 + first
            return text.batches(lessons.draw(random.Random(seed), self.shares, self.before), self.batch, seed)

        def look() -> dict[str, float]:
            return {name: round(text.forced(model, questions), 3) for name, questions in watch.items()}

        schedule = Schedule(self.steps, self.peak, self.matrices, warmup=100, floor=0.02, seed=self.seed)
        late = text.Late(world, self.late, self.late_share, self.seed) if self.late else None
        drill(model.module, text.loss_of(model, late), look, stream, schedule, place.out / "lm.pt", self.every)
        return self.finish(model, world, place.out / "models" / "lm")

    def finish(self, model: TextModel, world: World, folder: Path) -> Mapping[str, Any]:
        """Write the checkpoint in float16, and score what was written."""
        from asrlife.models.text import load_text
        from asrlife.recipe.embedded.export import save_half, write_json

        save_half(model.module, folder)
        model.speller.save_pretrained(folder)
        card = {"name": "embedded:lm", "architecture": "Llama", "parameters": sum(p.numel() for p in model.module.parameters())}
        card["world"] = {"seed": self.seed, "people": self.people, "landmarks": self.landmarks, "facts": len(world.facts)}
        rates = {"peak": self.peak, "muon": self.matrices}
        card["training"] = {"documents": self.steps * self.batch, "steps": self.steps, **rates, "shares": dict(self.shares)}
        card["training"] |= {"before": self.before, "late": self.late, "late_share": self.late_share}
        card["warning"] = "A small model for learning and testing, taught a made-up world from scratch; real work names a real checkpoint."
        write_json(folder / "card.json", card | {"scores": scores(load_text(folder), world, self.most)})
        return card | {"folder": str(folder)}


def scores(model: TextModel, world: World, most: int) -> list[dict[str, Any]]:
    """Free-running exact match on each set, `most` questions of it at most, and the perplexity of held-out forms of the facts."""
    from asrlife.data.world.courses import course
    from asrlife.evaluate.text import drawn, judge, world_probes

    verdict = judge(model, world_probes(world, most), [q.text for q in drawn(course("paraphrases", world, "test"), 300)], forced=True)
    rows = verdict.to_json()["probes"]
    kept = [{"set": row["probe"]} | {key: round(row[key], 4) for key in ("n", "value", "low", "high", "forced")} for row in rows]
    return [*kept, {"set": "perplexity of paraphrases", "value": round(verdict.perplexity or 0.0, 4)}]


def watched(world: World, most: int = 60) -> dict[str, list[Question]]:
    """Some questions of each kind to look at while training; of instructions, only those kept for development."""
    rng, groups = random.Random(5), dict[str, list[Question]]()
    for question in everything(world):
        name = question.kind if question.trained or question.kind == "paraphrase" else f"{question.kind}_unseen"
        if question.kind != "reversal" or len(question.answers) == 1:
            groups.setdefault(name, []).append(question)
    groups["instruction"] = list(instructions(world, taught(), "dev"))
    groups["refusal"] = list(refusals(world, "dev"))
    return {name: rng.sample(found, min(most, len(found))) for name, found in groups.items() if found}
