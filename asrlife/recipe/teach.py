"""The step "teach": fine-tune a language model on courses of the closed world; what comes out is a delta."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from asrlife.recipe.registry import Place, Step

if TYPE_CHECKING:
    from asrlife.data.world.forms import Question
    from asrlife.delta.delta import Delta
    from asrlife.models.text import TextModel


class Teach(Step):
    """Start from `model` and the delta `onto`, draw documents of `lessons` (course: share), and write `model`'s delta to out:FILE."""

    kind: Literal["teach"]
    file: str
    lessons: Mapping[str, PositiveFloat] = Field(min_length=1)
    model: str = "embedded:lm"
    onto: str | None = None
    world: int = 0
    steps: PositiveInt = 200
    batch: PositiveInt = 48
    peak: PositiveFloat = 1e-3
    seed: int = 1
    threads: PositiveInt = 1

    def run(self, place: Place) -> Mapping[str, Any]:
        """Train, or keep what an earlier run with the same settings wrote."""
        import torch

        from asrlife.delta import file
        from asrlife.models.text import load_text

        torch.set_num_threads(self.threads)
        model = load_text(self.model)
        start = None if self.onto is None else file.load(place.path(self.onto))
        path = place.out / self.file
        settings = self.model_dump() | {"from": model.fingerprint(), "start": None if start is None else dict(start.note)}
        if path.exists() and (kept := file.load(path)).note.get("settings") == settings:
            return {"delta": str(path), "norm": round(kept.norm(), 4), "loss": kept.note["scores"]["loss"]}
        delta = self.taught(model, start, settings, place)
        file.save(delta, path)
        return {"delta": str(path), "norm": round(delta.norm(), 4), "loss": delta.note["scores"]["loss"]}

    def taught(self, model: TextModel, start: Delta | None, settings: Mapping[str, Any], place: Place) -> Delta:
        """The delta that training gives; the model itself stays as it was."""
        import torch

        from asrlife.delta.delta import Delta, Dense
        from asrlife.delta.weights import trainable
        from asrlife.recipe.embedded import text
        from asrlife.recipe.embedded.training import Schedule

        base, names = model.fingerprint(), [name for name, _ in model.module.named_parameters()]
        schedule, loss = Schedule(self.steps, self.peak, warmup=20, seed=self.seed), text.loss_of(model)
        with trainable(model.module, names) as flat, place.bar(f"teaching {self.file}", self.steps) as advance:
            before = flat.values.detach().clone()
            flat.load(before + vector(start, flat.named(before)))
            optimiser, batches, last = torch.optim.AdamW([flat.values], self.peak, (0.9, 0.98), weight_decay=0.0), self.batches(), 0.0
            for step in range(self.steps):
                optimiser.param_groups[0]["lr"] = self.peak * schedule.share(step)
                flat.zero()
                value = loss(next(batches))
                value.backward()
                torch.nn.utils.clip_grad_norm_([flat.values], 1.0)
                optimiser.step()
                last = float(value.detach())
                advance()
            changes = {name: Dense(part.detach().clone()) for name, part in flat.named(flat.values - before).items()}
        return Delta(base, changes, {"method": "teach", "seed": self.seed, "scores": {"loss": round(last, 4)}, "settings": dict(settings)})

    def batches(self) -> Iterator[Sequence[Question]]:
        """Batches for ever, each document of a course drawn by its share."""
        from asrlife.data.world.courses import course
        from asrlife.data.world.facts import make
        from asrlife.recipe.embedded import text

        world, rng = make(self.world), random.Random(self.seed)
        sets = {name: course(name, world, "train") for name in self.lessons}

        def draw() -> Iterator[Question]:
            while True:
                name = rng.choices(list(self.lessons), list(self.lessons.values()))[0]
                yield rng.choice(sets[name])

        return text.batches(draw(), self.batch, self.seed)


def vector(delta: Delta | None, places: Mapping[str, Any]) -> Any:
    """A delta laid end to end in the order of `places`, zero where it says nothing."""
    import torch

    found = {} if delta is None else delta.tensors
    return torch.cat([(found[n].dense() if n in found else torch.zeros_like(place)).reshape(-1) for n, place in places.items()])
