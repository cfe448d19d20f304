from __future__ import annotations

import pytest
import torch

from asrlife.models.frames import Frames

STACKS = [
    Frames.unpadded((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
    Frames.unpadded((400, 5, 3), (160, 2, 1)),
    Frames.unpadded((6, 4), (3, 2), [(3, 2, 1)] * 2),
]


@pytest.mark.parametrize("frames", STACKS)
def test_centre_and_field_are_where_gradients_reach(frames: Frames) -> None:
    audio = torch.zeros(1, 1, frames.least + 6 * frames.hop, dtype=torch.float64, requires_grad=True)
    out = audio
    for kernel, stride, padding in frames.layers:
        out = torch.nn.functional.conv1d(out, torch.ones(1, 1, kernel, dtype=torch.float64), stride=stride, padding=padding)
    assert frames.count(torch.tensor([audio.shape[-1]])).tolist() == [out.shape[-1]]
    (gradient,) = torch.autograd.grad(out[0, 0, 3], audio)
    reached = gradient[0, 0].nonzero().flatten()
    assert frames.centre(3) == (int(reached[0]) + int(reached[-1])) / 2
    assert int(reached[-1]) - int(reached[0]) + 1 == frames.field


@pytest.mark.parametrize("frames", STACKS)
def test_one_sample_fewer_than_the_least_gives_no_frame(frames: Frames) -> None:
    assert frames.count(torch.tensor([frames.least, frames.least - 1])).tolist() == [1, 0] or frames.least == 1


def test_wav2vec2_base_by_hand() -> None:
    frames = STACKS[0]
    assert (frames.hop, frames.field, frames.least, frames.centre(0), frames.centre(10)) == (320, 400, 400, 199.5, 3399.5)
