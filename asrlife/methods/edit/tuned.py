"""Editors that descend on a few weights: the baselines that every closed form has to beat.

Their settings were chosen for one edit at a time, on the facts of the closed world that are there for choosing (`edit_dev`), by the
harmonic mean of reliability, generality and locality: in the first block hops follow, which they do not in the upper ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from asrlife.data.edit import EditRequest
from asrlife.delta.delta import Change, Dense, LowRank
from asrlife.delta.weights import low_rank, trainable
from asrlife.errors import InputError
from asrlife.methods.edit.editors import Bench, Editor
from asrlife.methods.edit.sites import linears
from asrlife.methods.edit.targets import descend


@dataclass(frozen=True)
class _Tuned(Editor):
    """Adam at `rate` on the cross-entropy of the targets, at most `steps` passes over them, until each is below `enough` nats a token."""

    steps: int = 25
    rate: float = 1e-3
    enough: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rate <= 0:
            raise InputError(f"{self.name}: {self.steps} steps at rate {self.rate} teach nothing: give at least one, at a rate above 0")


@dataclass(frozen=True)
class FineTuneTarget(_Tuned):
    """FT-M: fine-tuning of one layer's down-projection on all tokens of the target in their places, without a bound on the change, which
    is dense (arXiv 2401.01286). `rate` is a share of the root mean square of the weight, so that it fits networks of any scale."""

    name = "ft_m"
    depth: float = 0.0
    rate: float = 0.025

    def changes(self, bench: Bench, requests: Sequence[EditRequest]) -> Mapping[str, Change]:
        """One dense change for all requests together."""
        names, bound = [site.name for site in bench.sites], self.bound
        with torch.inference_mode(False), torch.enable_grad(), trainable(bench.model.module, names) as flat:
            start, scale = flat.values.clone(), float(flat.values.square().mean().sqrt())

            @torch.no_grad()
            def hold() -> None:
                flat.values.clamp_(start - bound * scale, start + bound * scale)

            descend(bench.model, requests, flat.parameters, self.steps, self.rate * scale, self.enough, hold)
            return {name: Dense(part.clone()) for name, part in flat.named(flat.values - start).items()}

    @property
    def bound(self) -> float:
        """How far a weight may move, in root mean squares of all."""
        return math.inf


@dataclass(frozen=True)
class FineTuneClamped(FineTuneTarget):
    """FT-L: the same with no weight moved by more than `clamp` times their root mean square (arXiv 2012.00363; 2202.05262, table 4).

    Targets are scored token by token in their places; some code scores them all at the prompt's last token, which spells no longer word.
    """

    name = "ft_l"
    steps: int = 100
    rate: float = 0.03
    clamp: float = 0.35

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clamp <= 0:
            raise InputError(f"{self.name}: a clamp of {self.clamp} lets nothing move: give a number above 0, or use ft_m")

    @property
    def bound(self) -> float:
        """The clamp."""
        return self.clamp


@dataclass(frozen=True)
class Lora(_Tuned):
    """LoRA (arXiv 2106.09685): factors of `rank` on every linear map of the chosen blocks, attention and feed-forward."""

    name = "lora"
    depth: float = 0.0
    steps: int = 50
    rank: int = 4

    def changes(self, bench: Bench, requests: Sequence[EditRequest]) -> Mapping[str, Change]:
        """One low-rank change of each weight for all requests together."""
        network = bench.model.module
        names = [name for site in bench.sites for name in linears(network, site.block)]
        with torch.inference_mode(False), torch.enable_grad(), low_rank(network, names, self.rank, bench.seed) as factors:
            moving = [part for change in factors.values() for part in (change.up, change.down)]
            descend(bench.model, requests, moving, self.steps, self.rate, self.enough)
            return {name: LowRank(change.up.detach().clone(), change.down.detach().clone()) for name, change in factors.items()}
