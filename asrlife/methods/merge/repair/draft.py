"""A network with some tensors of its own exchanged for a while, and the affine changes that can be folded into its weights."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from asrlife.delta.weight_norm import split

GAINS = (("parametrizations.weight", "original0", "original1"), ("", "weight_g", "weight_v"))


class Draft:
    """A context in which `put` exchanges tensors of `module`; all are back, bit for bit, when it ends. `changes` keeps the new ones."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.changes: dict[str, Tensor] = {}
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for undo in reversed(self._undo):
            undo()

    def put(self, name: str, tensor: Tensor) -> None:
        """Let the parameter or buffer `name` be `tensor`, in its own dtype."""
        path, _, leaf = name.rpartition(".")
        owner = self.module.get_submodule(path)
        slots: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
        before = slots[leaf]
        fresh = tensor.detach().to(before)
        slots[leaf] = nn.Parameter(fresh, requires_grad=False) if isinstance(before, nn.Parameter) else fresh
        self.changes[name] = fresh
        self._undo.append(lambda: slots.update({leaf: before}))

    @torch.no_grad()
    def fold(self, name: str, factor: Tensor, shift: Tensor) -> None:
        """Let the layer `name` give factor * y + shift where it gave y, unit by unit; without a bias the shift is left out.

        Linear, transformers' Conv1D, Conv1d and norms, and such with a weight-norm pair. The numbers are float64 (units,).
        """
        layer: Any = self.module.get_submodule(name)
        weight = layer.weight.detach()
        shape = (1, -1) if type(layer).__name__ == "Conv1D" else (-1, *[1] * (weight.dim() - 1))
        self._put_weight(name, weight.double() * factor.to(weight.device).view(shape))
        if getattr(layer, "bias", None) is not None:
            self.put(f"{name}.bias", factor.to(weight.device) * layer.bias.detach().double() + shift.to(weight.device))

    def _put_weight(self, name: str, weight: Tensor) -> None:
        pair = pair_of(self.module, name)
        if pair is None:
            return self.put(f"{name}.weight", weight)
        gain, direction = (self.module.get_parameter(part).detach().double() for part in pair)
        for part, value in zip(pair, split(weight, gain, direction), strict=True):
            self.put(part, value)
        return None


def pair_of(module: nn.Module, name: str) -> tuple[str, str] | None:
    """The names of gain and direction of the layer `name`, None where it has a plain weight."""
    known = {path for path, _ in module.get_submodule(name).named_parameters()}
    for path, gain, direction in GAINS:
        pair = tuple(f"{path}.{leaf}".lstrip(".") for leaf in (gain, direction))
        if known.issuperset(pair):
            return f"{name}.{pair[0]}", f"{name}.{pair[1]}"
    return None
