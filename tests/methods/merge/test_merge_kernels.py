"""The fused kernels give the bits that Method.merge gives."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.merge import METHODS, Method, Stack, cut, fused, make, philox, sparsify, team

JOBS: list[tuple[str, dict[str, Any], dict[str, tuple[float, ...]]]] = [
    ("linear", {}, {"weight": (0.3, 0.5, -0.1)}),
    ("linear", {"normalize": False}, {"weight": (0.3, 0.5, -0.1)}),
    ("task_arithmetic", {}, {}),
    ("task_arithmetic", {"scale": 0.7}, {"weight": (1.0, -0.4, 0.3)}),
    ("task_arithmetic", {"normalize": True, "scale": 0.3}, {"weight": (0.3, 0.5, -0.1)}),
    ("ties", {}, {}),
    ("ties", {"scale": 0.3}, {"density": (1.0, 0.0, 0.33), "weight": (0.2, 0.3, -0.4)}),
    ("ties", {"normalize": False, "elect": "plain"}, {"density": (0.5, 0.5, 0.01), "weight": (0.2, 0.0, 0.4)}),
    ("ties", {"elect": "frequency", "divide": "count"}, {"threshold": (0.01, 0.0, 0.002)}),
    ("ties", {"rescale": "l1"}, {"density": (1.0, 0.0, 0.33)}),
    ("breadcrumbs", {}, {}),
    ("breadcrumbs", {"rescale": "l1", "normalize": True}, {"density": (0.5, 0.9, 1.0), "gamma": (0.1, 0.5, 0.1)}),
    ("breadcrumbs_ties", {}, {"density": (0.0, 0.3, 0.6), "gamma": (0.5, 1.0, 0.0), "weight": (0.2, 0.3, -0.4)}),
    ("dare_linear", {}, {}),
    ("dare_linear", {"rescale": "l1", "scale": 0.7}, {"density": (0.3, 0.77, 0.001), "weight": (0.2, 0.3, -0.4)}),
    ("dare_linear", {"rescale": "none", "normalize": True}, {"density": (1.0, 0.0, 0.4)}),
    ("dare_ties", {}, {"density": (0.3, 0.77, 0.5)}),
    ("dare_ties", {"rescale": "l1", "normalize": False, "elect": "plain"}, {"density": (1.0, 0.0, 0.4)}),
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def needs_numba() -> None:
    if not fused.available():
        pytest.skip("numba is not installed")


def tensors(shape: tuple[int, ...], dtype: torch.dtype, spread: float = 0.01) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator)
    return [found.to(dtype) for found in (base, *(base + spread * torch.randn(shape, generator=generator) for _ in range(3)))]


def merge_into(method: Method, stack: Stack, out: Tensor, threads: int = 1) -> None:
    fused.merge(method, stack, out.dtype, lambda first, piece: out.view(-1)[first : first + len(piece)].copy_(piece), threads)


def wide(stack: Stack) -> Stack:
    assert stack.base is not None
    return Stack(stack.name, stack.base.float(), tuple(expert.float() for expert in stack.experts), stack.each)


@pytest.mark.parametrize(("name", "settings", "each"), JOBS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_are_those_of_the_method(name: str, settings: dict[str, Any], each: dict[str, tuple[float, ...]], dtype: torch.dtype) -> None:
    needs_numba()
    method = make(name, settings)
    for shape in ((1,), (5,), (2, 3), (211, 701)):  # the last fills two threads and ends within a block
        base, *experts = tensors(shape, dtype)
        stack = Stack("w", base, tuple(experts), each)
        for out in (torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=torch.float32)):
            assert fused.fits(method, stack, out.dtype)
            for threads in (1, 2):
                merge_into(method, stack, out.zero_(), threads)
                assert torch.equal(out, method.merge(wide(stack)).to(out.dtype)), (shape, threads)


@pytest.mark.parametrize("density", [0.001, 0.3, 0.999])
def test_of_equal_magnitudes_the_first_stay(density: float) -> None:
    needs_numba()
    base = torch.zeros(200_000)
    expert = torch.randint(-3, 4, (200_000,), generator=torch.Generator().manual_seed(1)).float()
    stack, method = (
        Stack("w", base, (expert, -expert, expert.roll(7)), {"density": (density,) * 3, "weight": (1.0, 0.5, 0.25)}),
        make("ties"),
    )
    for threads in (1, 2, 3):
        out = torch.empty_like(base)
        merge_into(method, stack, out, threads)
        assert torch.equal(out, method.merge(stack)), threads


@given(data=st.data(), length=st.integers(1, 40_000), steps=st.sampled_from([0, 1, 3, 1000]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_cut_is_where_a_stable_sort_cuts(data: st.DataObject, length: int, steps: int, seed: int) -> None:
    """Whatever the sample says: it is too small here, and without a margin often wrong."""
    needs_numba()
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(length, generator=generator) * (torch.arange(length) % 5000 > 4000)
    vector = torch.round(vector * steps) / steps if steps else vector
    base = torch.zeros(length)
    count = data.draw(st.integers(1, length))
    kept = sparsify.largest(vector.abs(), count)
    sizes = vector.abs().view(torch.int32)
    patches = [mock.patch.object(cut, "SAMPLE", 64), mock.patch.object(cut, "SIGMAS", data.draw(st.sampled_from([0, 6])))]
    with patches[0], patches[1], mock.patch.object(team, "SMALLEST", 9000), team.Team(length, data.draw(st.integers(1, 3))) as threads:
        edge, last = cut.selected((base, vector), count, threads)
    assert torch.equal(kept, (sizes > edge) | ((sizes == edge) & (torch.arange(length) <= last)))


def test_a_large_tensor_is_sampled_and_cut_alike() -> None:
    needs_numba()
    base, *experts = tensors((700, 401), torch.bfloat16)
    assert base.numel() > 4 * cut.SAMPLE
    stack = Stack("w", base, tuple(experts), {"density": (0.5, 0.2, 0.0001)})
    found = [torch.empty_like(base) for _ in range(2)]
    for threads, out in enumerate(found, 1):
        merge_into(make("ties"), stack, out, threads)
        assert torch.equal(out, make("ties").merge(wide(stack)).bfloat16())


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "dare_ties"])
def test_task_vectors_of_zeros_leave_the_base(name: str) -> None:
    needs_numba()
    base = torch.randn(70_000)
    for each in ({}, {"density": (0.5,)}, {"density": (1.0,)}):
        out = torch.empty_like(base)
        merge_into(make(name), Stack("w", base, (base.clone(),), each), out)
        assert torch.equal(out, base)


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "ties", "dare_linear", "breadcrumbs_ties"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_by_name(name: str, poison: float) -> None:
    needs_numba()
    base, expert, _, _ = tensors((300, 300), torch.float32)
    expert[7, 7] = poison
    stack = Stack("a.weight", base, (expert,), {"density": (1.0,)} if "density" in METHODS[name].per_model else {})
    with pytest.raises(InputError, match="'a.weight' comes out NaN or infinite"):
        merge_into(make(name), stack, torch.empty_like(base))


@given(
    seed=st.integers(0, 2**40), name=st.text(max_size=8), index=st.integers(0, 9), first=st.integers(0, 2**33), count=st.integers(1, 700)
)
@settings(max_examples=40, deadline=None)
def test_lots_are_those_of_philox(seed: int, name: str, index: int, first: int, count: int) -> None:
    needs_numba()
    from asrlife.methods.merge import lots

    found, first = np.zeros(704, np.uint32), first // 4 * 4
    lots.draw(*philox.key(seed, name, index), first, count, found)
    assert np.array_equal(found[:count], (philox.uniform(seed, name, index, count, first) * 2**24).numpy())


def test_dtypes_may_differ_between_models() -> None:
    needs_numba()
    base, *experts = tensors((300, 41), torch.float32)
    stack = Stack("w", base.bfloat16(), (experts[0].half(), experts[1], experts[2].bfloat16()), {})
    for name in ("linear", "task_arithmetic", "ties", "dare_ties", "breadcrumbs"):
        out = torch.empty((300, 41), dtype=torch.float16)
        merge_into(make(name), stack, out)
        assert torch.equal(out, make(name).merge(wide(stack)).half()), name


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_number_of_two_bytes_survives(dtype: torch.dtype) -> None:
    needs_numba()
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    numbers = every[~every.isnan()]
    out = torch.empty_like(numbers)
    with pytest.raises(InputError, match="NaN or infinite"):  # two of them are, and are written as they are
        merge_into(make("linear"), Stack("w", None, (numbers,), {}), out)
    assert torch.equal(out, numbers)
    finite = numbers[numbers.isfinite()]
    merge_into(make("linear"), Stack("w", None, (finite,), {}), out[: len(finite)])
    assert torch.equal(out[: len(finite)], finite)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_rounding_is_to_nearest_even(dtype: torch.dtype) -> None:
    needs_numba()
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    ordered = every[every.isfinite()].float().sort().values
    halves = (ordered[1:] + ordered[:-1]) / 2  # just between two neighbours, and a step to either side
    numbers = torch.cat(
        [halves, halves.nextafter(torch.tensor(9e9)), halves.nextafter(torch.tensor(-9e9)), torch.tensor([7e4, 3.4e38, -1e-30])]
    )
    out = torch.empty(len(numbers), dtype=dtype)
    with pytest.raises(InputError, match="NaN or infinite"):  # the largest go beyond float16, or round up beyond bfloat16
        merge_into(make("linear", {"normalize": False}), Stack("w", None, (numbers,), {}), out)
    assert torch.equal(out, numbers.to(dtype))


def test_what_does_not_fit_is_left_to_torch() -> None:
    base, *experts = tensors((8, 8), torch.float32)
    stack = Stack("w", base, tuple(experts), {})
    assert not fused.fits(make("della"), stack, torch.float32)
    assert not fused.fits(make("ties"), stack, torch.float64)
    assert not fused.fits(make("ties"), Stack("w", base.T, tuple(experts), {}), torch.float32)


def test_bad_settings_raise_as_in_the_method() -> None:
    needs_numba()
    base, *experts = tensors((8, 8), torch.float32)
    with pytest.raises(InputError, match="sum to 0"):
        merge_into(make("linear"), Stack("w", base, tuple(experts[:2]), {"weight": (1.0, -1.0)}), torch.empty(8, 8))
    with pytest.raises(InputError, match="density is 2"):
        merge_into(make("ties"), Stack("w", base, (experts[0],), {"density": (2.0,)}), torch.empty(8, 8))
