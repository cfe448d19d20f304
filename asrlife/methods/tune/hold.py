"""Forgetting controls at work: the penalties, and what they need to know of the base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.delta.weights import trainable
from asrlife.errors import InputError
from asrlife.files import atomic
from asrlife.methods.tune.evidence import Advance, Evidence, gathered
from asrlife.methods.tune.task import Change, Given, Item, Task
from asrlife.models.handle import Taught

Importance = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a penalty may look at: the batch, its scores under the weights of now, W - W0 by parameter name, and the step's draws."""

    given: Given
    taught: Taught
    moved: Mapping[str, Tensor]
    rng: np.random.Generator
    size: float
    change: Change | None = None


class Hold(Protocol):
    """A control at work; `share` of each batch is its own data."""

    @property
    def share(self) -> float:
        """The share of each batch that goes to old data, 0 for most."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What was wrong with utterances that it had to leave out."""

    def penalty(self, seen: Seen) -> Tensor:
        """What is added to the loss, a scalar with gradient."""


@dataclass(frozen=True, eq=False)
class Anchor:
    """strength * sum_i importance_i (W_i - W0_i)^2; importance 1 where none is given, and 0 for a parameter that it leaves out."""

    strength: float
    importance: Importance | None = None
    problems: tuple[str, ...] = ()
    share: float = 0.0

    def penalty(self, seen: Seen) -> Tensor:
        """The quadratic form."""
        total = torch.zeros((), device=seen.taught.loss.device)
        for name, change in seen.moved.items():
            if self.importance is None:
                total = total + change.square().sum()
            elif name in self.importance:
                total = total + (self.importance[name].to(change.device) * change.square()).sum()
        return self.strength * total


@dataclass(frozen=True, eq=False)
class Teacher:
    """Distillation from the frozen base on the batch at hand."""

    task: Task
    strength: float
    temperature: float
    problems: tuple[str, ...] = ()
    share: float = 0.0

    def penalty(self, seen: Seen) -> Tensor:
        """strength * T^2 * mean over steps of KL."""
        with torch.no_grad():
            target = self.task.taught(seen.given).logits
        return self.strength * distillation(target, seen.taught.logits, self.temperature)


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Old utterances in every batch."""

    task: Task
    evidence: Evidence
    share: float
    problems: tuple[str, ...] = ()

    def penalty(self, seen: Seen) -> Tensor:
        """share * the loss of a batch of old ones, drawn anew, of `share` of the size of a batch; at least one of them."""
        items = list(self._drawn(seen.rng, self.share * seen.size))
        return self.share * self.task.taught(self.task.given(items, seen.change, seen.rng), hide=True).loss

    def _drawn(self, rng: np.random.Generator, most: float) -> Iterator[Item]:
        longest, count = 0.0, 0
        for place in rng.permutation(len(self.evidence.items)):
            item = self.evidence.items[int(place)]
            longest = max(longest, item.size)
            if count and (count + 1) * longest > most:
                return
            count += 1
            yield item


def distillation(target: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """T^2 * mean over steps of KL(softmax(target / T) || softmax(logits / T)) for logits (steps, classes)."""
    wanted, found = (scores.float().div(temperature).log_softmax(-1) for scores in (target, logits))
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def importance(
    task: Task,
    names: Sequence[str],
    data: tuple[Corpus, int],
    of: Callable[[Taught], Tensor],
    each: Callable[[Tensor], Tensor],
    advance: Advance,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The mean over utterances of `each`(d `of`(one utterance) / dW), by parameter name, and what was wrong with those left out.

    `data` is a corpus and how many of its first utterances are looked at. The model is as it was afterwards. Raises
    InputError where no utterance can be used.
    """
    module = task.model.module
    with trainable(module, names) as flat:
        module.eval()
        worded = replace(data[0], utterances=tuple(_worded(task, utterance) for utterance in data[0].utterances[: data[1]]))
        evidence, total = gathered(task, worded, "what is to be kept"), torch.zeros_like(flat.values)
        for item in evidence.items:
            flat.zero()
            of(task.taught(task.given([item]))).backward()
            total += each(flat.gradient) / len(evidence.items)
            advance()
        return {name: part.clone() for name, part in flat.named(total).items()}, evidence.problems


def _worded(task: Task, utterance: Utterance) -> Utterance:
    if (utterance.text or "").strip() or task.unit != "s":
        return utterance
    return replace(utterance, text=task.model.transcribe([utterance.waveform(task.model.rate)])[0].text)


def together(earlier: Importance, found: Importance, gamma: float) -> dict[str, Tensor]:
    """gamma * earlier + found; raises InputError where a parameter has another shape."""
    for name, tensor in earlier.items():
        if name in found and found[name].shape != tensor.shape:
            raise InputError(f"earlier importance of {name!r} has shape {tuple(tensor.shape)}, the model {tuple(found[name].shape)}")
    old = {name: gamma * tensor for name, tensor in earlier.items()}
    return old | {name: old[name].to(tensor.device) + tensor if name in old else tensor for name, tensor in found.items()}


def write_importance(found: Importance, path: Path) -> None:
    """Keep importances by parameter name as safetensors, for `earlier` of a later run."""
    from safetensors.torch import save

    with atomic(path) as file:
        file.write(save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}))


def likelihood(taught: Taught) -> Tensor:
    """log p of the text, per label."""
    return -taught.loss


def sensitivity(taught: Taught) -> Tensor:
    """||f||^2: squares of the logits summed over the classes, mean over the steps."""
    return taught.logits.square().sum(-1).mean()
