"""What every registered method promises."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.merge import MERGEKIT, METHODS, Stack, make
from tests.methods.merge.stacks import count, scattered, stacked

NAMES = sorted(METHODS)
SCALED = sorted(name for name, kind in METHODS.items() if "scale" in {entry.name for entry in dataclasses.fields(kind)})
ONE_IS_ALL = sorted(set(NAMES) - {"slerp", "nuslerp", "nearswap", "arcee_fusion", "iso_c", "iso_cts", "ram", "ramplus_tl", "sa_merge"})
SHAPES = [(6, 10), (10, 6), (7,), (4, 3, 5), (1,), (), (1, 1), (5, 1), (1, 5), (3, 0)]
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_a_frozen_value_that_names_itself(name: str) -> None:
    kind = METHODS[name]
    assert kind.name == name and re.fullmatch(r"(\d{4}\.\d{5})?", kind.paper)
    assert kind.__doc__ and (not kind.paper or kind.paper in kind.__doc__)
    assert make(name) == make(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(name).scale = 2.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_shape_and_dtype_stay_and_nothing_given_is_changed_or_shared(name: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        tensors = scattered(shape, count(name), dtype=dtype)
        before = [tensor.clone() for tensor in tensors]
        stack = stacked(name, tensors)
        found = make(name).merge(stack)
        assert found.shape == torch.Size(shape) and found.dtype == dtype and found.is_contiguous() and bool(found.isfinite().all())
        again = make(name).merge(stacked(name, tensors))
        assert torch.equal(found, again)
        found.fill_(9.0)
        assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True)), shape


@pytest.mark.parametrize("name", NAMES)
def test_a_view_merges_as_its_copy_does(name: str) -> None:
    tensors = [tensor.T for tensor in scattered((6, 10), count(name))]
    found = make(name).merge(stacked(name, tensors))
    torch.testing.assert_close(found, make(name).merge(stacked(name, [tensor.contiguous() for tensor in tensors])))


def rank_one(number: int) -> list[Tensor]:
    base = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    vector = torch.ones(6, 1) @ torch.linspace(-1, 1, 10)[None]
    return [base, *(base + (index + 1) * 0.1 * vector for index in range(number))]


def opposite(number: int) -> list[Tensor]:
    base, expert = scattered((6, 10), 1)
    return [base, *(base + (-1) ** index * (expert - base) for index in range(number))]


AWKWARD = {
    "zero": lambda number: [torch.zeros(6, 10)] * (number + 1),
    "zero base": lambda number: [torch.zeros(6, 10), *scattered((6, 10), number)[1:]],
    "equal": lambda number: [scattered((6, 10), 1)[0]] * (number + 1),
    "one moved": lambda number: [scattered((6, 10), 1)[0]] * number + [scattered((6, 10), 1)[1]],
    "same experts": lambda number: [scattered((6, 10), 1)[0]] + [scattered((6, 10), 1)[1]] * number,
    "opposite": opposite,
    "rank one": rank_one,
    "tiny": lambda number: [tensor * 1e-30 for tensor in scattered((6, 10), number)],
    "tiny steps": lambda number: scattered((6, 10), number, spread=1e-6),
    "large": lambda number: [tensor * 1e15 for tensor in scattered((6, 10), number)],
}


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("name", NAMES)
def test_no_number_is_lost_on_awkward_tensors(name: str, kind: str) -> None:
    tensors = AWKWARD[kind](count(name))
    found = make(name).merge(stacked(name, tensors))
    assert bool(found.isfinite().all())
    reach = max(float(tensor.abs().max()) for tensor in tensors)
    if name not in ("passthrough", "slerp", "nuslerp", "dare_linear", "dare_ties", "della", "della_linear"):
        assert float(found.abs().max()) <= 4 * reach + 1e-30, "a merge of like models is like them"


@pytest.mark.parametrize("name", NAMES)
def test_equal_models_stay_what_they_are(name: str) -> None:
    tensors = [scattered((6, 10), 1)[0]] * (count(name) + 1)
    torch.testing.assert_close(make(name).merge(stacked(name, tensors)), tensors[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_of_nothing_is_the_base(name: str) -> None:
    for shape in ((6, 10), (7,), (4, 3, 5)):
        tensors = scattered(shape, count(name))
        assert torch.equal(make(name, {"lambda": 0}).merge(stacked(name, tensors)), tensors[0])


def within_an_ulp(found: Tensor, expert: Tensor, base: Tensor) -> bool:
    """base + (expert - base) is rounded at the size of the larger of the two."""
    size = torch.maximum(expert.abs(), base.abs())
    unit = torch.nextafter(size, torch.full_like(size, torch.inf)) - size
    return bool(((found - expert).abs() <= unit).all())


@pytest.mark.parametrize("name", ONE_IS_ALL)
@given(seed=st.integers(0, 2**16), shape=st.sampled_from([(6, 10), (9, 4), (7,), (4, 3, 5), (1, 1)]))
@settings(max_examples=8, deadline=None)
def test_one_expert_of_weight_one_is_that_expert(name: str, seed: int, shape: tuple[int, ...]) -> None:
    base, expert = scattered(shape, 1, seed)
    each = {"density": (1.0,)} if "density" in METHODS[name].per_model else {}
    found = make(name).merge(stacked(name, [base, expert], **each))
    assert within_an_ulp(found, expert, base)


@pytest.mark.parametrize("name", sorted(name for name in NAMES if METHODS[name].symmetric and count(name) > 1))
@given(seed=st.integers(0, 2**16), order=st.permutations(range(4)))
@settings(max_examples=8, deadline=None)
def test_the_order_of_experts_does_not_matter(name: str, seed: int, order: list[int]) -> None:
    number = count(name, 4)
    order = [index for index in order if index < number]
    base, *experts = scattered((6, 10), number, seed)
    weights = tuple((0.5, 0.8, 1.2, 0.3)[:number])
    each = {"weight": weights} if "weight" in METHODS[name].per_model else {}
    stack = stacked(name, [base, *experts], **each)
    turned = Stack(
        stack.name,
        stack.base,
        tuple(experts[index] for index in order),
        {key: tuple(values[index] for index in order) for key, values in stack.each.items()},
        stack.seed,
        tuple(stack.evidence[index] for index in order) if stack.evidence else (),
    )
    torch.testing.assert_close(make(name).merge(turned), make(name).merge(stack), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_cannot_do_is_refused_by_name(name: str) -> None:
    tensors = scattered((6, 10), count(name))
    with pytest.raises(InputError, match=rf"{name}: no model has a 'heft' of its own"):
        make(name).merge(stacked(name, tensors, heft=(1.0,) * count(name)))
    with pytest.raises(InputError, match="unknown setting 'lamda'"):
        make(name, {"lamda": 1})
    if METHODS[name].base == "needed":
        with pytest.raises(InputError, match=f"{name} of 'w' needs a base model"):
            make(name).merge(Stack("w", None, tuple(tensors[1:]), {}))
    most = METHODS[name].experts[1]
    if most is not None:
        with pytest.raises(InputError, match=f"{name} merges .* models beside the base"):
            make(name).merge(stacked(name, scattered((6, 10), most + 1)))
    for key in METHODS[name].per_model:
        with pytest.raises(InputError, match=f"{name}: {key} is nan: pass a finite number"):
            make(name).merge(stacked(name, tensors, **{key: (float("nan"),) * count(name)}))


def test_densities_have_limits() -> None:
    with pytest.raises(InputError, match="ties: density is 1.5: pass a finite number, 0 to 1"):
        make("ties").merge(stacked("ties", scattered((6, 10), 1), density=(1.5,)))


def test_lambda_is_the_scale_and_given_once() -> None:
    assert make("task_arithmetic", {"lambda": "0.4"}) == make("task_arithmetic", {"scale": 0.4})
    with pytest.raises(InputError, match="lambda and scale are one setting"):
        make("ties", {"lambda": 1, "scale": 1})
    assert make("ties", {"int8_mask": True}) == make("ties")
    assert make("ties", {"rescale": True}) == make("ties", {"rescale": "l1"})
    with pytest.raises(InputError, match="unknown setting 'int8_mask'"):
        make("tsv_m", {"int8_mask": True})


@pytest.mark.parametrize("name", sorted(MERGEKIT))
def test_defaults_of_mergekit_are_settings_that_there_are(name: str) -> None:
    for key, value in MERGEKIT[name].items():
        if key in METHODS[name].per_model:
            assert METHODS[name].per_model[key] != value, "the paper's is the same: leave it out"
            make(name).merge(stacked(name, scattered((6, 10), 3), **{key: (value,) * 3}))
        else:
            assert getattr(make(name, {key: value}), key) == value


def test_every_expert_may_have_a_setting_of_its_own_and_the_default_where_it_has_none() -> None:
    tensors = scattered((6, 10), 2)
    for name in NAMES:
        if METHODS[name].per_model and count(name, 2) == 2:
            told = {key: (value,) * 2 for key, value in METHODS[name].per_model.items()}
            assert torch.equal(make(name).merge(stacked(name, tensors)), make(name).merge(stacked(name, tensors, **told))), name
