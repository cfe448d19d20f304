"""Where a recogniser is edited: its head, the feed-forward of a block, or what a decoder's cross-attention writes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from asrlife.errors import InputError
from asrlife.methods.edit.algebra import Covariance
from asrlife.methods.edit.partial import listening
from asrlife.methods.edit.sites import blocks_of, chosen, sites
from asrlife.methods.edit.speech.listeners import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asrlife.audio.waveform import Waveform

Where = Literal["head", "mlp", "cross-attention"]


@dataclass(frozen=True, eq=False)
class Place:
    """A linear layer by its `name`, and whether it makes the scores itself; with `bias` a constant 1 stands below each key."""

    name: str
    module: Any
    scores: bool
    bias: bool = False

    def keys(self, given: Tensor) -> Tensor:
        """Rows (n, in) that the module was given, or (n, in + 1) with the constant."""
        return torch.cat([given, torch.ones_like(given[:, :1])], 1) if self.bias else given


def place(listener: Listener, where: Where, layer: int | None = None, bias: bool = False) -> Place:
    """The place of that kind, in block `layer` or the last one; raises InputError where the network has none."""
    module: nn.Module = listener.model.module
    if where == "head":
        return _checked(Place(listener.head, module.get_submodule(listener.head), True, bias))
    stack = module.get_submodule(listener.stack)
    if where == "mlp":
        (site,) = chosen(sites(stack), None if layer is None else (layer,), 1.0)
        return _checked(Place(f"{listener.stack}.{site.name.removesuffix('.weight')}", site.module, False, bias))
    name, blocks = blocks_of(stack)
    number = len(blocks) - 1 if layer is None else layer
    if not 0 <= number < len(blocks):
        raise InputError(f"layer {number}: the network has layers 0 to {len(blocks) - 1}")
    path = f"{listener.stack}.{name}.{number}.encoder_attn.out_proj"
    if not hasattr(blocks[number], "encoder_attn"):
        raise InputError(f"{listener.model.name} has no cross-attention: edit the site head or mlp")
    return _checked(Place(path, module.get_submodule(path), False, bias))


def _checked(found: Place) -> Place:
    if not isinstance(found.module, nn.Linear):
        raise InputError(f"{found.name} is a {type(found.module).__name__}, and a closed-form edit needs a Linear layer")
    if found.bias and found.module.bias is None:
        raise InputError(f"{found.name} has no bias: leave the bias out")
    return found


@contextmanager
def given(place: Place, skipped: int) -> Iterator[list[Tensor]]:
    """What the place's module is given while this lasts: a tensor (steps, in) for each forward of one utterance."""
    seen: list[Tensor] = []
    with listening(place.module, lambda rows, _: seen.append(rows.detach().reshape(-1, rows.shape[-1])[skipped:])):
        yield seen


@torch.no_grad()
def covariance(
    listener: Listener, place: Place, speech: Sequence[Waveform], shrinkage: float, advance: Callable[[], None] = lambda: None
) -> Covariance:
    """E[k k'] over all steps of `speech`, along what the model itself hears there, with a little of the identity; float64.

    Raises InputError for no speech: without it nothing holds the other words.
    """
    if not speech:
        raise InputError("what must not change is not known: give utterances of general speech")
    total, count = torch.zeros(()), 0
    for waveform in speech:
        with given(place, listener.skipped) as seen:
            listener.run(waveform)
        keys = place.keys(seen[-1]).double().cpu()
        total, count = total + keys.T @ keys, count + len(keys)
        advance()
    return Covariance(total / count).shrunk(shrinkage)
