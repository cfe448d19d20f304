"""What every editor promises, and what those that descend or take one step are by themselves."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from asrlife.data.edit import EditRequest
from asrlife.data.world.facts import make
from asrlife.data.world.forms import forward
from asrlife.delta.delta import Delta, Dense, LowRank
from asrlife.delta.weights import applied
from asrlife.errors import InputError
from asrlife.methods.edit.edit import bench, edit, edit_each
from asrlife.methods.edit.editors import Bench, Editor, Valued
from asrlife.methods.edit.keys import told
from asrlife.methods.edit.moments import Moments
from asrlife.methods.edit.registry import EDITORS
from asrlife.methods.edit.sites import chosen, linears, sites
from asrlife.methods.edit.targets import asked, descend, losses
from asrlife.methods.edit.tuned import FineTuneClamped, FineTuneTarget, Lora
from asrlife.methods.edit.ultraedit import UltraEdit, slopes
from asrlife.methods.edit.values import Search
from asrlife.models.text import TextModel, load_text

WORLD = make(0)
FACTS = WORLD.split("edit_dev")[:3]
REQUESTS = [EditRequest(f.subject, forward(f)[0].prompt, WORLD.target(f)) for f in FACTS]
WORDY = EditRequest("Leila Castell", "Leila Castell was born in", "the old town of Seville")
DENSE = {"ft_m", "ft_l"}
TEXTS = [forward(fact)[0].text for fact in WORLD.facts[::4]]
NAMES = sorted(EDITORS)


def quick(name: str) -> Editor:
    few: dict[str, Any] = {"search": Search(steps=8), "steps": 12}
    known = {field.name for field in fields(EDITORS[name])}
    return EDITORS[name](**{key: value for key, value in few.items() if key in known})


@cache
def measured(model: TextModel, editor: Editor, seed: int) -> Bench:
    return bench(model, editor, TEXTS, seed)


def fresh(model: TextModel, editor: Editor, seed: int = 0) -> Bench:
    return replace(measured(model, editor, seed), earlier={}, moments={})


def own(model: TextModel) -> TextModel:
    return replace(model, module=deepcopy(model.module))


def loss(model: TextModel, requests: list[EditRequest], delta: Delta | None = None) -> float:
    with torch.no_grad(), applied(model.module, delta or Delta(model.fingerprint(), {})):
        return float(losses(model, asked(model, requests)).mean())


@pytest.fixture(scope="module")
def gpt2(gpt2_of: Callable[..., TextModel]) -> TextModel:
    return gpt2_of()


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_likelier_after_its_edit_and_the_model_is_left_alone(model: TextModel, name: str) -> None:
    before, told = model.fingerprint(), list[int]()
    flags = [parameter.requires_grad for parameter in model.module.parameters()]
    delta = edit(model, REQUESTS, quick(name), at=fresh(model, quick(name)), advance=lambda: told.append(1))
    assert loss(model, REQUESTS, delta) < loss(model, REQUESTS) - 0.1  # nats; the least was 0.2, of the few steps of rome
    assert model.fingerprint() == before == delta.base and len(told) == len(REQUESTS)
    assert [parameter.requires_grad for parameter in model.module.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())
    assert {type(change) for change in delta.tensors.values()} == {Dense if name in DENSE else LowRank}
    assert all(change.dense().dtype == torch.float32 for change in delta.tensors.values())
    assert delta.note["method"] == name and [each["target"] for each in delta.note["evidence"]["edits"]] == [r.target for r in REQUESTS]


@pytest.mark.parametrize("name", sorted({"ft_m", "lora", "ultraedit", "alphaedit"}))
def test_each_edit_alone_knows_nothing_of_the_others(model: TextModel, name: str) -> None:
    some, at = REQUESTS[:2], fresh(model, quick(name))
    apart = edit_each(model, some, quick(name), at)
    assert (
        not at.moments and not at.earlier and [delta.note["evidence"]["edits"][0]["target"] for delta in apart] == [r.target for r in some]
    )
    for request, delta in zip(some, apart, strict=True):
        alone = edit(model, [request], quick(name), at=fresh(model, quick(name)))
        gaps = [
            float((change.dense() - alone.tensors[key].dense()).norm() / change.dense().norm()) for key, change in delta.tensors.items()
        ]
        assert max(gaps) < 0.02  # values are sought together, which rounds otherwise


@pytest.mark.parametrize("name", ["ft_m", "lora"])
def test_an_edit_is_made_from_every_phrasing(model: TextModel, name: str) -> None:
    other = forward(FACTS[0])[3].prompt
    plain, phrased = REQUESTS[0], replace(REQUESTS[0], phrasings=(other,))
    one, two = (edit(model, [request], quick(name)) for request in (plain, phrased))
    assert loss(model, [replace(plain, prompt=other)], two) < loss(model, [replace(plain, prompt=other)], one)
    assert len(asked(model, [phrased])) == 2 and len(slopes(model, [phrased], sites(model.module)[:1])[0][0]) == 2


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_is_the_same_for_a_seed(model: TextModel, name: str) -> None:
    one, two = (edit(model, REQUESTS[:1], quick(name), at=fresh(model, quick(name))) for _ in range(2))
    assert all(torch.equal(change.dense(), two.tensors[key].dense()) for key, change in one.tensors.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_target_of_several_tokens(model: TextModel, name: str) -> None:
    assert len(model.ids(f" {WORDY.target}")) > 3
    assert loss(model, [WORDY], edit(model, [WORDY], quick(name), at=fresh(model, quick(name)))) < loss(model, [WORDY]) - 0.1


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_stored_the_other_way_round(gpt2: TextModel, name: str) -> None:
    delta = edit(gpt2, REQUESTS[:1], quick(name), texts=TEXTS)
    stored = dict(gpt2.module.named_parameters())
    assert all(change.shape == stored[key].shape for key, change in delta.tensors.items())
    if not issubclass(EDITORS[name], Valued):  # a network without facts has no value to write at a subject
        assert loss(gpt2, REQUESTS[:1], delta) < loss(gpt2, REQUESTS[:1])


@pytest.mark.parametrize("name", NAMES)
def test_a_llama_that_knows_nothing_of_the_world(shared: Path, name: str) -> None:
    stories = load_text(shared / "lm-stories260k")
    pet = EditRequest("Lily", "Once upon a time, Lily had a pet", "elephant")
    before = stories.fingerprint()
    delta = edit(stories, [pet], EDITORS[name](layers=(2,)), texts=TEXTS)
    assert loss(stories, [pet], delta) < loss(stories, [pet]) and stories.fingerprint() == before


@pytest.mark.parametrize("name", NAMES)
def test_edits_one_after_the_other_end_in_one_delta_of_no_more_than_full_rank(gpt2: TextModel, name: str) -> None:
    editor = replace(quick(name), depth=0.5, count=1)
    many = [replace(request, target=target) for request in REQUESTS for target in ("Lima", "Oslo", "Patras")]
    delta = edit(gpt2, many, editor, texts=TEXTS, batch=1)
    for change in delta.tensors.values():
        assert not isinstance(change, LowRank) or change.rank <= min(change.shape)
        assert float(change.dense().norm()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_what_no_editor_can_do_is_told(gpt2: TextModel, name: str) -> None:
    with pytest.raises(InputError, match="nothing to edit"):
        edit(gpt2, [], EDITORS[name]())
    with pytest.raises(InputError, match="layer 7: the network has layers 0 to 2"):
        edit(gpt2, REQUESTS, EDITORS[name](layers=(7,)), texts=TEXTS)
    long = EditRequest("Leila Castell", f"{'Yes. ' * 60}Leila Castell was born in", "Seville")
    with pytest.raises(InputError, match="tokens and gpt2 has places for 64: shorten it"):
        edit(gpt2, [long], EDITORS[name](), texts=TEXTS)


def test_settings_that_teach_nothing_are_told(model: TextModel) -> None:
    with pytest.raises(InputError, match="ft_m: 0 steps at rate"):
        FineTuneTarget(steps=0)
    with pytest.raises(InputError, match="ft_l: a clamp of 0 lets nothing move"):
        FineTuneClamped(clamp=0)
    with pytest.raises(InputError, match="ultraedit: rate -1"):
        UltraEdit(rate=-1)
    with pytest.raises(InputError, match="rank 900"):
        edit(model, REQUESTS, Lora(rank=900))


def test_the_loss_is_that_of_the_targets_tokens_alone(model: TextModel) -> None:
    both = [*REQUESTS, WORDY]
    whole = model.surprise([(request.prompt, f"{request.prompt} {request.target}") for request in both])
    with torch.no_grad():
        found = losses(model, asked(model, both))
    torch.testing.assert_close(found, torch.stack([each[:-1].mean() for each in whole]), atol=1e-4, rtol=1e-4)


def test_a_pass_takes_a_step_for_each_few_requests_that_are_not_yet_said(model: TextModel) -> None:
    twin, steps = own(model), list[int]()
    known = [EditRequest(f.subject, forward(f)[0].prompt, f.object) for f in WORLD.split("edit_dev")[:8]]
    with torch.enable_grad():
        descend(twin, [*REQUESTS * 3, *known], [twin.module.get_input_embeddings().weight], 2, 1e-9, 0.5, lambda: steps.append(1))
    assert len(steps) == 2 * 2  # nine requests that are new, and the first seven known ones with the ninth


def test_descent_stops_when_every_target_is_said(model: TextModel) -> None:
    steps, twin = list[int](), own(model)
    known = [EditRequest(f.subject, forward(f)[0].prompt, f.object) for f in FACTS]
    with torch.enable_grad():
        descend(twin, known, [twin.module.get_input_embeddings().weight], 3, 1e-9, 0.5, lambda: steps.append(1))
        assert steps == []
        descend(twin, known, [twin.module.get_input_embeddings().weight], 3, 1e-9, 0.0, lambda: steps.append(1))
    assert steps == [1, 1, 1]


def test_fine_tuning_keeps_within_its_clamp_and_moves_one_weight(model: TextModel) -> None:
    delta = edit(model, REQUESTS, FineTuneClamped(clamp=0.05))
    ((name, change),) = delta.tensors.items()
    (site,) = chosen(sites(model.module), None, FineTuneTarget().depth)
    assert name == site.name
    bound = 0.05 * float(site.weight.square().mean().sqrt())
    assert float(change.dense().abs().max()) == pytest.approx(bound, rel=1e-3)
    free = edit(model, REQUESTS, FineTuneTarget(rate=0.03, steps=9))
    wide = edit(model, REQUESTS, FineTuneClamped(rate=0.03, steps=9, clamp=1e9))
    assert torch.equal(free.tensors[name].dense(), wide.tensors[name].dense())
    assert float(free.tensors[name].dense().abs().max()) > 2 * bound


def test_fine_tuning_does_the_same_to_a_network_of_another_scale(model: TextModel) -> None:
    (site,) = chosen(sites(model.module), None, FineTuneTarget().depth)
    twin = own(model)
    other = sites(twin.module)[site.layer]
    with torch.no_grad():  # the same function: what goes in is a tenth, what it is multiplied by ten times as large
        other.module.weight.mul_(10)  # type: ignore[operator]
        other.block.mlp.up_proj.weight.mul_(0.1)  # type: ignore[operator,union-attr]
    one = edit(model, REQUESTS, FineTuneTarget(steps=4)).tensors[site.name].dense()
    ten = edit(twin, REQUESTS, FineTuneTarget(steps=4)).tensors[site.name].dense()
    assert float((ten / 10 - one).norm() / one.norm()) < 0.05


def test_lora_adds_factors_to_every_linear_map_of_its_blocks(model: TextModel) -> None:
    editor = Lora(layers=(1, 3), rank=2, steps=2)
    delta = edit(model, REQUESTS, editor)
    at = [site for site in sites(model.module) if site.layer in (1, 3)]
    assert set(delta.tensors) == {name for site in at for name in linears(model.module, site.block)}
    assert len(delta.tensors) == 14 and all(isinstance(c, LowRank) and c.rank == 2 for c in delta.tensors.values())
    other = edit(model, REQUESTS, editor, seed=1)
    name = at[0].name
    assert not torch.equal(delta.tensors[name].dense(), other.tensors[name].dense())


def test_slopes_are_those_of_finite_differences(model: TextModel) -> None:
    twin = replace(model, module=deepcopy(model.module).double())
    (site,) = sites(twin.module)[2:3]
    keys, gradients = slopes(twin, [WORDY], [site])[2]
    rows = asked(twin, [WORDY])
    place = int(rows.predicting()[0].nonzero()[1])
    assert len(keys) == int(rows.lengths[0] - rows.starts[0]) > 3
    found, most = [], int(gradients[1].abs().argmax())
    for sign in (1, -1):

        def moved(_: Any, __: Any, out: torch.Tensor, sign: int = sign) -> torch.Tensor:
            out = out.clone()
            out[0, place, most] += sign * 1e-2
            return out

        handle = site.module.register_forward_hook(moved)
        with torch.no_grad():
            found.append(float(losses(twin, rows).sum()))
        handle.remove()
    assert (found[0] - found[1]) / 2e-2 == pytest.approx(float(gradients[1, most]), rel=1e-2)  # scores are float32


def test_ultraedit_is_its_formula_and_remembers_what_it_saw(model: TextModel) -> None:
    editor = UltraEdit(layers=(2,), rate=0.5)
    place = bench(model, editor)
    delta = edit(model, REQUESTS, editor, at=place)
    (site,) = place.sites
    keys, gradients = slopes(model, REQUESTS, [site])[2]
    wide = keys.shape[1]
    both = torch.cat([keys, gradients], 1)
    both = torch.cat([both, torch.zeros_like(both[:1])])  # a life begins with noughts
    normal = ((both - both.mean(0)) / both.std(0, correction=0).clamp_min(1e-12))[:-1]
    scale = 0.5 * (keys @ site.weight.double().T).square().mean().sqrt() / wide
    values = -scale * normal[:, :wide].square().sum(1, keepdim=True) * normal[:, wide:]
    wanted = torch.linalg.solve(keys.T @ keys + torch.eye(wide, dtype=torch.float64), keys.T @ values).T
    torch.testing.assert_close(delta.tensors[site.name].dense().double(), wanted, rtol=1e-4, atol=1e-6)
    assert place.moments[2].count == 1 + len(keys)
    edit(model, REQUESTS, editor, at=place, batch=1)
    assert place.moments[2].count == 1 + 2 * len(keys)


def test_running_moments_are_those_of_all_rows_however_they_come() -> None:
    rows = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1
    rows[:, 4] = 0.0
    found = Moments.new(5)
    for part in rows.split([1, 9, 20]):
        found.add(part)
    every = torch.cat([torch.zeros(1, 5, dtype=torch.float64), rows])
    torch.testing.assert_close(found.mean, every.mean(0))
    torch.testing.assert_close(found.spread / found.count, every.var(0, correction=0))
    torch.testing.assert_close(found.normalised(every)[:, :4].std(0, correction=0), torch.ones(4, dtype=torch.float64))
    assert found.count == 31 and not found.normalised(rows)[:, 4].any()


@pytest.mark.parametrize("spare", [0, 1, 20])
def test_what_is_told_of_a_subject_keeps_within_the_places_of_the_network(model: TextModel, spare: int) -> None:
    short, long = REQUESTS[0], EditRequest("Leila Castell", f"{'Yes. ' * 6}Leila Castell was born in", "Seville")
    config = GPT2Config(
        vocab_size=model.module.config.vocab_size, n_positions=len(asked(model, [long]).ids[0]) + spare, n_embd=32, n_layer=3, n_head=2,
        bos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    narrow = replace(model, name="narrow", module=GPT2LMHeadModel(config).eval())
    together = told(narrow, [short, long], 2, seed=1)
    assert together == [told(narrow, [short], 2, seed=1)[0], told(narrow, [long], 2, seed=2)[0]]
    assert all(len(texts) <= 2 for texts in together) and told(narrow, [short, long], 0) == [[], []]
