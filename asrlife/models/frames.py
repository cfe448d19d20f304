"""Where the frames of a stack of convolutions stand in the audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True)
class Frames:
    """Geometry of convolutions given as (kernel, stride, padding), the first one nearest to the audio."""

    layers: tuple[tuple[int, int, int], ...]

    @classmethod
    def unpadded(cls, kernels: Sequence[int], strides: Sequence[int], adapter: Sequence[tuple[int, int, int]] = ()) -> Frames:
        """The front-end of the wav2vec2 family, with the strided adapter some checkpoints have behind it."""
        return cls((*((k, s, 0) for k, s in zip(kernels, strides, strict=True)), *adapter))

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return prod(stride for _, stride, _ in self.layers)

    @property
    def field(self) -> int:
        """Receptive field of a frame in samples: 1 + sum_i (k_i - 1) * s_1 ... s_(i-1)."""
        return 1 + sum((kernel - 1) * prod(s for _, s, _ in self.layers[:i]) for i, (kernel, _, _) in enumerate(self.layers))

    @property
    def least(self) -> int:
        """Fewest samples that give a frame."""
        samples = 1
        for kernel, stride, padding in reversed(self.layers):
            samples = max((samples - 1) * stride + kernel - 2 * padding, 1)
        return samples

    def centre(self, frame: int) -> float:
        """Sample on which a frame is centred: frame * hop + (field - 1) / 2, less the padding."""
        offset = sum(((k - 1) / 2 - p) * prod(s for _, s, _ in self.layers[:i]) for i, (k, _, p) in enumerate(self.layers))
        return frame * self.hop + offset

    def count(self, lengths: Tensor) -> Tensor:
        """Frames for lengths in samples; shapes alike."""
        for kernel, stride, padding in self.layers:
            lengths = (lengths + 2 * padding - kernel).div(stride, rounding_mode="floor") + 1
        return lengths
