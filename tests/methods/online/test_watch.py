from __future__ import annotations

import statistics

import pytest

from asrlife.methods.online.watch import Watch


def test_the_deviation_by_hand() -> None:
    # mean 2, sample deviation 1; four gaps of mean 3 are 1 / (1 / sqrt(4)) = 2 away
    watch = Watch(gaps=(1.0, 2.0, 3.0)).measured()
    assert (watch.mean, watch.spread, watch.gaps) == (2.0, 1.0, ())
    assert watch.deviation([2.0, 4.0, 3.0, 3.0]) == pytest.approx(2.0)
    assert watch.judged(2.0).fails == 0
    assert watch.judged(2.1).fails == 1


def test_failures_count_in_a_row_only() -> None:
    watch = Watch(gaps=(0.0, 1.0)).measured().judged(3.0)
    assert watch.judged(3.0).fails == 2
    assert watch.judged(-9.0).judged(3.0).fails == 1


def test_equal_gaps_divide_by_no_zero() -> None:
    watch = Watch(gaps=(0.25,) * 4).measured()
    assert watch.deviation([0.25] * 5) == 0
    assert watch.deviation([0.26] * 5) > 2


def test_statistics_are_those_of_the_sample() -> None:
    gaps = (0.5, -0.25, 0.125, 2.0)
    watch = Watch()
    for gap in gaps:
        watch = watch.collected(gap)
    assert watch.measured().spread == statistics.stdev(gaps)


def test_nothing_is_judged_before_it_is_measured() -> None:
    assert not Watch().ready
    with pytest.raises(ValueError, match="no statistics"):
        Watch().deviation([1.0])
