"""Pretext: learn to tell which transform was applied to this utterance, then recognise it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from asrlife.errors import InputError
from asrlife.methods.online.descent import Heard
from asrlife.methods.online.practice import Exercise, Practice
from asrlife.methods.settings import CountOrZero, NotNegative, Rate
from asrlife.models.handle import Recogniser
from asrlife.models.pretext import Head


@dataclass(frozen=True)
class Pretext(Practice):
    """Test-time training on a self-supervised task (arXiv 1909.13231): the head stays, the encoder moves.

    The k copies of this utterance, one for each transform that the model's head knows, are classified; `steps` of Adam on the mean
    cross-entropy (nats) move the weights, unless it is `sure` nats or less to begin with. `continual`: they and their moments go on to
    the next utterance.
    """

    name: ClassVar[str] = "pretext"
    lr: Rate = 1e-4
    steps: CountOrZero = 5
    sure: NotNegative = 0.0
    continual: bool = False

    @property
    def forgetful(self) -> bool:
        """Unless it is continual."""
        return not self.continual

    def ready(self, model: Recogniser) -> None:
        """Raise InputError for a model without a head."""
        _head(model)

    def exercise(self, model: Recogniser, heard: Heard, names: Sequence[str]) -> Exercise | str:
        """The head's cross-entropy on the copies."""
        head = _head(model)
        batch = model.cached(model.prepare(head.copies(heard.waveform)), names)
        return Exercise(lambda weights: head.loss(model.states(batch, head.layer, weights)), enough=self.sure)


def _head(model: Recogniser) -> Head:
    if model.pretext is None:
        raise InputError(f"{model.name} came without a pretext head: use embedded:ctc, train one with the recipe embedded, or use suta")
    return model.pretext
