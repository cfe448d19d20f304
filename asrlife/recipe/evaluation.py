"""The step "evaluate": methods over a manifest under a condition, as `asrlife evaluate` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from asrlife.data.condition import NOISES, ROOMS, Condition
from asrlife.errors import InputError
from asrlife.recipe.registry import Place, Step

if TYPE_CHECKING:
    from asrlife.data.corpus import Corpus
    from asrlife.evaluate.evaluation import Evaluation
    from asrlife.methods.online import Method
    from asrlife.models.handle import Recogniser


class Evaluate(Step):
    """Score `adapt` methods on `manifest` with `noise` (a path or a made one) at `snr` dB in `room`; `settings` are "key=value".

    With a `delta` file each method runs on the model as it is, and with its weights moved by `scale` times the delta.
    """

    kind: Literal["evaluate"]
    manifest: str
    model: str = "embedded:ctc"
    adapt: tuple[str, ...] = Field(default=("none",), min_length=1)
    settings: tuple[str, ...] = ()
    noise: str | None = None
    snr: float | None = None
    room: str | None = None
    split: str | None = None
    limit: PositiveInt | None = None
    seed: NonNegativeInt = 0
    delta: str | None = None
    scale: float = 1.0
    report: str | None = "report"

    def run(self, place: Place) -> Mapping[str, Any]:
        """Evaluate and write report.json and report.html into out:REPORT."""
        condition = condition_of(place, self.noise, self.snr, self.room, self.seed)
        corpus = corpus_of(place.path(self.manifest), self.split, self.limit)
        delta = None if self.delta is None else place.path(self.delta)
        evaluation = evaluate(self.model, corpus, self.adapt, self.settings, condition, place.show, delta, self.scale)
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


def condition_of(place: Place, noise: str | None, snr: float | None, room: str | None, seed: int) -> Condition:
    """A condition whose noise and room are made ones or lie where `place` says."""

    def found(name: str | None, made: Sequence[str]) -> str | None:
        return name if name is None or name in made else str(place.path(name))

    return Condition(found(noise, NOISES), snr, seed, found(room, ROOMS))


def evaluate(
    model: str, corpus: Corpus, adapt: Sequence[str], settings: Sequence[str], condition: Condition, progress: bool = False,
    delta: Path | None = None, scale: float = 1.0,
) -> Evaluation:  # fmt: skip
    """Load the model by name, make the methods with their settings, and score them.

    With a delta file each method is scored once more under `scale` times the delta, called NAME+delta, and "none" simply "delta"; both on
    the same utterances.
    """
    from asrlife.evaluate.run import evaluate as run

    recogniser, methods = ready(model, adapt, settings)
    if delta is None:
        return run(recogniser, corpus, methods, condition, progress)
    from asrlife.delta import file
    from asrlife.delta.weights import applied

    again = {"delta" if label == "none" else f"{label}+delta": method for label, method in methods.items()}
    if both := again.keys() & methods.keys():
        raise InputError(f"a method is called {min(both)!r}, as is one under the delta; call it something else")
    with applied(recogniser.module, file.load(delta), scale):  # first, as a delta of another model is to be told at once
        moved = run(recogniser, corpus, again, condition, progress)
    found = run(recogniser, corpus, methods, condition, progress)
    return replace(found, runs=found.runs + moved.runs, problems=tuple(dict.fromkeys(found.problems + moved.problems)))


def ready(model: str, adapt: Sequence[str], settings: Sequence[str]) -> tuple[Recogniser, dict[str, Method]]:
    """The model by its name, and the methods for it by their labels; a wrong setting does not wait for the model."""
    from asrlife.models.load import load
    from asrlife.recipe.adaptation import methods, settings_of

    settings_of(adapt, settings)
    recogniser = load(model)
    return recogniser, methods(adapt, settings, recogniser)
