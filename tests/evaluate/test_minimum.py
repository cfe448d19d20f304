"""Golden section and CMA-ES on functions whose minimum is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.errors import InputError
from asrlife.evaluate.minimum import evolve, golden


@given(st.floats(-3, 3), st.floats(0.1, 5))
@settings(max_examples=40, deadline=None)
def test_golden_section_finds_a_valley(place: float, width: float) -> None:
    seen: dict[float, float] = {}
    low, high = place - 0.7 * width, place + 0.4 * width
    golden(lambda x: seen.setdefault(x, (x - place) ** 2), low, high, 20)
    assert len(seen) == 20
    best = min(seen, key=lambda x: seen[x])
    # 18 probes inside leave 0.618^17 of the bracket
    assert abs(best - place) <= 1.1 * width * 0.618**16


def test_golden_section_by_hand() -> None:
    """On [0, 1] the inner probes are 0.382 and 0.618; with the lower value at 0.382, the next is 0.618^2 - 0.618^3 = 0.236."""
    seen: list[float] = []

    def of(x: float) -> float:
        seen.append(x)
        return abs(x - 0.3)

    ended = golden(of, 0.0, 1.0, 5)
    assert seen == pytest.approx([0, 1, 0.381966, 0.618034, 0.236068], abs=1e-6)
    assert "5 probes" in ended


def test_a_minimum_at_the_end_is_probed_itself() -> None:
    seen: list[float] = []
    golden(lambda x: seen.append(x) or x, 0.0, 1.5, 8)
    assert 0.0 in seen and 1.5 in seen


def test_a_bracket_of_equals_ends_the_search() -> None:
    seen: list[float] = []
    ended = golden(lambda x: seen.append(x) or 1.0, 0.0, 1.0, 12, lambda a, b: b - a < 0.5)
    assert len(seen) == 6 and "cannot tell apart" in ended
    with pytest.raises(InputError, match="begins with 4"):
        golden(lambda x: x, 0.0, 1.0, 3)


def test_cma_finds_the_bottom_of_a_quadratic() -> None:
    seen: dict[tuple[float, ...], float] = {}

    def of(at: tuple[float, ...]) -> float:
        return seen.setdefault(at, (at[0] - 0.3) ** 2 + 4 * (at[1] + 1.2) ** 2 + (at[0] - 0.3) * (at[1] + 1.2))

    evolve(of, [(-1, 2), (-2, 0)], [1.0, -0.2], 120, seed=0)
    best = min(seen, key=lambda at: seen[at])
    assert best == pytest.approx((0.3, -1.2), abs=0.02) and len(seen) <= 120
    assert all(-1 <= x <= 2 and -2 <= y <= 0 for x, y in seen)


def test_cma_is_the_same_by_seed_and_minds_its_probes() -> None:
    def run(seed: int, probes: int = 18) -> list[tuple[float, ...]]:
        seen: list[tuple[float, ...]] = []
        evolve(lambda at: seen.append(at) or sum(x * x for x in at), [(0, 1)] * 3, [0.5] * 3, probes, seed)
        return seen

    assert run(0) == run(0) != run(1)
    assert 0 < len(run(0, 5)) <= 5
    assert len(run(0, 20)) == 14  # two generations of 4 + int(3 ln 3) = 7


def test_cma_goes_on_where_a_figure_is_infinite() -> None:
    seen: list[tuple[float, ...]] = []
    evolve(lambda at: seen.append(at) or (math.inf if at[0] < 0.5 else at[0]), [(0, 1), (0, 1)], [0.5, 0.5], 24, 3)
    assert len(seen) == 24
