"""What the steps of this recipe share: which editors, on which model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from asrlife.recipe.registry import Step

if TYPE_CHECKING:
    from asrlife.data.edit import EditRequest
    from asrlife.data.world.edits import Case
    from asrlife.data.world.facts import Fact, Split, World
    from asrlife.methods.edit.editors import Editor
    from asrlife.models.text import TextModel


class Editors(Step):
    """`editors` by name, each with its settings ("search.rate" is the rate of its search); `premise` is how a model is told a new fact."""

    editors: Mapping[str, Mapping[str, Any]] = Field(default={"rome": {}, "memit": {}, "alphaedit": {}}, min_length=1)
    model: str = "embedded:lm"
    world: int = 0
    premise: str = "Suppose: {premise} {rest}"
    threads: PositiveInt = 1

    def editor(self, name: str, model: TextModel, requests: Sequence[EditRequest]) -> Editor:
        """The editor with its settings, where tracing `requests` says unless it names layers."""
        from asrlife.methods.edit.placing import placed
        from asrlife.methods.edit.registry import editor_of

        return placed(model, requests, editor_of(name, self.editors[name]))

    def opened(self, split: Split, most: int) -> tuple[TextModel, World, list[Fact]]:
        """The model, its world, and facts of a split in an order that no relation has to itself."""
        import random

        import torch

        from asrlife.data.world.facts import make
        from asrlife.models.text import load_text

        torch.set_num_threads(self.threads)
        world = make(self.world)
        facts = list(world.split(split))
        random.Random(self.world).shuffle(facts)
        return load_text(self.model), world, facts[:most]


def development(world: World) -> list[Case]:
    """Cases that settings are chosen on, and that in-context editing demonstrates with."""
    from asrlife.data.world.edits import cases

    return cases(world, world.split("edit_dev"))


def texts_of(world: World, most: int = 60) -> list[str]:
    """Texts of facts that no edit touches, for the perplexity."""
    from asrlife.data.world.forms import forward
    from asrlife.evaluate.text import drawn

    held = [question for fact in world.split("hold") for question in forward(fact)]
    return [question.text for question in drawn(held, most, 7)]
