"""What every online method is: a start and a step of a fold over utterances."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import nn

from asrlife.data.utterance import Utterance
from asrlife.methods.online.state import State
from asrlife.models.handle import Recogniser
from asrlife.text.hypothesis import Hypothesis

RATE = 16_000  # Hz of the audio that a step is given


@dataclass(frozen=True)
class Event:
    """What an utterance did to the weights.

    "stepped": `steps`, `loss_before`, `loss_after`, `entropy_before`, `entropy_after` (nats), `before` (the text before any step).
    "slow_committed": `utterances`, `loss`, `count`. "reset": `reason`, `utterance`, with `deviation` where it was measured.
    "retrieved": `entry` of the bank, `reason`, `utterance`. "skipped": nothing was learnt, for `reason` at `stage` "fast" or "slow";
    `before` where the utterance was decoded.
    """

    kind: Literal["stepped", "slow_committed", "reset", "retrieved", "skipped"]
    detail: Mapping[str, float | int | str] = field(default_factory=dict)


Step = tuple[Hypothesis, State, tuple[Event, ...]]


class Method(Protocol):
    """A frozen value; all that a stream learns is in the State that goes from step to step."""

    name: ClassVar[str]

    def start(self, model: Recogniser) -> State:
        """The state before the first utterance."""

    def step(self, model: Recogniser, state: State, utterance: Utterance) -> Step:
        """Recognise one utterance and learn from it; `state` stays as it is, and so do the weights of `model`.

        Raises InputError for audio that cannot be read or is too long for the model. One model, one step at a time.
        """

    def together(self, model: Recogniser, states: Sequence[State], utterances: Sequence[Utterance]) -> list[Step]:
        """The same for one utterance of each of several streams, in one forward and backward; no stream feels another."""


class Online:
    """A step is a batch of one."""

    def step(self, model: Recogniser, state: State, utterance: Utterance) -> Step:
        """Recognise one utterance and learn from it."""
        return self.together(model, [state], [utterance])[0]

    @abstractmethod
    def together(self, model: Recogniser, states: Sequence[State], utterances: Sequence[Utterance]) -> list[Step]:
        """The same for a batch of streams."""


@contextmanager
def held(model: Recogniser) -> Iterator[None]:
    """The network in evaluation mode, without gradients of its own, for weights that come from outside; all as before on exit.

    Gradients are on whatever the caller's mode, and the random state is restored.
    """
    modes = [(part, part.training) for part in model.module.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.module.parameters()]
    # some encoders draw a number for layerdrop even when they do not train
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        try:
            _put((part, False) for part, _ in modes)
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
        finally:
            _put(modes)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


def _put(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    for part, mode in modes:
        if part.training != mode:  # a module is slow to take an attribute, and this happens at every utterance
            part.training = mode
