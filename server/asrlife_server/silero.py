"""The network of silero-vad for 16 kHz, computed as a few products of matrices from the weights in its wheel (MIT).

The wheel's own program takes 0.46 ms of a core for one window, most of it spent on getting from one small operation to the next. This one
takes a third of that, and works out at once what the windows of a chunk need beside the memory of those before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from asrlife.errors import InputError

CONTEXT, WINDOW = 64, 512  # samples at 16 kHz: of what came before, and of a window
_FRAME, _HOP, _BINS = 256, 128, 129
_LAYERS = ((4, 1), (4, 2), (2, 2), (1, 1))  # frames that a layer of the encoder takes, and its stride
_ALIKE = 1e-4  # of probabilities

Memory = tuple[torch.Tensor, torch.Tensor]  # (n, 128) each


class Network:
    """What silero-vad hears; raises InputError where an installed release of it holds another network than this."""

    def __init__(self, library: Any) -> None:
        try:
            self._take(library.state_dict())
            same = self._answers_as(library)
        except (KeyError, RuntimeError) as error:
            raise _other() from error
        if not same:
            raise _other()

    def features(self, windows: torch.Tensor) -> torch.Tensor:
        """What the memory takes (n, 128) of windows with the context before them (n, 576)."""
        padded = torch.cat([windows, windows[:, -CONTEXT - 1 : -1].flip(1)], 1)
        waves = torch.matmul(padded.unfold(1, _FRAME, _HOP), self._basis)
        found = torch.hypot(waves[..., :_BINS], waves[..., _BINS:]).flatten(1)
        for weight, bias in self._encoder:
            found = torch.addmm(bias, found, weight).relu_()
        return found

    def speech(self, features: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """The probability of speech (n,) in one window of each stream, and what the streams remember then."""
        hidden, cell = torch.lstm_cell(features, memory, *self._memory)
        return torch.sigmoid(torch.relu(hidden) @ self._out[0] + self._out[1]), (hidden, cell)

    @staticmethod
    def nothing(streams: int = 1) -> Memory:
        """The memory of streams that have heard nothing."""
        return torch.zeros(streams, 128), torch.zeros(streams, 128)

    def _take(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._basis = weights["stft.forward_basis_buffer"][:, 0].T.contiguous()
        encoder = [f"encoder.{n}.reparam_conv" for n in range(len(_LAYERS))]
        self._encoder = [
            _product(weights[f"{name}.weight"], weights[f"{name}.bias"], *layer) for name, layer in zip(encoder, _LAYERS, strict=True)
        ]
        self._memory = [weights[f"decoder.rnn.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        self._out = weights["decoder.decoder.2.weight"][0, :, 0].contiguous(), weights["decoder.decoder.2.bias"]

    def _answers_as(self, library: Any) -> bool:
        sound = torch.sin(torch.arange(3.0 * (CONTEXT + WINDOW)) ** 1.3).reshape(3, -1)
        with torch.no_grad():
            theirs = library(sound, torch.zeros(2, 3, 128))[0].flatten()
            ours = self.speech(self.features(sound), self.nothing(3))[0]
        return bool(torch.allclose(theirs, ours, atol=_ALIKE))


def _product(weight: torch.Tensor, bias: torch.Tensor, frames: int, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution over so many frames, one of silence on either side, as a matrix (frames * in, out frames * out) and what is added."""
    out, inside, taps = weight.shape
    there = (frames + 2 - taps) // stride + 1
    matrix = torch.zeros(frames, inside, there, out)
    for to in range(there):
        for tap in range(taps):
            at = to * stride + tap - 1
            if 0 <= at < frames:
                matrix[at, :, to] = weight[:, :, tap].T
    return matrix.reshape(frames * inside, there * out), bias.repeat(there)


def _other() -> InputError:
    return InputError("the installed silero-vad holds another network than this server knows: pip install 'silero-vad>=6,<7'")
