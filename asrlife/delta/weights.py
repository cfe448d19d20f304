"""The only ways weights move: each puts the original tensors back bit for bit, whatever happens inside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asrlife.delta.delta import Delta, LowRank, nearest
from asrlife.delta.fingerprint import fingerprint
from asrlife.errors import InputError

Found = TypeVar("Found", bound=Tensor)
Slot = TypeVar("Slot")


@dataclass(frozen=True, eq=False)
class Flat:
    """The tuned parameters of a module as one vector, for as long as `trainable` lasts.

    `values` (P,) and `gradient` (P,) are contiguous; the module's parameters and their `.grad` are views of them in the order of
    `names`, so that an elementwise optimiser on two vectors updates the module without a copy. `values.grad is gradient`, hence
    `torch.optim.Adam([flat.values])` works too. Clear with `zero()`: `zero_grad()` of a module or an optimiser cuts the views off.
    Change `values` after `backward`, never between forward and backward: autograd does not see writes through the vector.
    """

    names: tuple[str, ...]
    values: Tensor
    gradient: Tensor
    parameters: tuple[nn.Parameter, ...]

    def load(self, values: Tensor) -> None:
        """Copy `values` (P,) into the module; another shape raises InputError."""
        if values.shape != self.values.shape:
            raise InputError(f"{tuple(values.shape)} values for {self.values.numel()} tuned weights: they belong to another selection")
        with torch.no_grad():
            self.values.copy_(values)

    def zero(self) -> None:
        """Clear the gradient, and make every `.grad` a view of it again if something cut it off."""
        with torch.no_grad():
            self.gradient.zero_()
        self.values.grad = self.gradient
        for parameter, part in zip(self.parameters, _views(self.gradient, self.parameters), strict=True):
            parameter.grad = part

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of `vector` (P,), laid out like `values`, under the parameters' names and in their shapes."""
        return dict(zip(self.names, _views(vector, self.parameters), strict=True))


@contextmanager
def trainable(module: nn.Module, names: Sequence[str]) -> Iterator[Flat]:
    """Make exactly the parameters `names` trainable, laid end to end in one vector; every other one has requires_grad False inside.

    Gradients start at zero. On exit each parameter has its original tensor (same memory), `requires_grad` and `.grad` again, each
    buffer its bytes and each submodule its training flag. Raises InputError for an unknown or repeated name, one tensor under two
    names (the published SUTA code lists tensors up to four times, which multiplies their steps), or mixed dtypes or devices.
    """
    parameters = tuple(selected(module, names).values())
    with _restored(module):
        # inference mode would make vectors that autograd refuses, even after the mode has ended
        with torch.inference_mode(False), torch.no_grad():
            values = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
            gradient = torch.zeros_like(values)
        flat = Flat(tuple(names), values, gradient, parameters)
        module.requires_grad_(False)
        for parameter, part in zip(parameters, _views(values, parameters), strict=True):
            parameter.data = part
            parameter.requires_grad_(True)
        flat.zero()
        yield flat


