"""What modules are given and give while a model works: hooks, and means and deviations of every unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Literal

import torch
from torch import Tensor, nn

Taken = Callable[[str, Tensor], None]
"""Told the name of a module and the rows (..., steps, units) that went in or came out."""
Side = Literal["in", "out"]


class Enough(Exception):
    """What ends a forward pass of which the rest is not wanted."""


class Moments:
    """Count, mean and summed squares of deviations of every unit, (units,) in float64, by the updates of Chan et al. (1979)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Take in rows (..., units)."""
        flat = rows.detach().reshape(-1, rows.shape[-1]).double().cpu()
        if not len(flat):
            return
        mean, total = flat.mean(0), self.count + len(flat)
        apart = mean - self._mean
        self._squares = self._squares + (flat - mean).square().sum(0) + apart.square() * (self.count * len(flat) / total)
        self._mean, self.count = self._mean + apart * (len(flat) / total), total

    @property
    def mean(self) -> Tensor:
        """Mean of each unit."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """Mean squared deviation of each unit, divided by the count."""
        return self._squares / max(1, self.count)

    @property
    def deviation(self) -> Tensor:
        """Root of the variance."""
        return self.variance.sqrt()


@contextmanager
def watched(modules: Mapping[str, nn.Module], side: Side, taken: Taken, last: bool = False) -> Iterator[None]:
    """Tell `taken` what the modules get ("in") or give ("out") in every forward inside, units in the last dimension.

    `last`: a forward ends as soon as one of them has been told of; run it within `until_enough`.
    """

    def hook(name: str, module: nn.Module) -> Callable[..., None]:
        def told(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            taken(name, _units_last(module, inputs[0] if side == "in" else output))
            if last:
                raise Enough

        return told

    handles = [module.register_forward_hook(hook(name, module)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def until_enough(forward: Callable[[], None]) -> None:
    """Run a forward that may end early."""
    with suppress(Enough):
        forward()


def _units_last(module: nn.Module, values: Tensor) -> Tensor:
    """Convolutions and norms over channels have their units in the second dimension."""
    over_channels = isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.GroupNorm)
    return values.transpose(1, 2) if over_channels and values.dim() > 2 else values
