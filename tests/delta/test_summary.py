"""Tables of layers and roles: their sums are those of the whole, and the picture is one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from asrlife.delta.delta import Delta, Dense, LowRank
from asrlife.delta.picture import draw
from asrlife.delta.summary import cells, compare
from asrlife.errors import InputError

NAMES = {
    "proj_out.weight": 4,
    "model.decoder.layers.0.encoder_attn.q_proj.weight": 4,
    "model.decoder.layers.0.fc1.weight": 4,
    "model.encoder.layers.1.fc1.weight": 4,
    "model.encoder.layers.1.fc2.weight": 4,
    "model.encoder.layers.0.fc1.weight": 4,
    "model.encoder.conv1.weight": 4,
}


def delta(seed: int) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return Delta("base", {name: Dense(torch.randn(size, size, generator=generator)) for name, size in NAMES.items()})


def test_cells_stand_in_the_order_of_the_network_and_add_up() -> None:
    one = delta(1)
    found = cells(one)
    assert [(cell.part, cell.layer, cell.role) for cell in found] == [
        ("conv", None, "conv"),
        ("encoder", 0, "encoder"),
        ("encoder", 1, "encoder"),
        ("decoder", 0, "cross-attention"),
        ("decoder", 0, "decoder"),
        ("output", None, "head"),
    ]
    assert sum(cell.norm**2 for cell in found) == pytest.approx(one.norm() ** 2)
    assert sum(cell.share for cell in found) == pytest.approx(1.0)
    assert [cell.tensors for cell in found] == [1, 1, 2, 1, 1, 1] and found[2].parameters == 32
    assert found[2].rms == pytest.approx(found[2].norm / math.sqrt(32))
    assert all(cell.relative is None and cell.cosine is None for cell in found)


def test_lengths_and_angles_by_the_base_or_another_delta() -> None:
    one, other = delta(1), delta(2)
    base = {name: 2 * change.dense() for name, change in one.tensors.items()}
    assert all(cell.relative == pytest.approx(0.5) and cell.cosine == pytest.approx(1.0) for cell in cells(one, base))
    found = cells(one, base, other)
    name = "model.encoder.conv1.weight"
    assert found[0].cosine == pytest.approx(one.restrict(name).cosine(other.restrict(name))) and found[0].relative == pytest.approx(0.5)
    assert cells(one, other=other.restrict("conv"))[-1].cosine is None
    with pytest.raises(InputError, match="the base has no 'proj_out.weight'"):
        cells(one, {name: base[name]})
    nothing = Delta("base", {name: Dense(torch.zeros(2))})
    assert cells(nothing)[0].share == 0.0 and cells(nothing, other=nothing)[0].cosine is None


def test_pairs_by_hand() -> None:
    name, norm = "model.encoder.layers.0.fc1.weight", "model.encoder.layers.0.fc1_layer_norm.weight"
    one = Delta("base", {name: Dense(torch.tensor([1.0, 1.0, 0.0, 2.0])), norm: Dense(torch.ones(2))})
    other = Delta("base", {name: Dense(torch.tensor([-1.0, 1.0, 3.0, 0.0]))})
    by_role = {pair.role: pair for pair in compare(one, other)}
    assert list(by_role) == ["norm", "encoder", ""]
    assert by_role["encoder"].conflict == 0.5 and by_role["encoder"].overlap == 0.5 and by_role["encoder"].cosine == 0.0
    assert by_role["norm"].conflict is None and by_role["norm"].overlap == 0.0 and by_role["norm"].cosine is None
    assert by_role[""].overlap == pytest.approx(2 / 6)
    with pytest.raises(InputError, match="different bases"):
        compare(one, Delta("else", {}))


def test_a_delta_and_its_negative_are_in_each_others_way_everywhere() -> None:
    factors = LowRank(torch.randn(4, 2), torch.randn(2, 3))
    one = Delta("base", {"model.layers.0.mlp.up_proj.weight": factors})
    whole = compare(one, -one)[-1]
    assert whole.cosine == pytest.approx(-1.0) and whole.conflict == 1.0 and whole.overlap == 1.0


@pytest.mark.parametrize("kind", ["plain", "base", "pair", "zero"])
def test_a_picture_is_drawn(kind: str, tmp_path: Path) -> None:
    from PIL import Image

    one = delta(1) if kind != "zero" else Delta("base", {"lm_head.weight": Dense(torch.zeros(2, 2))})
    base = {name: change.dense() for name, change in one.tensors.items()} if kind == "base" else None
    draw(cells(one, base, delta(2) if kind == "pair" else None), tmp_path / "x.png", "a title")
    with Image.open(tmp_path / "x.png") as image:
        assert image.width > 300 and len(set(image.convert("RGB").getdata())) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
