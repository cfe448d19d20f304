"""Forgetting controls: what holds a model to what it knew, alike for CTC, Whisper and language models, and combined freely.

Each is a frozen dataclass; `prepare` looks at the base once, and what it returns adds a penalty to the loss of every batch. Penalties on
weights see W - W0 whatever moves them, so that they hold low-rank factors as they hold whole matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from asrlife.data.corpus import Corpus
from asrlife.errors import InputError
from asrlife.methods.settings import Count, NotNegative, Positive, Share, check
from asrlife.methods.tune.evidence import Advance, gathered
from asrlife.methods.tune.hold import (
    Anchor,
    Hold,
    Importance,
    Rehearsal,
    Teacher,
    importance,
    likelihood,
    sensitivity,
    together,
    write_importance,
)
from asrlife.methods.tune.task import Task

DATA = ("data", "earlier", "name")
"""Fields that are no settings."""


class Keep(Protocol):
    """A control with its settings."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""

    def prepare(self, task: Task, names: Sequence[str], advance: Advance = lambda: None) -> Hold:
        """Look at the base, of which the parameters `names` are about to move."""

    def told(self) -> dict[str, Any]:
        """For the card."""


@dataclass(frozen=True)
class L2SP:
    """L2-SP (arXiv 1802.01483): strength / 2 * ||W - W0||^2, weight decay towards the starting point instead of towards 0.

    The paper adds beta / 2 ||W||^2 for the weights of a new head; a tuned recogniser has none. Its alpha is searched for each task.
    """

    strength: NotNegative = 0.01
    name: str = field(default="l2sp", init=False, repr=False)

    def __post_init__(self) -> None:
        check(self, but=DATA)

    def prepare(self, task: Task, names: Sequence[str], advance: Advance = lambda: None) -> Anchor:
        """Nothing is to be looked at."""
        return Anchor(self.strength / 2)

    def told(self) -> dict[str, Any]:
        """For the card."""
        return {"name": self.name, "strength": self.strength}


@dataclass(frozen=True)
class EWC:
    """Elastic weight consolidation (arXiv 1612.00796, equation 3): strength / 2 * sum_i F_i (W_i - W0_i)^2.

    F is the diagonal of the empirical Fisher information: the mean over the utterances n of `data` (the first `most`) of the squares of
    d log p(text_n | sound_n) / dW, one backward for each, where log p is taken per label, as is the loss that is tuned. An utterance
    without text has the base's own words. `earlier` and `gamma`: online EWC (arXiv 1805.06370), F <- gamma * F_earlier + F, anchored at the
    weights of now; `save` is a file for the next time. The papers search the strength for each task;
    10,000 is what makes the penalty weigh like the loss where embedded:ctc-tts has learnt 60 commands.
    """

    data: Corpus
    strength: NotNegative = 10_000.0
    most: Count = 200
    gamma: Share = 1.0
    earlier: Importance | None = None
    save: Path | None = None
    name: str = field(default="ewc", init=False, repr=False)

    def __post_init__(self) -> None:
        check(self, but=DATA)

    def prepare(self, task: Task, names: Sequence[str], advance: Advance = lambda: None) -> Anchor:
        """Measure F on the base."""
        found, problems = importance(task, names, (self.data, self.most), likelihood, torch.square, advance)
        found = together(self.earlier or {}, found, self.gamma)
        if self.save is not None:
            write_importance(found, self.save)
        return Anchor(self.strength / 2, found, problems)

    def told(self) -> dict[str, Any]:
        """For the card."""
        figures = {"strength": self.strength, "most": self.most, "gamma": self.gamma, "earlier": self.earlier is not None}
        return {"name": self.name, "data": str(self.data.source), **figures}


@dataclass(frozen=True)
class MAS:
    """Memory aware synapses (arXiv 1711.09601): strength * sum_i Omega_i (W_i - W0_i)^2.

    Omega_i is the mean over the utterances of `data` of |d ||f(x)||^2 / dW_i|, where f are the logits, and ||f||^2 their squares summed
    over the classes, mean over frames or tokens. No text is right or wrong in it: those of a decoder only say along which tokens.
    The paper uses strength 1.
    """

    data: Corpus
    strength: NotNegative = 1.0
    most: Count = 200
    gamma: Share = 1.0
    earlier: Importance | None = None
    save: Path | None = None
    name: str = field(default="mas", init=False, repr=False)

    def __post_init__(self) -> None:
        check(self, but=DATA)

    def prepare(self, task: Task, names: Sequence[str], advance: Advance = lambda: None) -> Anchor:
        """Measure Omega on the base."""
        found, problems = importance(task, names, (self.data, self.most), sensitivity, torch.abs, advance)
        found = together(self.earlier or {}, found, self.gamma)
        if self.save is not None:
            write_importance(found, self.save)
        return Anchor(self.strength, found, problems)

    def told(self) -> dict[str, Any]:
        """For the card."""
        return {"name": self.name, "data": str(self.data.source), "strength": self.strength, "most": self.most, "gamma": self.gamma}


@dataclass(frozen=True)
class Replay:
    """Rehearsal: `share` of each batch is drawn from `data`, the rest is new, and the losses weigh as the shares do.

    5 to 20 % is what the literature on continual learning calls enough; 0.2 is the default.
    """

    data: Corpus
    share: Share = 0.2
    name: str = field(default="replay", init=False, repr=False)

    def __post_init__(self) -> None:
        check(self, but=DATA)
        if self.share >= 1:
            raise InputError(f"replay: share: {self.share:g} leaves nothing of a batch for what is new; give less than 1")

    def prepare(self, task: Task, names: Sequence[str], advance: Advance = lambda: None) -> Rehearsal:
        """Read the old data."""
        evidence = gathered(task, self.data, "replay", advance)
        return Rehearsal(task, evidence, self.share, evidence.problems)

    def told(self) -> dict[str, Any]:
        """For the card."""
        return {"name": self.name, "data": str(self.data.source), "share": self.share}


@dataclass(frozen=True)
class LwF:
    """Learning without forgetting (arXiv 1606.09282): strength * T^2 * KL(base at temperature T || tuned at T).

    Mean over the valid steps of the new data itself: frames of a CTC network, teacher-forced tokens of Whisper and language models. The
    base is frozen, hears what the tuned network hears, and SpecAugment hides nothing from it. T^2 keeps gradients at their size
    (arXiv 1503.02531). The paper's T is 2 and its strength 1.
    """

    strength: NotNegative = 1.0
    temperature: Positive = 2.0
    name: str = field(default="lwf", init=False, repr=False)

    def __post_init__(self) -> None:
        check(self, but=DATA)

    def prepare(self, task: Task, names: Sequence[str], advance: Advance = lambda: None) -> Teacher:
        """A second network over the memory of the base's own weights, which tuning leaves where they are."""
        twin = task.model.twin()
        twin.module.eval().requires_grad_(False)
        return Teacher(task.of(twin), self.strength, self.temperature)

    def told(self) -> dict[str, Any]:
        """For the card."""
        return {"name": self.name, "strength": self.strength, "temperature": self.temperature}


KEEPS: Mapping[str, type[Any]] = {"l2sp": L2SP, "ewc": EWC, "mas": MAS, "replay": Replay, "lwf": LwF}
"""Every control by its name."""
