from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asrlife.methods.online.adam import Adam

SHAPES = ((3, 5), (7,), (2, 4, 4), (1,))


def parts(vector: Tensor) -> list[Tensor]:
    sizes = [int(torch.tensor(shape).prod()) for shape in SHAPES]
    return [part.view(shape) for part, shape in zip(vector.split(sizes), SHAPES, strict=True)]


def start(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, generator=torch.Generator().manual_seed(1)), torch.zeros(count)


def test_float_for_float_as_torch_on_many_tensors() -> None:
    values, zeros = start(55)
    tensors = [nn.Parameter(part.clone()) for part in parts(values)]
    theirs = torch.optim.AdamW(tensors, lr=3e-3, weight_decay=0)
    ours = Adam(values, zeros, zeros, 0, lr=3e-3)
    noise = torch.Generator().manual_seed(2)
    for _ in range(30):
        gradient = torch.randn(55, generator=noise) * 10 ** torch.randn(55, generator=noise)
        for tensor, part in zip(tensors, parts(gradient), strict=True):
            tensor.grad = part.clone()
        theirs.step()
        ours.step(gradient)
        assert torch.equal(values, torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))
    moments = [theirs.state[tensor] for tensor in tensors]
    assert torch.equal(ours.first, torch.cat([moment["exp_avg"].reshape(-1) for moment in moments]))
    assert torch.equal(ours.second, torch.cat([moment["exp_avg_sq"].reshape(-1) for moment in moments]))
    assert ours.count == 30 == moments[0]["step"].item()


def test_going_on_from_kept_moments_is_going_on() -> None:
    (whole, zeros), (halves, _) = start(9), start(9)
    gradients = torch.randn(6, 9, generator=torch.Generator().manual_seed(3))
    straight = Adam(whole, zeros, zeros, 0, lr=1e-2)
    for gradient in gradients:
        straight.step(gradient)
    first = Adam(halves, zeros, zeros, 0, lr=1e-2)
    for gradient in gradients[:3]:
        first.step(gradient)
    kept = first.first.clone()
    second = Adam(halves, first.first, first.second, first.count, lr=1e-2)
    for gradient in gradients[3:]:
        second.step(gradient)
    assert torch.equal(whole, halves)
    assert torch.equal(first.first, kept)
    assert not zeros.any()


@pytest.mark.parametrize("times", [1, 2, 4])
def test_repeated_tensors_move_as_the_published_list_moves_them(reference: Path, times: int) -> None:
    table = json.loads((reference / "suta_loss_unit_vectors.json").read_text())["adamw_duplicate_displacement_over_lr"]
    values = torch.zeros(2, dtype=torch.float64)
    adam = Adam(values, values.clone(), values.clone(), 0, lr=1.0, spans=((slice(0, 1), times), (slice(1, 2), 1)))
    for gradient, repeated, once in zip(table["grads"], table[f"listed_{times}x"], table["listed_1x"], strict=True):
        adam.step(torch.full((2,), gradient, dtype=torch.float64))
        assert values.tolist() == pytest.approx([repeated, once], abs=1e-6)
