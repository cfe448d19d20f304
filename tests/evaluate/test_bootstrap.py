from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.errors import InputError
from asrlife.evaluate.bootstrap import interval, paired, rate_difference, rate_interval
from asrlife.evaluate.wer import Counts, word_error_rate

counts = st.builds(Counts, st.integers(1, 8), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))


@settings(deadline=None, max_examples=60)
@given(st.lists(counts, min_size=1, max_size=40))
def test_the_interval_contains_the_point_estimate(rows: list[Counts]) -> None:
    low, high = interval(rows)
    assert low - 1e-12 <= word_error_rate(rows) <= high + 1e-12


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40))
def test_the_paired_interval_contains_the_difference_and_turns_with_the_order(rows: list[tuple[int, int]]) -> None:
    a, b = ([Counts(6 - wrong, wrong) for wrong in column] for column in zip(*rows, strict=True))
    difference, low, high = paired(a, b)
    assert difference == word_error_rate(b) - word_error_rate(a)
    assert low - 1e-12 <= difference <= high + 1e-12
    assert np.allclose(paired(b, a), (-difference, -high, -low), atol=1e-12)


def test_the_width_is_that_of_a_binomial() -> None:
    rng = np.random.default_rng(0)
    rows = [Counts(0, 1) if wrong else Counts(1) for wrong in rng.random(2_000) < 0.2]
    low, high = interval(rows, samples=4_000)
    rate = word_error_rate(rows)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(rate * (1 - rate) / 2_000), rel=0.06)


def test_pairing_sees_what_separate_intervals_cannot() -> None:
    rng = np.random.default_rng(1)
    wrong = rng.integers(0, 6, 20)
    a = [Counts(10 - w - 1, int(w) + 1) for w in wrong]
    b = [Counts(10 - w, int(w)) for w in wrong]
    difference, low, high = paired(a, b)
    assert (difference, low, high) == pytest.approx((-0.1, -0.1, -0.1))
    assert interval(b)[1] > interval(a)[0]


def test_the_same_seed_draws_the_same_interval() -> None:
    rows = [Counts(5, n % 3) for n in range(30)]
    assert interval(rows, seed=1) == interval(rows, seed=1) != interval(rows, seed=2)


def test_an_utterance_without_words_does_not_break_the_draws() -> None:
    low, high = interval([Counts(), Counts(1, 1)])
    assert (low, high) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("a", "b", "cause"),
    [
        ([Counts(1)], [Counts(1), Counts(1)], "1 and 2 utterances"),
        ([Counts(1)], [Counts(2)], "different references"),
        ([], [], "no words"),
    ],
)
def test_what_cannot_be_paired_is_refused(a: list[Counts], b: list[Counts], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        paired(a, b)


def test_rates_of_anything_are_sums_over_sums() -> None:
    """Nats of three texts of 2, 2 and 4 tokens: (1 + 3 + 4) / 8 = 1, and 0.5 a token less for the other."""
    nats, tokens = np.array([1.0, 3.0, 4.0]), np.array([2.0, 2.0, 4.0])
    difference, low, high = rate_difference(nats, nats - 0.5 * tokens, tokens)
    assert (difference, low, high) == pytest.approx((-0.5, -0.5, -0.5))
    low, high = rate_interval(nats, tokens)
    assert 0.5 <= low < 1 < high <= 1.5
