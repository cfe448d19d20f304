"""The parameters of a network as tensors to differentiate by, while the network itself stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asrlife.delta.fingerprint import unique
from asrlife.delta.roles import weight_norms
from asrlife.delta.weight_norm import effective, split


@dataclass(frozen=True, eq=False)
class Leaves:
    """Every floating parameter by the name its files have, each a leaf of autograd; a weight-norm pair as the weight g v / |v| it makes.

    A tied tensor is one leaf, whose gradient is that of all its uses. Nothing is copied but weights of pairs.
    """

    tensors: Mapping[str, Tensor]
    pairs: Mapping[str, tuple[Tensor, Tensor, str, str]]
    copies: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, module: nn.Module, values: Mapping[str, Tensor] | None = None) -> Leaves:
        """The leaves of `module`, those named in `values` with the weights given there."""
        own = parameters(module)
        pairs = {weight: (own[g].detach(), own[v].detach(), g, v) for weight, (g, v) in weight_norms(own).items()}
        paired = {name for *_, gain, direction in pairs.values() for name in (gain, direction)}
        found = {name: tensor.detach() for name, tensor in own.items() if name not in paired}
        found |= {name: effective(gain, direction) for name, (gain, direction, *_) in pairs.items()}
        found |= {name: tensor for name, tensor in (values or {}).items() if name in found}
        with torch.inference_mode(False):
            leaves = {name: tensor.detach().requires_grad_(True) for name, tensor in found.items()}
        return cls(leaves, pairs, _copies(module, own))

    def weights(self) -> dict[str, Tensor]:
        """What a model takes in place of its own weights: (1, *shape) by parameter name, differentiable back to the leaves."""
        found: dict[str, Tensor] = {}
        for name, leaf in self.tensors.items():
            if name in self.pairs:
                gain, direction, gain_name, direction_name = self.pairs[name]
                found |= dict(zip((gain_name, direction_name), split(leaf, gain, direction), strict=True))
            else:
                found |= dict.fromkeys(self.copies[name], leaf)
        return {name: tensor[None] for name, tensor in found.items()}

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """d loss / d leaf by name, from one backward pass; zero where the loss does not depend on a leaf."""
        slopes = torch.autograd.grad(loss, tuple(self.tensors.values()), allow_unused=True)
        both = zip(self.tensors.items(), slopes, strict=True)
        return {name: torch.zeros_like(leaf) if slope is None else slope for (name, leaf), slope in both}


def parameters(module: nn.Module) -> dict[str, Tensor]:
    """Every floating parameter once, by the name that its files have."""
    return {name: tensor for name, tensor in unique(module) if isinstance(tensor, nn.Parameter) and tensor.is_floating_point()}


def _copies(module: nn.Module, own: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """By name all names that a tensor has in the module."""
    every: dict[int, list[str]] = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        every.setdefault(id(tensor), []).append(name)
    return {name: tuple(every[id(tensor)]) for name, tensor in own.items()}
