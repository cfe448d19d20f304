"""The step "domain": from a text or a grammar to a judged domain delta, as `asrlife domain` does it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from asrlife.errors import InputError
from asrlife.recipe.domain.names import check_name
from asrlife.recipe.domain.plan import KEEP, Cast, Domain
from asrlife.recipe.registry import Place, Step
from asrlife.recipe.tuning import BarWatch, placed

if TYPE_CHECKING:
    from asrlife.evaluate.report import Report


class MakeDomain(Step):
    """Make the domain NAME in out:NAME from the lines of `text`, or from `sentences` of a `grammar`, with what the options of
    `asrlife domain` say; `dev_voices` read what the weights are chosen on, and `picture` is a PNG of the figures.
    """

    kind: Literal["domain"]
    name: str
    text: str | None = None
    grammar: str | None = None
    family: str | None = None
    sentences: PositiveInt | None = None
    model: str = "embedded:ctc-tts"
    voices: tuple[str, ...] = Field(default=Cast().train, min_length=1)
    dev_voices: tuple[str, ...] = Field(default=Cast().dev, min_length=1)
    test_voices: tuple[str, ...] = Field(default=Cast().test, min_length=1)
    clips: PositiveInt = 2
    augment: tuple[str, ...] = ()
    seed: NonNegativeInt = 0
    tune: Mapping[str, Any] = {}
    keep: tuple[str, ...] = KEEP
    syn2real: str | None = None
    vector: bool = True
    scale: float | None = Field(default=None, allow_inf_nan=False)
    real: str | None = None
    real_dev: str | None = None
    general: str | None = None
    general_sentences: PositiveInt = 60
    picture: str | None = "picture.png"
    workers: PositiveInt | None = None
    threads: PositiveInt = 1

    @model_validator(mode="after")
    def _one_source(self) -> MakeDomain:
        if (self.grammar is None) == (self.text is None):
            raise ValueError("give either grammar: FILE or text: FILE")
        if self.grammar is None and self.family is not None:
            raise ValueError("family belongs to a grammar")
        if self.grammar is not None and self.sentences is None:
            raise ValueError("say how many sentences of the grammar there are to be, as in sentences: 200")
        if any(voice.startswith("command:") for voice in (*self.voices, *self.dev_voices, *self.test_voices)):
            raise ValueError("a recipe starts no programs; use `asrlife domain --voice command:...`")
        return self

    def run(self, place: Place) -> Mapping[str, Any]:
        """Make it, or what is missing of it."""
        import torch

        from asrlife.recipe.domain.make import make
        from asrlife.recipe.domain.report import report_of

        torch.set_num_threads(self.threads)
        done = make(self._asked(place), BarWatch(place.bar, self.name))
        found = done.to_json()
        if self.picture is not None:
            found["picture"] = str(_drawn(report_of(done), place.out / self.picture))
        return found

    def _asked(self, place: Place) -> Domain:
        from asrlife.recipe.aloud import cores

        def path(name: str | None) -> Path | None:
            return None if name is None else place.path(name)

        cast = Cast(self.voices, self.dev_voices, self.test_voices).expanded()
        text = place.path(self.text) if self.text is not None else self._drafted(place)
        return Domain(
            text, place.out / check_name(self.name), self.model, cast, self.clips, self.augment, self.seed, self.sentences,
            tune=self.tune, keep=placed(self.keep, place), syn2real=path(self.syn2real), vector=self.vector, scale=self.scale,
            real=path(self.real), real_dev=path(self.real_dev), general=path(self.general), workers=self.workers or cores(),
            general_sentences=self.general_sentences,
        )  # fmt: skip

    def _drafted(self, place: Place) -> Path:
        """Sentences of the grammar with their entities, in a file that is the text."""
        from asrlife.files import atomic
        from asrlife.text.grammar import Grammar

        drafts = list(islice(Grammar.read(place.path(str(self.grammar))).drafts(self.seed, self.family), self.sentences))
        if not drafts:
            raise InputError(f"{self.grammar}: the grammar says nothing; give it sentences")
        path = place.out / f"{self.name}.jsonl"
        with atomic(path, "w") as file:
            file.writelines(json.dumps(one.to_json(), ensure_ascii=False) + "\n" for one in drafts)
        return path


def _drawn(report: Report, path: Path) -> Path:
    from asrlife.evaluate.pictures import bars_png

    return bars_png(report.panels, path, report.title)
