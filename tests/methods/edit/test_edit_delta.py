"""Edits are deltas: kept and read again, put on and taken off, added, turned round and halved, whoever made them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from asrlife.data.edit import EditRequest
from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.delta import Delta
from asrlife.delta.file import load, save
from asrlife.delta.weights import adopt, applied
from asrlife.methods.edit.edit import bench, edit
from asrlife.methods.edit.editors import Bench, Editor
from asrlife.methods.edit.registry import EDITORS
from asrlife.methods.edit.sites import sites
from asrlife.methods.edit.values import Search
from asrlife.models.text import TextModel, load_text

TEXTS = ["Leila Castell was born in Seville.", "Ravi Holm works in the town of Oslo."]
A = EditRequest("Leila Castell", "Leila Castell was born in", "Oslo")
B = EditRequest("Ravi Holm", "Ravi Holm works at", "Seville")
NAMES = sorted(EDITORS)


@pytest.fixture(scope="module")
def model() -> TextModel:
    """A random Llama whose heads share keys and values, with the tokenizer of the embedded one."""
    torch.manual_seed(0)
    embedded = load_text("embedded:lm")
    config = LlamaConfig(
        vocab_size=embedded.module.config.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return replace(embedded, name="small", module=LlamaForCausalLM(config).eval())


def editor(name: str) -> Editor:
    few: dict[str, Any] = {"search": Search(steps=4), "steps": 4}
    known = {field.name for field in fields(EDITORS[name])}
    return EDITORS[name](layers=(0, 1), **{key: value for key, value in few.items() if key in known})


def fresh(model: TextModel, name: str) -> Bench:
    """A bench that has made no edits."""
    return bench(model, editor(name), TEXTS, seed=1)


@pytest.fixture(scope="module")
def edits(model: TextModel) -> dict[str, tuple[Delta, Delta]]:
    return {name: tuple(edit(model, [one], editor(name), at=fresh(model, name)) for one in (A, B)) for name in NAMES}  # type: ignore[misc]


def test_heads_that_share_keys_and_values_do_not_pass_for_the_feed_forward(model: TextModel) -> None:
    assert model.module.model.layers[0].self_attn.k_proj.weight.shape == (16, 32)
    assert [site.name for site in sites(model.module)] == [f"model.layers.{n}.mlp.down_proj.weight" for n in range(3)]


def weights(model: TextModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_that_is_kept_and_read_again_has_the_same_bytes(edits: dict[str, tuple[Delta, Delta]], name: str, tmp_path: Path) -> None:
    one, again = tmp_path / "one.safetensors", tmp_path / "again.safetensors"
    save(edits[name][0], one)
    read = load(one)
    save(read, again)
    assert one.read_bytes() == again.read_bytes() and one.with_suffix(".json").read_text() == again.with_suffix(".json").read_text()
    assert all(torch.equal(change.dense(), edits[name][0].tensors[key].dense()) for key, change in read.tensors.items())
    assert read.note["method"] == name and read.note["evidence"]["edits"][0]["target"] == "Oslo"


@pytest.mark.parametrize("name", NAMES)
def test_applied_and_left_every_byte_is_as_it_was_and_no_gradient_stays(
    model: TextModel, edits: dict[str, tuple[Delta, Delta]], name: str
) -> None:
    before, delta = weights(model), edits[name][0]
    with applied(model.module, delta):
        moved = weights(model)
    assert same(weights(model), before)
    assert {key for key in before if not torch.equal(moved[key], before[key])} == set(delta.tensors)
    assert all(weight.grad is None for weight in model.module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_applied_by_the_algebra_it_is_the_edit_added_in_place(model: TextModel, edits: dict[str, tuple[Delta, Delta]], name: str) -> None:
    one, other, delta = model.twin(), model.twin(), edits[name][0]
    adopt(one.module, delta)
    for key, change in delta.tensors.items():
        place = other.module.get_parameter(key)
        place.data = place.detach().clone()  # a twin has the memory of the first
        place.data += change.dense()
    assert same(weights(one), weights(other))
    with applied(model.module, delta):
        assert same(weights(model), weights(one))


@pytest.mark.parametrize("name", NAMES)
def test_edits_add_up_turn_round_and_halve(model: TextModel, edits: dict[str, tuple[Delta, Delta]], name: str) -> None:
    a, b = edits[name]
    before = weights(model)

    def moved(delta: Delta) -> dict[str, Tensor]:
        with applied(model.module, delta):
            return weights(model)

    both, nothing, half = moved(a + b), moved(a + -1.0 * a), moved(0.5 * a)
    for key in before:
        changes = [delta.tensors[key].dense() if key in delta.tensors else torch.zeros_like(before[key]) for delta in (a, b)]
        size = float(sum(change.abs().max() for change in changes)) + float(before[key].abs().max())
        torch.testing.assert_close(both[key], before[key] + changes[0] + changes[1], atol=1e-6 * size, rtol=0)
        torch.testing.assert_close(nothing[key], before[key], atol=1e-6 * size, rtol=0)
        torch.testing.assert_close(half[key], before[key] + 0.5 * changes[0], atol=1e-6 * size, rtol=0)
    assert (a + b).norm() > 0 and a.cosine(-a) == pytest.approx(-1) and (0.5 * a).norm() == pytest.approx(0.5 * a.norm())
    edited = model.twin()
    adopt(edited.module, a)
    back = Delta(edited.fingerprint(), (-a).tensors)
    adopt(edited.module, back)
    found = weights(edited)
    assert all(float((found[key] - before[key]).abs().max()) <= 1e-6 * (1 + float(before[key].abs().max())) for key in before)


@pytest.mark.parametrize("name", NAMES)
def test_one_after_the_other_is_each_on_the_model_that_has_those_before(model: TextModel, name: str) -> None:
    told: list[int] = []
    in_turn = edit(model, [A, B], editor(name), at=fresh(model, name), batch=1, advance=lambda: told.append(1))
    at = fresh(model, name)
    first = edit(model, [A], editor(name), at=at)
    with applied(model.module, first):
        second = edit(model, [B], editor(name), at=at)
    assert second.base != first.base == in_turn.base and len(told) == 2
    total = first + Delta(first.base, second.tensors)
    for key, change in in_turn.tensors.items():
        torch.testing.assert_close(change.dense(), total.tensors[key].dense(), atol=1e-6 * float(change.dense().abs().max()), rtol=0)
    together = edit(model, [A, B], editor(name), at=fresh(model, name))
    assert together.base == in_turn.base and together.note["batch"] == 0 and in_turn.note["batch"] == 1
    assert (together - in_turn).norm() > 0  # each in its turn has seen the change before it


def test_a_model_written_with_an_edit_is_the_model_with_the_edit_applied(model: TextModel, tmp_path: Path) -> None:
    from asrlife.delta.arithmetic import Combination, write
    from asrlife.delta.expression import parse

    folder = model.save(tmp_path / "base")
    delta = edit(model, [A], editor("rome"), at=fresh(model, "rome"))
    write(Combination(parse("base + edit"), {"base": Checkpoint.open(folder), "edit": delta}), tmp_path / "edited")
    again = load_text(tmp_path / "edited")
    with applied(model.module, delta):
        assert again.fingerprint() == model.fingerprint()
