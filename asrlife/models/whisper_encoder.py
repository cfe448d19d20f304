"""The Whisper encoder in two parts, so that what tuned weights cannot change is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import gelu

ENCODER = "model.encoder."
_FRONT = (f"{ENCODER}conv1.", f"{ENCODER}conv2.")


def front(encoder: Any, inputs: Tensor) -> Tensor:
    """What the two convolutions make of the windows: (batch, frames, width)."""
    return gelu(encoder.conv2(gelu(encoder.conv1(inputs)))).permute(0, 2, 1)


def body(encoder: Any, frames: Tensor) -> Tensor:
    """The rest of an encoder in evaluation mode; `body` of `front` is its own forward, bit for bit."""
    return above(encoder, frames + encoder.embed_positions.weight, 0)


def above(encoder: Any, hidden: Tensor, layer: int) -> Tensor:
    """What the layers from `layer` on and the last norm make of the states (batch, frames, width) that go into that layer."""
    for each in encoder.layers[layer:]:
        hidden = each(hidden, None)
    return encoder.layer_norm(hidden)


def tunes_front(names: Sequence[str]) -> bool:
    """Whether one of the parameters `names` lies in the convolutions."""
    return any(name.startswith(_FRONT) for name in names)
