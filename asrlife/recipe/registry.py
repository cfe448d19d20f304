"""Kinds of steps. A new kind is one module with a `Step` of its own and one line in KINDS."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from asrlife.errors import InputError
from asrlife.recipe.names import nearest
from asrlife.recipe.schema import Settings

# kind -> "module:class"; imported when a recipe names it, so that listing recipes costs nothing
KINDS: dict[str, str] = {
    "embedded": "asrlife.recipe.embedded.build:Embedded",
    "embedded-lm": "asrlife.recipe.embedded.lm:EmbeddedLm",
    "compare": "asrlife.recipe.compare:Compare",
    "domain": "asrlife.recipe.domain.step:MakeDomain",
    "edit-facts": "asrlife.recipe.edit_facts.single:EditFacts",
    "edit-one": "asrlife.recipe.edit_facts.one:EditOne",
    "edit-sequence": "asrlife.recipe.edit_facts.sequence:EditSequence",
    "evaluate": "asrlife.recipe.evaluation:Evaluate",
    "forgetting": "asrlife.recipe.forgetting:Forgetting",
    "stream": "asrlife.recipe.streaming:Streams",
    "syn2real": "asrlife.recipe.syn2real.step:SynToReal",
    "synthesize": "asrlife.recipe.synthesis:Synthesize",
    "teach": "asrlife.recipe.teach:Teach",
    "teach-a-name": "asrlife.recipe.teach_a_name.step:TeachAName",
    "tune": "asrlife.recipe.tuning:Tune",
}

Bar = Callable[[str, int | None], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class Place:
    """Where a recipe runs: its own folder (read only), the folder of its results, and whether and how progress is shown."""

    recipe: Path
    out: Path
    bar: Bar
    show: bool = False

    def path(self, source: str) -> Path:
        """Resolve "out:x" (made by an earlier step), "recipe:x" (beside recipe.yaml) or a plain path; missing raises InputError."""
        scheme, colon, rest = source.partition(":")
        folders = {"out": self.out, "recipe": self.recipe}
        path = folders[scheme] / rest if colon and scheme in folders else Path(source).expanduser()
        if not path.exists():
            raise InputError(f"{path}: no such file or folder (from {source!r}; out: means {self.out}, recipe: means {self.recipe})")
        return path


class Step(Settings):
    """One step of a recipe; a subclass adds its settings and does the work in `run`."""

    kind: str

    @abstractmethod
    def run(self, place: Place) -> Mapping[str, Any]:
        """Do the step and return what it found, as JSON can say it."""


def step_of(kind: str, where: str) -> type[Step]:
    """The class of a kind of step; an unknown one raises InputError naming the nearest."""
    if kind not in KINDS:
        raise InputError(f"{where}: unknown kind {kind!r}; {nearest(kind, KINDS)}")
    module, _, name = KINDS[kind].partition(":")
    found = getattr(import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, Step)):
        raise TypeError(f"{KINDS[kind]} is not a Step")
    return found
