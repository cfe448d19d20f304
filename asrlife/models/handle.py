"""What every recogniser looks like to the rest of the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from asrlife.errors import InputError
from asrlife.models.groups import groups, select

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.text.hypothesis import Hypothesis


@dataclass(frozen=True, eq=False)
class Batch:
    """Audio as a model takes it: `inputs` (batch, samples) or (batch, bands, frames), `mask` (batch, samples), `lengths` in samples."""

    inputs: Tensor
    mask: Tensor | None
    lengths: Tensor


@dataclass(frozen=True, eq=False)
class Emissions:
    """Scores before the softmax: `logits` (batch, steps, classes) float32 and the number of valid steps, `lengths` (batch,)."""

    logits: Tensor
    lengths: Tensor


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
        """Of "emissions", "path", "loss", "generate", "timestamps"."""

    @property
    def blank(self) -> int | None:
        """The CTC blank class; None where there is none."""

    @property
    def card(self) -> Mapping[str, Any]:
        """What card.json beside the weights says; empty without one."""

    def fingerprint(self) -> str:
        """SHA-256 over parameters and buffers."""

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Names of parameters by what they belong to: "norms", "features", "attention", "mlp", "biases", "all"."""

    def select(self, scope: str) -> tuple[str, ...]:
        """Unique names of parameters of groups joined by "+", in the order of the module; raises InputError for an unknown group."""

    def prepare(self, waveforms: Sequence[Waveform]) -> Batch:
        """Resample, normalise and pad; raises InputError for no audio and for audio longer than the model's window."""

    def path(self, batch: Batch) -> Tensor | None:
        """The greedy tokens (batch, steps) that emissions follow; None where emissions need none."""

    def emissions(self, batch: Batch, path: Tensor | None = None) -> Emissions:
        """Differentiable scores of every step; along `path` for sequence-to-sequence models."""

    def decode(self, batch: Batch, emissions: Emissions | None = None, beam: int = 1, lm: str | None = None) -> list[Hypothesis]:
        """One hypothesis for each row; `beam` 1 is greedy."""

    def transcribe(self, waveforms: Sequence[Waveform], beam: int = 1, batch_size: int = 8, **options: Any) -> list[Hypothesis]:
        """One hypothesis for each waveform, whatever its length, in the order given."""

    def loss(self, batch: Batch, texts: Sequence[str]) -> Tensor:
        """Supervised loss per label, a scalar with gradient."""


@dataclass(frozen=True, eq=False)
class Handle:
    """What all adapters share."""

    name: str
    module: nn.Module
    rate: int
    card: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

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


def checked_options(options: Mapping[str, Any], known: Sequence[str]) -> Mapping[str, Any]:
    """Raise InputError for an option of `transcribe` that the model does not have."""
    for option in options:
        if option not in known:
            raise InputError(f"unknown option {option!r} for this model: it knows {', '.join(known) or 'none'}")
    return options
