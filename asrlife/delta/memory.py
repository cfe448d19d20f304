"""Where a merge goes that is to be measured and not kept: into the tensors of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from asrlife.delta.shards import Spec


@dataclass(frozen=True, eq=False)
class Room:
    """Room for a tensor `spec` in memory."""

    spec: Spec
    tensor: Tensor

    def write(self, first: int, piece: Tensor) -> None:
        """Write elements `first` and on from a flat tensor, rounded to the dtype of the place."""
        self.tensor.view(-1)[first : first + piece.numel()].copy_(piece)


class Memory:
    """As a Writer has places in files: tensors of `specs` that end up in `places`, a network's, rounded to the dtype of the file first."""

    def __init__(self, specs: Mapping[str, Spec], places: Mapping[str, Tensor]) -> None:
        self._specs, self._places = specs, places
        self._rounded: dict[str, Tensor] = {}

    def view(self, name: str) -> Tensor:
        """The place of a tensor, in its shape and the dtype of the file."""
        place, dtype = self._places[name].detach(), self._specs[name].dtype
        if place.dtype == dtype and place.is_contiguous():
            return place
        return self._rounded.setdefault(name, torch.empty(place.shape, dtype=dtype, device=place.device))

    def place(self, name: str) -> Room:
        """The same, to be written by pieces."""
        return Room(self._specs[name], self.view(name))

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a tensor."""
        place = self.view(name)
        if place.data_ptr() != tensor.data_ptr():
            place.copy_(tensor)
        self.done(name)

    def done(self, name: str) -> None:
        """Say that a tensor is written, to whoever keeps what the network made of the old one too."""
        place = self._places[name]
        if name in self._rounded:
            place.detach().copy_(self._rounded.pop(name))
        torch.autograd.graph.increment_version(place)
