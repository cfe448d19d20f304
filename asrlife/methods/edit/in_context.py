"""Edits that change no weight: the new fact stands before the question. The baselines that every report has.

A prompter maps (request, prompt) to a prompt, so that whoever evaluates an edit asks a model either with a delta or with a prompter.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from typing import ClassVar, Literal

from asrlife.data.edit import EditRequest, sentence
from asrlife.errors import InputError
from asrlife.methods.edit.retrieval import Index

NEW_FACT = "New fact: {premise}\n{rest}"
"""For any model; models of the closed world know `asrlife.data.world.teaching.SUPPOSED`."""
Use = Literal["copy", "update", "retain"]
_USES: tuple[Use, ...] = ("copy", "update", "retain", "update", "retain", "update", "retain", "retain")  # 1 : 3 : 4, as the authors have it


@dataclass(frozen=True)
class Prompter(ABC):
    """`template` has {premise}, the new fact as a sentence, and {rest}, the prompt that is asked."""

    name: ClassVar[str]
    template: str = NEW_FACT

    def __post_init__(self) -> None:
        if "{premise}" not in self.template or "{rest}" not in self.template:
            raise InputError(f"the template {self.template!r} has no {{premise}} or no {{rest}}: give both their place")

    @abstractmethod
    def asked(self, request: EditRequest, prompt: str) -> str:
        """What to ask in place of `prompt` where `request` is in force."""

    def _behind(self, request: EditRequest, rest: str) -> str:
        there = {"{premise}": request.statement, "{rest}": rest}
        return re.sub("|".join(map(re.escape, there)), lambda found: there[found[0]], self.template)


@dataclass(frozen=True)
class Plain(Prompter):
    """The new fact, then the question."""

    name = "prompt"

    def asked(self, request: EditRequest, prompt: str) -> str:
        """The template with the request's statement and the prompt."""
        return self._behind(request, prompt)


@dataclass(frozen=True)
class InContext(Prompter):
    """IKE (arXiv 2305.12740): before fact and question `shots` demonstrations with other facts, the likest last.

    They copy the new fact, update a paraphrase by it, or retain a neighbour's answer, 1 : 3 : 4. What a demonstration does not have it
    copies. The likest are found by `asrlife.methods.edit.retrieval.Index` where the authors take sentence embeddings; facts about the
    subject of the request do not demonstrate. Without demonstrations `asked` raises InputError.
    """

    name = "ike"
    demonstrations: tuple[EditRequest, ...] = ()
    shots: int = 8
    between: str = "\n\n"

    def asked(self, request: EditRequest, prompt: str) -> str:
        """Demonstrations, the request's statement and the prompt."""
        others = [each for each in self._index.ranked(request.statement) if each.subject != request.subject]
        if not others:
            raise InputError(
                "in-context editing shows how it is done with other facts: give it demonstrations, or use the prompter 'prompt'"
            )
        shown = list(zip(others[: self.shots], cycle(_USES), strict=False))
        return self.between.join([*(self._shown(*each) for each in reversed(shown)), self._behind(request, prompt)])

    @cached_property
    def _index(self) -> Index:
        return Index(self.demonstrations)

    def _shown(self, request: EditRequest, use: Use) -> str:
        found = {"copy": (), "update": request.paraphrases, "retain": request.neighbours}[use]
        prompt, answer = next(iter(found), (request.prompt, request.target))
        return self._behind(request, sentence(prompt, answer))


@dataclass(frozen=True)
class Retrieved:
    """Many requests in force at once: the one that `prompt` is nearest to stands before it, or none where none is near.

    `least` is the similarity, 0 to 1, from which a request counts as near (see `asrlife.methods.edit.retrieval.Index`).
    """

    prompter: Prompter
    requests: tuple[EditRequest, ...]
    least: float = 0.3

    def asked(self, request: EditRequest, prompt: str) -> str:
        """As `Prompter.asked`, with the request that is found for the prompt; `request`, for which it is asked, is not looked at."""
        found = self._index.nearest(prompt, self.least)
        return prompt if found is None else self.prompter.asked(found, prompt)

    @cached_property
    def _index(self) -> Index:
        return Index(self.requests)


PROMPTERS: Mapping[str, Prompter] = {prompter.name: prompter for prompter in (Plain(), InContext())}
"""With a template for any model and without demonstrations: `dataclasses.replace` gives them others."""
