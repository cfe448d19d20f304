"""What every recogniser looks like to the rest of the library."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from asrlife.errors import InputError
from asrlife.models.groups import groups, select
from asrlife.models.states import States

if TYPE_CHECKING:
    from typing_extensions import Self

    from asrlife.audio.waveform import Waveform
    from asrlife.models.pretext import Head
    from asrlife.text.hypothesis import Hypothesis


Weights = Mapping[str, Tensor]  # by parameter name (rows, *shape): a row for each utterance of a batch, or one for all


@dataclass(frozen=True, eq=False)
class Batch:
    """Audio as a model takes it: `inputs` (batch, samples) or (batch, bands, frames), `mask` (batch, samples), `lengths` in samples.

    `known` holds what the network makes of it whatever the tuned weights are, and `fixed` what the network's own weights are for them.
    """

    inputs: Tensor
    mask: Tensor | None
    lengths: Tensor
    known: Mapping[str, Tensor] = field(default_factory=dict)
    fixed: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self, chosen: Sequence[int] | Tensor) -> Batch:
        """Rows of the batch, each as often as it is named."""
        index = torch.as_tensor(chosen, device=self.inputs.device)
        mask = None if self.mask is None else self.mask[index]
        return Batch(self.inputs[index], mask, self.lengths[index], {name: value[index] for name, value in self.known.items()}, self.fixed)


@dataclass(frozen=True, eq=False)
class Emissions:
    """Scores before the softmax: `logits` (batch, steps, classes) float32 and the number of valid steps, `lengths` (batch,)."""

    logits: Tensor
    lengths: Tensor


@dataclass(frozen=True, eq=False)
class Taught:
    """One forward under the right texts: the `loss` per label, a scalar with gradient, how many `labels` the texts have, and the `logits`
    (steps, classes) float32 of all valid steps, row after row: frames of a CTC network, teacher-forced tokens of others.
    """

    loss: Tensor
    labels: int
    logits: Tensor


class Recogniser(Protocol):
    """A loaded speech recogniser; methods ask for `capabilities` and never for a class."""

    @property
    def name(self) -> str:
        """The name it was loaded by."""

    @property
    def module(self) -> nn.Module:
        """The network: float32, in evaluation mode."""

    @property
    def rate(self) -> int:
        """Sampling rate of its audio in Hz."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Of "emissions", "path", "loss", "generate", "timestamps", "alternatives" (it has a method of that name)."""

    @property
    def blank(self) -> int | None:
        """The CTC blank class; None where there is none."""

    @property
    def card(self) -> Mapping[str, Any]:
        """What card.json beside the weights says; empty without one."""

    def twin(self) -> Recogniser:
        """The same weights in a network of its own: where one computes with other weights for a while, the other never sees it."""

    def fingerprint(self) -> str:
        """SHA-256 over parameters and buffers."""

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Names of parameters by what they belong to: "norms", "features", "attention", "mlp", "biases", "all"."""

    def select(self, scope: str) -> tuple[str, ...]:
        """Unique names of parameters of groups joined by "+", in the order of the module; raises InputError for an unknown group."""

    def prepare(self, waveforms: Sequence[Waveform]) -> Batch:
        """Resample, normalise and pad; raises InputError for no audio and for audio longer than the model's window."""

    def cached(self, batch: Batch, names: Sequence[str]) -> Batch:
        """The batch with all that the network makes of it below the first of the parameters `names`, without gradient."""

    def path(self, batch: Batch, weights: Weights | None = None) -> Tensor | None:
        """The greedy tokens (batch, steps) that emissions follow; None where emissions need none."""

    def emissions(self, batch: Batch, path: Tensor | None = None, weights: Weights | None = None) -> Emissions:
        """Differentiable scores of every step; along `path` for sequence-to-sequence models; with `weights` in place of the network's."""

    def decode(
        self, batch: Batch, emissions: Emissions | None = None, beam: int = 1, lm: str | None = None, weights: Weights | None = None
    ) -> list[Hypothesis]:
        """One hypothesis for each row; `beam` 1 is greedy."""

    def transcribe(self, waveforms: Sequence[Waveform], beam: int = 1, batch_size: int = 8, **options: Any) -> list[Hypothesis]:
        """One hypothesis for each waveform, whatever its length, in the order given."""

    def loss(self, batch: Batch, texts: Sequence[str], weights: Weights | None = None) -> Tensor:
        """Supervised loss per label, a scalar with gradient."""

    def traced(self, batch: Batch, path: Tensor | None = None) -> None:
        """Run the modules themselves, along `path` where there is one, so that hooks on them see what they are given and give."""

    def covered(self, name: str, batch: Batch) -> float:
        """The share of the steps, from the first on, that are sound in what `traced` gives the module `name`: 1 where nothing is padded."""

    def taught(self, batch: Batch, texts: Sequence[str], weights: Weights | None = None) -> Taught:
        """The same loss with the scores that it was made of; raises InputError as `loss` does."""

    def fits(self, waveform: Waveform, text: str) -> None:
        """Raise InputError where the model cannot be taught the text of this sound: letters or room that it lacks."""

    @property
    def pretext(self) -> Head | None:
        """The self-supervised head that came with the weights; None without one."""

    def states(self, batch: Batch, layer: int | None = None, weights: Weights | None = None) -> States:
        """The encoder's output, or what its first `layer` layers make of the audio; raises InputError where that cannot be read."""

    def embed(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        """A vector for each utterance, (batch, width): the mean of the encoder's output over the sound."""


@dataclass(frozen=True, eq=False)
class Handle:
    """What all adapters share."""

    name: str
    module: nn.Module
    rate: int
    card: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    pretext: Head | None = field(default=None, kw_only=True)

    @abstractmethod
    def states(self, batch: Batch, layer: int | None = None, weights: Weights | None = None) -> States:
        """Hidden states of the encoder."""

    @abstractmethod
    def taught(self, batch: Batch, texts: Sequence[str], weights: Weights | None = None) -> Taught:
        """The supervised loss with the scores that it was made of."""

    def loss(self, batch: Batch, texts: Sequence[str], weights: Weights | None = None) -> Tensor:
        """Supervised loss per label, a scalar with gradient; raises InputError for a text that the model cannot spell or hold."""
        return self.taught(batch, texts, weights).loss

    def embed(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        """The mean of the encoder's output over the sound, (batch, width)."""
        return self.states(batch, None, weights).mean

    def twin(self) -> Self:
        """The same weights in a network of its own."""
        return replace(self, module=twin(self.module))

    def fingerprint(self) -> str:
        """SHA-256 over parameters and buffers."""
        from asrlife.delta.fingerprint import fingerprint

        return fingerprint(self.module)

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Names of parameters by what they belong to."""
        return groups(self.module)

    def select(self, scope: str) -> tuple[str, ...]:
        """Unique names of the groups joined by "+", in the order of the module; raises InputError for an unknown group."""
        return select(self.module, scope)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def edge(self) -> int:
        """Samples of silence that the model wants before and after an utterance (`edge_padding_s` of its card)."""
        return round(float(self.card.get("edge_padding_s", 0.0)) * self.rate)


def twin(module: nn.Module) -> nn.Module:
    """A copy of all but the weights: parameters and buffers of its own lie in the memory of those of `module`."""
    same: dict[int, Any] = {id(own): nn.Parameter(own.detach(), own.requires_grad) for own in module.parameters()}
    same |= {id(own): own.detach() for own in module.buffers()}
    return deepcopy(module, same)


def checked_options(options: Mapping[str, Any], known: Sequence[str]) -> Mapping[str, Any]:
    """Raise InputError for an option of `transcribe` that the model does not have."""
    for option in options:
        if option not in known:
            raise InputError(f"unknown option {option!r} for this model: it knows {', '.join(known) or 'none'}")
    return options
