"""Which entries stay."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.errors import InputError
from asrlife.methods.merge import sparsify

VECTOR = torch.tensor([0.1, -5.0, 0.3, 2.0, -0.2, 0.0, 2.0, -2.0, 1.0, 4.0])


def test_the_largest_stay_and_of_equal_ones_the_first() -> None:
    assert sparsify.by_magnitude(VECTOR, 0.4).nonzero().flatten().tolist() == [1, 3, 6, 9]
    assert sparsify.by_magnitude(VECTOR, 0.5).nonzero().flatten().tolist() == [1, 3, 6, 7, 9]
    assert sparsify.by_magnitude(VECTOR, 0.01).nonzero().flatten().tolist() == [1], "one at least"
    assert not sparsify.by_magnitude(VECTOR, 0).any() and sparsify.by_magnitude(VECTOR, 1).all()


def test_outliers_go_first() -> None:
    assert sparsify.without_outliers(VECTOR, 0.4, 0.2).nonzero().flatten().tolist() == [3, 6, 7, 8]
    assert sparsify.without_outliers(VECTOR, 0.4, 0.0).nonzero().flatten().tolist() == [1, 3, 6, 9]
    assert int(sparsify.without_outliers(VECTOR, 0.9, 0.5).sum()) == 9, "the share that stays comes before the share that goes"
    assert sparsify.without_outliers(VECTOR, 1.0, 0.5).all()


@given(values=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=40), count=st.integers(0, 45))
@settings(max_examples=60, deadline=None)
def test_largest_is_a_stable_sort(values: list[float], count: int) -> None:
    found = sparsify.largest(torch.tensor(values), count).nonzero().flatten().tolist()
    assert found == sorted(sorted(range(len(values)), key=lambda index: -values[index])[:count])


@given(density=st.floats(0.01, 1), seed=st.integers(0, 1000), spread=st.sampled_from([1e-20, 1e-3, 1.0]))
@settings(max_examples=30, deadline=None)
def test_a_threshold_over_tensors_is_the_one_of_all_entries(density: float, seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(shape, generator=generator) * spread for shape in ((5, 7), (3,), (2, 2, 2))]
    found = sparsify.threshold(lambda: iter(parts), density)
    every = torch.cat([part.abs().flatten() for part in parts]).sort(descending=True).values
    wanted = float(every[max(1, int(density * every.numel())) - 1])
    assert found == (0.0 if density == 1 else wanted)


def test_a_threshold_of_nothing_and_of_everything() -> None:
    assert sparsify.threshold(lambda: iter([VECTOR]), 0) == math.inf and sparsify.threshold(lambda: iter([VECTOR]), 1) == 0


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_lot_keeps_its_share(density: float) -> None:
    count = 100_000
    kept = int(sparsify.by_lot(torch.ones(count), density, 0, "w", 0).sum())
    assert abs(kept - density * count) < 4 * math.sqrt(count * density * (1 - density))


def test_more_density_keeps_the_same_and_more() -> None:
    less, more = (sparsify.by_lot(torch.ones(5000), density, 0, "w", 0) for density in (0.3, 0.6))
    assert bool((less & ~more).sum() == 0)


def test_chances_rise_with_the_rank_in_the_row() -> None:
    rows = torch.tensor([[3.0, -1.0, 2.0, 0.5, -9.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    chance = sparsify.ranked_chance(rows, 0.5, 0.2)
    assert torch.allclose(chance, torch.tensor([[0.6, 0.4, 0.5, 0.3, 0.7], [0.3, 0.4, 0.5, 0.6, 0.7]]))
    assert torch.equal(sparsify.ranked_chance(rows[0], 0.5, 0.2), chance[0])
    assert torch.equal(sparsify.ranked_chance(torch.ones(4, 1), 0.5, 0.2), torch.full((4, 1), 0.5))


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.15), (0.1, 0.15), (0.15, 0.15)])
def test_chances_that_are_none_are_refused(density: float, epsilon: float) -> None:
    with pytest.raises(InputError, match="density - epsilon must be above 0 and density [+] epsilon below 1"):
        sparsify.ranked_chance(VECTOR, density, epsilon)


def test_what_is_taken_is_made_up_for() -> None:
    mask = sparsify.by_magnitude(VECTOR, 0.4)
    assert torch.equal(sparsify.rescaled(VECTOR, mask, "none"), VECTOR * mask)
    assert torch.equal(sparsify.rescaled(VECTOR, mask, "paper", 0.5), VECTOR * mask * 2)
    assert math.isclose(float(sparsify.rescaled(VECTOR, mask, "l1").abs().sum()), float(VECTOR.abs().sum()), rel_tol=1e-6)
    nothing = torch.zeros_like(mask)
    assert torch.equal(sparsify.rescaled(VECTOR, nothing, "l1"), torch.zeros_like(VECTOR))
    halves = torch.full_like(VECTOR, 0.25)
    assert torch.equal(sparsify.rescaled(VECTOR, mask, "paper", halves), VECTOR * mask * 4)


@given(length=st.integers(0, 20_000), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_length_is_the_l1_norm(length: int, seed: int) -> None:
    vector = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    assert float(sparsify.length(vector)) == pytest.approx(math.fsum(vector.abs().tolist()), rel=1e-7)
    assert sparsify.length(vector.double()).dtype == torch.float64
    assert sparsify.length(torch.ones(70, 80)) == 5600
