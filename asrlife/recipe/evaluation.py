"""The step "evaluate": methods over a manifest under a condition, as `asrlife evaluate` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from asrlife.recipe.registry import Place, Step

if TYPE_CHECKING:
    from asrlife.data.condition import Condition
    from asrlife.data.corpus import Corpus
    from asrlife.evaluate.evaluation import Evaluation

_MADE = ("white", "pink", "babble")


class Evaluate(Step):
    """Score `adapt` methods on `manifest`, with `noise` (a path, white, pink or babble) at `snr` dB; `settings` are "key=value"."""

    kind: Literal["evaluate"]
    manifest: str
    model: str = "embedded:ctc"
    adapt: tuple[str, ...] = Field(default=("none",), min_length=1)
    settings: tuple[str, ...] = ()
    noise: str | None = None
    snr: float | None = None
    split: str | None = None
    limit: PositiveInt | None = None
    seed: int = 0
    report: str | None = "report"

    def run(self, place: Place) -> Mapping[str, Any]:
        """Evaluate and write report.json and report.html into out:REPORT."""
        from asrlife.data.condition import Condition

        noise = self.noise if self.noise in (None, *_MADE) else str(place.path(str(self.noise)))
        corpus = corpus_of(place.path(self.manifest), self.split, self.limit)
        evaluation = evaluate(self.model, corpus, self.adapt, self.settings, Condition(noise, self.snr, self.seed), place.show)
        found = evaluation.to_json()
        if self.report is not None:
            found["report"] = str(evaluation.report().write(place.out / self.report))
        return found


def corpus_of(manifest: Path, split: str | None, limit: int | None) -> Corpus:
    """The part of a manifest that is to be scored; rows without audio are in `problems`."""
    from asrlife.data.corpus import Corpus

    corpus = Corpus.read(manifest, check=True)
    corpus = corpus if split is None else corpus.split(split)
    return corpus if limit is None else corpus.limit(limit)


def evaluate(
    model: str, corpus: Corpus, adapt: Sequence[str], settings: Sequence[str], condition: Condition, progress: bool = False
) -> Evaluation:
    """Load the model by name, make the methods with their settings, and score them."""
    from asrlife.evaluate.run import evaluate as run
    from asrlife.models.load import load
    from asrlife.recipe.adaptation import methods, settings_of

    settings_of(adapt, settings)  # a wrong key should not wait for the model
    recogniser = load(model)
    return run(recogniser, corpus, methods(adapt, settings, recogniser), condition, progress)
