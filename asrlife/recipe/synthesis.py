"""The step "synthesize": sentences of a grammar or a text file, read aloud."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from asrlife.errors import InputError
from asrlife.recipe.registry import Place, Step
from asrlife.recipe.speech import VOICES, read_aloud, read_lines, readings


class Synthesize(Step):
    """Read `sentences` distinct sentences aloud into out:FOLDER/transcripts.jsonl."""

    kind: Literal["synthesize"]
    folder: str = "speech"
    grammar: str | None = None
    family: str | None = None
    text: str | None = None
    sentences: PositiveInt = 40
    voices: tuple[str, ...] = Field(default=VOICES, min_length=1)
    seed: int = 0

    @model_validator(mode="after")
    def _one_source(self) -> Synthesize:
        if (self.grammar is None) == (self.text is None):
            raise ValueError("give either grammar: FILE or text: FILE")
        if self.family is not None and self.grammar is None:
            raise ValueError("family belongs to a grammar")
        return self

    def run(self, place: Place) -> Mapping[str, Any]:
        """Write the audio and its manifest; what is there already is kept."""
        plans = readings(self.lines(place), self.voices, self.seed)
        with place.bar("reading aloud", len(plans)) as advance:
            manifest = read_aloud(plans, place.out / self.folder, advance)
        return {"manifest": str(manifest), "utterances": len(plans), "voices": sorted({plan.voice for plan in plans})}

    def lines(self, place: Place) -> list[str]:
        """The sentences to read."""
        if self.text is not None:
            return read_lines(place.path(self.text))[: self.sentences]
        from asrlife.text.grammar import Grammar

        grammar = Grammar.read(place.path(str(self.grammar)))
        if self.family is not None and self.family not in grammar.families:
            raise InputError(f"the grammar has no family {self.family!r}; known: {', '.join(grammar.families)}")
        return list(islice(grammar.stream(self.seed, self.family), self.sentences))
