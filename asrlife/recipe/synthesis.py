"""The step "synthesize": sentences of a grammar or a text file, read aloud."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from asrlife.audio.engines import expanded
from asrlife.recipe.registry import Place, Step
from asrlife.recipe.speech import VOICES, Diversity, read_aloud, readings
from asrlife.text.prepare import Sentence


class Synthesize(Step):
    """Read `sentences` distinct sentences aloud into out:FOLDER/transcripts.jsonl, each `clips` times, with the kinds of `augment`."""

    kind: Literal["synthesize"]
    folder: str = "speech"
    grammar: str | None = None
    family: str | None = None
    text: str | None = None
    sentences: PositiveInt = 40
    voices: tuple[str, ...] = Field(default=VOICES, min_length=1)
    seed: int = 0
    clips: PositiveInt = 1
    augment: tuple[str, ...] = ()
    model: str | None = None
    workers: PositiveInt | None = None

    @field_validator("voices")
    @classmethod
    def _no_programs(cls, voices: tuple[str, ...]) -> tuple[str, ...]:
        if any(voice.startswith("command:") for voice in voices):
            raise ValueError("a recipe starts no programs; read aloud with `asrlife synthesize --voice command:...` first")
        return voices

    @model_validator(mode="after")
    def _one_source(self) -> Synthesize:
        if (self.grammar is None) == (self.text is None):
            raise ValueError("give either grammar: FILE or text: FILE")
        if self.family is not None and self.grammar is None:
            raise ValueError("family belongs to a grammar")
        return self

    def run(self, place: Place) -> Mapping[str, Any]:
        """Write the audio and its manifest; what is there already is kept."""
        from asrlife.recipe.aloud import Wish, cores, synthesise

        workers, diversity = self.workers or cores(), Diversity(clips=self.clips, augment=self.augment)
        if self.text is not None:
            out, source = place.out / self.folder, place.path(self.text)
            wish = Wish(source, out, self.voices, self.seed, diversity, model=self.model, most=self.sentences, workers=workers)
            return synthesise(wish, place.bar).to_json()
        plans = readings(self.drafts(place), expanded(self.voices), self.seed, diversity)
        with place.bar("reading aloud", len(plans)) as advance:
            manifest = read_aloud(plans, place.out / self.folder, advance, workers)
        return {"manifest": str(manifest), "utterances": len(plans), "voices": sorted({plan.voice for plan in plans})}

    def drafts(self, place: Place) -> list[Sentence]:
        """The sentences of the grammar, with their entities."""
        from asrlife.text.grammar import Grammar

        drafts = Grammar.read(place.path(str(self.grammar))).drafts(self.seed, self.family)
        return [Sentence(draft.text, draft.text, 0, draft.entities) for draft in islice(drafts, self.sentences)]
