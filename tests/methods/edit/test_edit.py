"""Edits of the embedded language model and of a small GPT-2: what they do, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from asrlife.data.edit import EditRequest
from asrlife.data.world.facts import Fact, make
from asrlife.data.world.forms import forward
from asrlife.delta.weights import applied
from asrlife.errors import InputError
from asrlife.evaluate.text import ended
from asrlife.methods.edit.edit import bench, edit
from asrlife.methods.edit.editors import AlphaEdit, Bench, Memit, Rome
from asrlife.methods.edit.keys import contexts, heard
from asrlife.methods.edit.partial import logits_at, resumed, states_into
from asrlife.methods.edit.rows import rows
from asrlife.methods.edit.sites import chosen, sites
from asrlife.methods.edit.values import Search, additions
from asrlife.models.text import TextModel

QUICK = Search(steps=12)
WORLD = make(0)


def request(fact: Fact) -> EditRequest:
    edited = replace(fact, object=WORLD.target(fact))
    return EditRequest(fact.subject, next(q.prompt for q in forward(edited) if fact.subject in q.prompt), edited.object)


REQUESTS = [request(fact) for fact in WORLD.split("edit_dev")[:4]]


@pytest.fixture(scope="module")
def at(model: TextModel) -> Bench:
    return bench(model, Rome(layers=(0,)), seed=1)


def test_a_site_is_found_in_each_block_by_its_shape(model: TextModel, gpt2_of: Callable[..., TextModel]) -> None:
    config, found = model.module.config, sites(model.module)
    layers = config.num_hidden_layers
    assert [site.name for site in found] == [f"model.layers.{n}.mlp.down_proj.weight" for n in range(layers)]
    assert found[0].weight.shape == (config.hidden_size, config.intermediate_size) and not found[0].transposed
    other = sites(gpt2_of().module)
    assert [site.name for site in other] == [f"transformer.h.{n}.mlp.c_proj.weight" for n in range(3)]
    assert other[0].weight.shape == (32, 128) and other[0].transposed
    assert [site.layer for site in chosen(found, None, 0.5, 2)] == [1, 2]
    with pytest.raises(InputError, match=f"layer 9: the network has layers 0 to {layers - 1}"):
        chosen(found, (9,), 0.5)
    with pytest.raises(InputError, match="no stack of blocks"):
        sites(torch.nn.Linear(2, 2))


def test_heads_that_share_keys_and_a_gate_in_one_map_with_the_rest_do_not_mislead() -> None:
    narrow = LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1
    )
    found = sites(LlamaForCausalLM(narrow))
    assert [site.name for site in found] == [f"model.layers.{n}.mlp.down_proj.weight" for n in range(2)]
    fused = Phi3Config(vocab_size=16, pad_token_id=0, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    assert sites(Phi3ForCausalLM(fused))[1].name == "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_network_resumed_on_its_own_states_says_what_the_whole_does(
    model: TextModel, gpt2_of: Callable[..., TextModel], kind: str
) -> None:
    one = model if kind == "llama" else gpt2_of()
    ids = torch.tensor([model.ids(REQUESTS[0].prompt)] * 2)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        whole = one.module(ids).logits[mask.bool()]
        states = states_into(one.module, 2, ids, mask)
        with resumed(one.module, 2, states):
            again = logits_at(one.module, torch.zeros_like(ids), mask, mask.bool())
    torch.testing.assert_close(again, whole, atol=1e-4, rtol=1e-4)


def test_rows_know_where_subjects_end_and_targets_begin(model: TextModel) -> None:
    found = rows(
        model, [(0, "In spring Leila Castell was born in", "Leila Castell", "Seville"), (1, "Leila Castell is a", "Leila Castell", "")]
    )
    first = found.ids[0].tolist()
    assert model.speller.decode(first[: int(found.places[0]) + 1]).endswith("Leila Castell")
    assert model.speller.decode(first[int(found.starts[0]) : int(found.lengths[0])]).strip() == "Seville"
    assert int(found.starts[1]) == int(found.lengths[1]) == len(model.ids("Leila Castell is a"))


def test_values_of_many_edits_at_once_are_those_of_one_by_one(model: TextModel, at: Bench) -> None:
    site = at.sites[0]
    together = additions(model, REQUESTS, at.contexts[:3], site, QUICK)
    alone = torch.cat([additions(model, [one], at.contexts[:3], site, QUICK).additions for one in REQUESTS])
    gap = (together.additions - alone).norm(dim=-1) / alone.norm(dim=-1)
    assert float(gap.max()) < 1e-2  # 0 to 3e-4 measured: Adam turns rounding into steps where a gradient is nearly none
    assert float(alone.norm(dim=-1).min()) > 0.1


def test_edits_that_are_done_leave_the_others_as_they_would_be_alone(model: TextModel, at: Bench) -> None:
    early, late = (additions(model, REQUESTS, at.contexts[:3], at.sites[0], Search(steps=steps, enough=0.0)) for steps in (6, 12))
    search = replace(QUICK, enough=float(early.losses.sort().values[1:3].mean()))
    together = additions(model, REQUESTS, at.contexts[:3], at.sites[0], search)
    done = early.losses < search.enough
    assert int(done.sum()) == 2 and bool((together.losses < search.enough)[done].all())
    alone = [additions(model, [one], at.contexts[:3], at.sites[0], search) for one in REQUESTS]
    torch.testing.assert_close(together.losses, torch.cat([one.losses for one in alone]), atol=1e-2, rtol=1e-2)
    assert bool(((late.additions - together.additions).norm(dim=-1) > 0.1)[done].all())


def test_an_edit_says_the_target_and_nothing_is_left_when_it_is_taken_back(model: TextModel, at: Bench) -> None:
    before, said = model.fingerprint(), 0
    for one in REQUESTS:
        delta = edit(model, [one], Rome(layers=(0,)), at=at)
        assert model.fingerprint() == before and delta.base == before
        with applied(model.module, delta):
            said += ended(model.complete([one.prompt], 12)[0]) == one.target
        assert model.fingerprint() == before
    assert said >= 3
    assert not any(module._forward_hooks for module in model.module.modules())


def test_rome_gives_its_key_the_wanted_value(model: TextModel, at: Bench) -> None:
    site, one = at.sites[0], REQUESTS[0]
    wanted = additions(model, [one], at.contexts, site, Search()).additions[0]
    key = heard(model, [one], at.contexts, [site])[0][0][0]
    change = edit(model, [one], Rome(layers=(0,), told=0), at=at).tensors[site.name].dense()
    torch.testing.assert_close(change @ key, wanted, atol=1e-4 * float(wanted.norm()), rtol=0)


def test_a_weight_that_is_stored_the_other_way_round_is_edited_all_the_same(model: TextModel, gpt2_of: Callable[..., TextModel]) -> None:
    other = gpt2_of()
    editor = Rome(layers=(1,), told=0, search=QUICK)
    place = bench(other, editor, seed=1)
    one, site = REQUESTS[0], place.sites[0]
    change = edit(other, [one], editor, at=place).tensors[site.name]
    assert change.shape == other.module.transformer.h[1].mlp.c_proj.weight.shape
    wanted = additions(other, [one], place.contexts, site, QUICK).additions[0]
    key = heard(other, [one], place.contexts, [site])[0][0][0]
    torch.testing.assert_close(key @ change.dense(), wanted, atol=1e-4 * float(wanted.norm()), rtol=0)


def test_edits_one_after_the_other_add_up_and_alphaedit_remembers_keys(model: TextModel) -> None:
    editor = AlphaEdit(layers=(1, 2), search=QUICK)
    place = bench(model, editor, seed=1)
    delta = edit(model, REQUESTS[:3], editor, at=place, batch=1)
    shape = sites(model.module)[1].weight.shape
    assert all(change.shape == shape and change.rank == 3 for change in delta.tensors.values())  # type: ignore[union-attr]
    assert {layer: keys.shape[1] for layer, keys in place.earlier.items()} == {1: 3, 2: 3}
    at_once = edit(model, REQUESTS[:3], Memit(layers=(1, 2), search=QUICK))
    assert set(at_once.tensors) == set(delta.tensors)


def test_what_cannot_be_edited_is_told(model: TextModel) -> None:
    with pytest.raises(InputError, match="nothing to edit"):
        edit(model, [], Rome())
    with pytest.raises(InputError, match="does not stand in the prompt"):
        EditRequest("Ravi Holm", "The Space Needle stands in", "Taipei")
    with pytest.raises(InputError, match="no subject or no target"):
        EditRequest("Ravi Holm", "Ravi Holm works at", " ")


def test_contexts_begin_with_none_and_are_the_same_for_a_seed(model: TextModel) -> None:
    one, two = contexts(model, 3), contexts(model, 3)
    assert one == two and one[0] == "" and len(one) > 3 and all(text.endswith(". ") for text in one[1:])


def test_a_method_is_named_and_finds_its_layer(model: TextModel) -> None:
    delta = edit(model, REQUESTS[:1], "rome")
    assert delta.note["layers"] == [0] and delta.note["method"] == "rome"
    with applied(model.module, delta):
        assert model.complete([REQUESTS[0].prompt], 8)[0].strip().startswith(REQUESTS[0].target)
    assert edit(model, REQUESTS[:1], "ft_m").note["layers"] == [0]
    with pytest.raises(InputError, match="no editor 'rom'; did you mean 'rome'"):
        edit(model, REQUESTS[:1], "rom")
