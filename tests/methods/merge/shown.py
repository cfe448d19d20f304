"""Tiny models with something to hear or read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.methods.merge.exhibits import Exhibits, of_texts, of_utterances
from asrlife.methods.merge.places import handle
from asrlife.methods.merge.subject import Subject, subject
from asrlife.models.text import TextModel

TEXTS = ["the cat sat", "a dog ran away", "it rains"]


def utterances(count: int = 3, texts: Sequence[str] | None = None, seed: int = 0) -> list[Utterance]:
    """Coloured noise of 0.4 s and more, each with a text where there are any."""
    generator = np.random.default_rng(seed)
    found = []
    for index in range(count):
        samples = generator.standard_normal(6400 + 1600 * index).astype(np.float32)
        sound = Waveform(np.convolve(samples, np.ones(3 + index, np.float32) / 3, "same").astype(np.float32) * 0.1, 16_000)
        found.append(Utterance(str(index), sound, None if texts is None else texts[index % len(texts)]))
    return found


def shown(folder: Path, count: int = 3, texts: Sequence[str] | None = TEXTS, labels: str = "auto") -> Subject:
    """A model of a folder and what it takes."""
    model = handle(str(folder))
    found = of_texts(TEXTS[:count]) if isinstance(model, TextModel) else of_utterances(utterances(count, texts))
    return subject(model, found, labels)  # type: ignore[arg-type]


class Toy(Subject):
    """A linear layer y = W x + b with the loss |y - t|^2 / 2 and the entropy of its softmax, on given inputs."""

    labels = "texts"

    def __init__(self, inputs: Tensor, wanted: Tensor, layer: nn.Linear) -> None:
        super().__init__(Exhibits((), ("x",) * len(inputs), {}))
        self.inputs, self.wanted, self.name = inputs, wanted, "toy"
        self.module = nn.Sequential(layer)

    def beside(self, model: object) -> Subject:
        raise NotImplementedError

    @torch.no_grad()
    def show(self, index: int) -> None:
        self.module(self.inputs[index][None])

    def sound(self, name: str, rows: Tensor, index: int) -> Tensor:
        return rows

    def _scores(self, indexes: Sequence[int], weights: Mapping[str, Tensor] | None) -> Tensor:
        own = {f"0.{name}": tensor[None] for name, tensor in self.module[0].named_parameters()} if weights is None else weights
        return self.inputs[list(indexes)] @ own["0.weight"][0].T + own["0.bias"][0]

    def regret(self, index: int, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        return (self._scores([index], weights) - self.wanted[index]).square().sum() / 2

    def unsure(self, indexes: Sequence[int], weights: Mapping[str, Tensor] | None = None, spoken: bool = False) -> Tensor:
        logs = self._scores(indexes, weights).log_softmax(-1)
        return -(logs.exp() * logs).sum(-1).mean()

    @property
    def head(self) -> tuple[str, nn.Module]:
        return "0", self.module[0]