def _views(vector: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    parts = torch.split(vector, [parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]


def selected(module: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """Parameters by name; raises InputError for none, an unknown or repeated name, a tensor under two names, mixed dtypes or devices."""
    known = dict(module.named_parameters(remove_duplicate=False))
    if isinstance(names, str) or not names:
        raise InputError("no parameter is selected: pass a sequence of parameter names")
    chosen: dict[int, str] = {}
    for name in names:
        parameter = _find(known, name)
        key = parameter.data_ptr() or id(parameter)
        if key in chosen:
            reason = "twice" if chosen[key] == name else f"also under the name {chosen[key]!r}"
            raise InputError(f"parameter {name!r} is selected {reason}: select each tensor once")
        chosen[key] = name
    found = {name: known[name] for name in names}
    _check_alike(tuple(found.values()))
    return found


def _check_alike(parameters: Sequence[nn.Parameter]) -> None:
    kinds = {f"{parameter.dtype} on {parameter.device}" for parameter in parameters}
    if len(kinds) > 1 or not parameters[0].is_floating_point():
        raise InputError(f"tuned parameters must share one floating dtype and one device, not {', '.join(sorted(kinds))}")


def _find(known: Mapping[str, Found], name: str) -> Found:
    if name not in known:
        raise InputError(f"the model has no parameter {name!r}{nearest(name, known)}")
    return known[name]


@contextmanager
def applied(module: nn.Module, delta: Delta, scale: float = 1.0) -> Iterator[None]:
    """Let `module` have the weights `base + scale * delta`, on new memory; the sum is taken in float32 or better.

    On exit everything is as `trainable` leaves it. Raises InputError where the module is not the delta's base, a name is unknown,
    a shape differs, or `scale` is not finite. Deltas do not stack: add them instead.
    """
    if not math.isfinite(scale):
        raise InputError(f"a delta cannot be scaled by {scale}: pass a finite number")
    places = _places(module, delta)
    with _restored(module):
        with torch.inference_mode(False), torch.no_grad():
            for name, place in places.items():
                change = delta.tensors[name].dense().to(place.device)
                exact = torch.promote_types(place.dtype, torch.promote_types(change.dtype, torch.float32))
                place.data = (place.detach().to(exact) + scale * change.to(exact)).to(place.dtype)
        yield


@contextmanager
def low_rank(module: nn.Module, targets: Sequence[str], rank: int, seed: int = 0) -> Iterator[dict[str, LowRank]]:
    """Add trainable factors `up @ down` to the weights `targets` of Linear or Conv1D layers (LoRA, arXiv 2106.09685, eq. 3, scale 1).

    Yields the live factors by parameter name; `Delta(base, factors)` keeps them, with `base` the fingerprint taken before. `up` starts at
    zero, so the output does not change; `down` is uniform in +-1/sqrt(in), drawn from `seed`. Every other parameter is frozen inside.
    On exit everything is as `trainable` leaves it, and no trace of the factors stays. Raises InputError for an unknown, repeated or tied
    target, one that is no such weight, or a rank outside 1..min(out, in).
    """
    owners = _owners(module, targets, rank)
    with _restored(module):
        module.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        added: dict[str, nn.Module] = {}
        factors: dict[str, LowRank] = {}
        try:
            for name, owner in owners.items():
                addition = _Addition(module.get_parameter(name), rank, generator)
                parametrize.register_parametrization(owner, "weight", addition)
                added[name] = owner
                factors[name] = LowRank(addition.up, addition.down)
            yield factors
        finally:
            for owner in added.values():
                parametrize.remove_parametrizations(owner, "weight", leave_parametrized=False)


@contextmanager
def overwritten(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Let the caller write the parameters and buffers `names`, which lie on new memory of equal values inside.

    Yields them by name. Writes that torch does not see must be told with `torch.autograd.graph.increment_version`. On exit everything is
    as `trainable` leaves it. Raises InputError for an unknown name.
    """
    known: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    places = {name: _find(known, name) for name in names}
    with _restored(module):
        with torch.inference_mode(False), torch.no_grad():
            for place in places.values():
                place.data = place.detach().clone()
        yield places


class _Addition(nn.Module):
    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        out, into = weight.shape
        with torch.inference_mode(False):
            down = (torch.rand(rank, into, generator=generator) * 2 - 1) / math.sqrt(into)
            self.up = nn.Parameter(torch.zeros(out, rank).to(weight))
            self.down = nn.Parameter(down.to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def _places(module: nn.Module, delta: Delta) -> dict[str, Tensor]:
    known: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    seen: dict[int, str] = {}
    for name, change in delta.tensors.items():
        place = _find(known, name)
        if place.shape != change.shape:
            raise InputError(f"{name!r} has shape {tuple(place.shape)} in the model and {tuple(change.shape)} in the delta")
        if seen.setdefault(id(place), name) != name:
            raise InputError(f"the delta moves one tensor as {seen[id(place)]!r} and as {name!r}: keep one of the two")
    found = fingerprint(module)
    if found != delta.base:
        raise InputError(f"the delta was made for base {delta.base[:12]}, not for this model ({found[:12]}): load its base")
    return {name: known[name] for name in delta.tensors}


def _owners(module: nn.Module, targets: Sequence[str], rank: int) -> dict[str, nn.Module]:
    from transformers.pytorch_utils import Conv1D

    uses = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    owners = {}
    for name, weight in selected(module, targets).items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        if leaf != "weight" or not isinstance(owner, nn.Linear | Conv1D):
            raise InputError(f"{name!r} is not the weight of a Linear or Conv1D layer: low rank needs a matrix")
        if uses[id(weight)] > 1:
            raise InputError(f"{name!r} is tied to another parameter, which factors on this one would not follow: leave it out")
        if not 1 <= rank <= min(weight.shape):
            raise InputError(f"rank {rank} for {name!r} of shape {tuple(weight.shape)}: choose 1 to {min(weight.shape)}")
        owners[name] = owner
    return owners


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Start with empty gradients; on exit put back tensors, flags, gradients, buffers and training modes of the whole module.

    Only a write into the memory of a tensor that the caller was not given (an unselected parameter) goes unnoticed.
    """
    parameters = [(parameter, parameter.data, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    buffers = [(buffer, buffer.data, buffer.clone()) for buffer in module.buffers()]
    parts = [(part, part.training, dict(part._parameters), dict(part._buffers)) for part in module.modules()]
    try:
        for parameter, *_ in parameters:
            parameter.grad = None
        yield
    finally:
        for part, training, own_parameters, own_buffers in parts:
            part.training = training
            _put_back(part._parameters, own_parameters)
            _put_back(part._buffers, own_buffers)
        for parameter, data, flag, gradient in parameters:
            parameter.grad = None
            parameter.data = data
            parameter.requires_grad_(flag)
            parameter.grad = gradient
        for buffer, data, kept in buffers:
            buffer.data = data
            if not torch.equal(data, kept):
                data.copy_(kept)


def _put_back(slots: dict[str, Slot], original: dict[str, Slot]) -> None:
    """Restore what the slots hold and their order, which taking a parametrisation off disturbs."""
    same = list(slots) == list(original) and all(slots[name] is original[name] for name in original)
    if not same:
        slots.clear()
        slots.update(original)
