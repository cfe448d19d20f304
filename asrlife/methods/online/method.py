"""What every online method is: a start and a step of a fold over utterances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch

from asrlife.data.utterance import Utterance
from asrlife.delta.weights import Flat, trainable
from asrlife.methods.online.state import State
from asrlife.models.handle import Recogniser
from asrlife.text.hypothesis import Hypothesis

RATE = 16_000  # Hz of the audio that a step is given


@dataclass(frozen=True)
class Event:
    """What an utterance did to the weights.

    "stepped": `steps`, `loss_before`, `loss_after`, `entropy_before`, `entropy_after` (nats), `before` (the text before any step).
    "slow_committed": `utterances`, `loss`, `count`. "reset": `reason`, `utterance`, with `deviation` where it was measured.
    "skipped": nothing was learnt, for `reason` at `stage` "fast" or "slow"; `before` where the utterance was decoded.
    """

    kind: Literal["stepped", "slow_committed", "reset", "skipped"]
    detail: Mapping[str, float | int | str] = field(default_factory=dict)


class Method(Protocol):
    """A frozen value; all that a stream learns is in the State that goes from step to step."""

    name: ClassVar[str]

    def start(self, model: Recogniser) -> State:
        """The state before the first utterance."""

    def step(self, model: Recogniser, state: State, utterance: Utterance) -> tuple[Hypothesis, State, tuple[Event, ...]]:
        """Recognise one utterance and learn from it; `state` stays as it is, and so do the weights of `model`.

        Raises InputError for audio that cannot be read or is too long for the model. One model, one step at a time.
        """


@contextmanager
def tuning(model: Recogniser, names: tuple[str, ...]) -> Iterator[Flat]:
    """The tuned weights as one vector, in evaluation mode, with gradients whatever the caller's mode; the random state is restored."""
    # some encoders draw a number for layerdrop even when they do not train
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        with trainable(model.module, names) as flat:
            model.module.eval()
            yield flat
