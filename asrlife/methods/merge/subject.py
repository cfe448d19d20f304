"""A model and what it is shown, whatever kind it is: recognisers hear utterances, language models read texts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from asrlife.errors import InputError
from asrlife.methods.merge.exhibits import Exhibits
from asrlife.models.rowwise import weighted
from asrlife.models.text import TextModel

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.models.handle import Batch, Recogniser

Labels = Literal["auto", "texts", "own"]
_KEPT, _READY = 512, 32  # waveforms, and utterances as the model takes them, that stay in memory


class Subject(ABC):
    """A model with its examples, of which `len` tells the number.

    `labels` says what `regret` is measured against: "texts" that were given, or the model's "own" greedy output.
    """

    module: nn.Module
    name: str
    labels: Literal["texts", "own"]

    def __init__(self, exhibits: Exhibits) -> None:
        self.exhibits = exhibits

    def __len__(self) -> int:
        return len(self.exhibits)

    @abstractmethod
    def beside(self, model: Recogniser | TextModel) -> Subject:
        """Another model, of the same kind, shown the same; a decoder is led along this model's own output. InputError for another kind."""

    @abstractmethod
    def show(self, index: int) -> None:
        """Run the network's own modules on one example, so that hooks on them see everything; no gradient."""

    @abstractmethod
    def sound(self, name: str, rows: Tensor, index: int) -> Tensor:
        """Of what `show` gives the module `name` or gets from it, (..., steps, width), the steps that are no padding."""

    @abstractmethod
    def regret(self, index: int, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The supervised loss per label of one example, a scalar with gradient, against the `labels`."""

    @abstractmethod
    def unsure(self, indexes: Sequence[int], weights: Mapping[str, Tensor] | None = None, spoken: bool = False) -> Tensor:
        """The mean over examples of the mean entropy in nats of frames or tokens, with gradient.

        `spoken`: of CTC frames only those whose best class is not the blank.
        """

    @property
    @abstractmethod
    def head(self) -> tuple[str, nn.Module]:
        """Name and module of the layer that makes scores of the last states; InputError where there is none."""


def subject(model: Recogniser | TextModel, exhibits: Exhibits, labels: Labels = "auto") -> Subject:
    """A model with what it is shown; InputError where the model cannot take it, or where texts are asked for and not all given.

    `labels` "auto": the texts where every example has one, else the model's own output.
    """
    if not len(exhibits):
        raise InputError("there is nothing to show to the model: give at least one utterance or text")
    if isinstance(model, TextModel):
        if exhibits.texts is None:
            raise InputError(f"{model.name} reads texts: give a .txt file, or a manifest whose rows all have a text")
        return Reader(model, exhibits)
    if not exhibits.utterances:
        raise InputError(f"{model.name} hears audio: give a JSONL manifest of utterances, not texts alone")
    if labels == "texts" and exhibits.texts is None:
        raise InputError("not every utterance has a text: give texts, or take the model's own output as labels")
    return Listener(model, exhibits, "own" if labels == "own" or exhibits.texts is None else "texts")


class Listener(Subject):
    """A recogniser and utterances."""

    def __init__(self, model: Recogniser, exhibits: Exhibits, labels: Literal["texts", "own"], leader: Listener | None = None) -> None:
        super().__init__(exhibits)
        self.model, self.module, self.name, self.labels = model, model.module, model.name, labels
        self._leader = leader
        self._alone: Callable[[int], Batch] = lru_cache(_READY)(lambda index: self.model.prepare([self._waveform(index)]))
        # its search must not set off hooks on the network, nor follow what is put into it
        self._searcher = model.twin() if "path" in model.capabilities and leader is None else model
        self._paths: dict[int, Tensor | None] = {}
        self._heard: dict[int, str] = {}
        self._waveform: Callable[[int], Waveform] = leader._waveform if leader else lru_cache(_KEPT)(self._read)

    def beside(self, model: Recogniser | TextModel) -> Listener:
        """Another recogniser on the same utterances."""
        if isinstance(model, TextModel) or model.capabilities != self.model.capabilities:
            raise InputError(f"{model.name} is another kind of model than {self.name}: give models of one architecture")
        return Listener(model, self.exhibits, self.labels, self)

    @torch.no_grad()
    def show(self, index: int) -> None:
        """One utterance, without padding where the network allows it."""
        self.model.traced(self._batch([index]), self.path(index))

    def sound(self, name: str, rows: Tensor, index: int) -> Tensor:
        """The steps that are sound."""
        share = self.model.covered(name, self._batch([index]))
        return rows if share >= 1 else rows[..., : math.ceil(rows.shape[-2] * share), :]

    def path(self, index: int) -> Tensor | None:
        """The greedy tokens (1, steps) that a decoder is led along, the leader's where there is one; None for CTC."""
        if self._leader is not None:
            return self._leader.path(index)
        if index not in self._paths:
            found = self._searcher.path(self._batch([index]))
            self._paths[index] = None if found is None else found.clone()  # autograd takes no tensor of inference mode
        return self._paths[index]

    def regret(self, index: int, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """CTC loss, or cross-entropy of tokens, per label."""
        batch = self._batch([index])
        return self.model.loss(batch, [self._label(index, batch)], weights)

    def unsure(self, indexes: Sequence[int], weights: Mapping[str, Tensor] | None = None, spoken: bool = False) -> Tensor:
        """Over CTC frames, or over the tokens of the greedy output under the same weights."""
        batch = self._batch(indexes)
        path = self.model.path(batch, weights)
        found = self.model.emissions(batch, None if path is None else path.clone(), weights)
        counted = torch.arange(found.logits.shape[1], device=found.logits.device) < found.lengths.to(found.logits.device)[:, None]
        if spoken and self.model.blank is not None:
            counted = counted & (found.logits.argmax(-1) != self.model.blank)
        return _mean(entropies(found.logits), counted)

    @property
    def head(self) -> tuple[str, nn.Module]:
        """The layer in front of which the last states are."""
        return head_of(self.module, self.name)

    def _label(self, index: int, batch: Batch) -> str:
        if self.labels == "texts" and self.exhibits.texts is not None:
            return self.exhibits.texts[index]
        if index not in self._heard:
            self._heard[index] = self.model.decode(batch)[0].text
        return self._heard[index]

    def _batch(self, indexes: Sequence[int]) -> Batch:
        if len(indexes) == 1:
            return self._alone(indexes[0])
        return self.model.prepare([self._waveform(index) for index in indexes])

    def _read(self, index: int) -> Waveform:
        return self.exhibits.utterances[index].waveform(self.model.rate)


class Reader(Subject):
    """A causal language model and texts."""

    labels = "texts"

    def __init__(self, model: TextModel, exhibits: Exhibits) -> None:
        super().__init__(exhibits)
        self.model, self.module, self.name = model, model.module, model.name

    def beside(self, model: Recogniser | TextModel) -> Reader:
        """Another language model on the same texts."""
        if not isinstance(model, TextModel):
            raise InputError(f"{model.name} is no language model as {self.name} is: give models of one architecture")
        return Reader(model, self.exhibits)

    @torch.no_grad()
    def show(self, index: int) -> None:
        """One text and its end."""
        self.module(self._ids(index)[:, :-1])

    def sound(self, name: str, rows: Tensor, index: int) -> Tensor:
        """Nothing is padded."""
        return rows

    def regret(self, index: int, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Mean negative log-likelihood of the tokens behind the first, the end included."""
        ids = self._ids(index)
        return nn.functional.cross_entropy(self._scores(ids, weights)[0], ids[0, 1:])

    def unsure(self, indexes: Sequence[int], weights: Mapping[str, Tensor] | None = None, spoken: bool = False) -> Tensor:
        """Over the tokens of the texts given."""
        each = [entropies(self._scores(self._ids(index), weights)).mean() for index in indexes]
        return torch.stack(each).mean()

    @property
    def head(self) -> tuple[str, nn.Module]:
        """The layer that makes scores."""
        return head_of(self.module, self.name)

    def _scores(self, ids: Tensor, weights: Mapping[str, Tensor] | None) -> Tensor:
        with weighted(self.module, weights):
            scores: Tensor = self.module(ids[:, :-1]).logits.float()
        return scores

    def _ids(self, index: int) -> Tensor:
        assert self.exhibits.texts is not None
        found = self.model.spelt("", self.exhibits.texts[index])[0]
        return torch.tensor([found], device=self.model.device)


def entropies(logits: Tensor) -> Tensor:
    """H = -sum_c p_c log p_c in nats of p = softmax(logits), over the last dimension."""
    logs = torch.log_softmax(logits, -1)
    return -(logs.exp() * logs).sum(-1)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean over rows of the means over `counted`; a row without any counts 0."""
    rows = torch.where(counted, values, torch.zeros_like(values)).sum(1) / counted.sum(1).clamp_min(1)
    return rows.mean()


def head_of(module: Any, name: str) -> tuple[str, nn.Module]:
    """Name and module of the layer that makes scores; InputError where none is known."""
    found = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    found = getattr(module, "lm_head", None) if found is None else found
    place = next((path for path, part in module.named_modules() if part is found), None) if isinstance(found, nn.Module) else None
    if place is None or not isinstance(found, nn.Module):
        raise InputError(f"{name} ({type(module).__name__}) has no layer of scores that is known: give another model")
    return place, found
