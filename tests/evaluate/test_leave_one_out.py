"""Boards of leave-one-out trials: figures by hand, and intervals against the plain bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from asrlife.errors import InputError
from asrlife.evaluate.bootstrap import rate_difference, rate_interval
from asrlife.evaluate.leave_one_out import Board, Trial


def trial(row: str, domain: str, seed: int, errors: list[int], words: list[int]) -> Trial:
    return Trial(row, "generality", domain, seed, tuple(errors), tuple(words))


def test_the_mean_is_over_domains_and_seeds_by_hand() -> None:
    trials = [
        trial("base", "a", 1, [1, 1], [2, 2]), trial("base", "a", 2, [2, 0], [2, 2]), trial("base", "b", 1, [0], [4]),
        trial("base", "b", 2, [4], [4]), trial("new", "a", 1, [0, 0], [2, 2]), trial("new", "a", 2, [0, 1], [2, 2]),
        trial("new", "b", 1, [0], [4]), trial("new", "b", 2, [2], [4]),
    ]  # fmt: skip
    board = Board(tuple(trials))
    assert board.rate("generality", "base", "a").value == 0.5  # (1 + 1 + 2 + 0) / 2 seeds / 4 words
    assert board.rate("generality", "base").value == 0.5 and board.rate("generality", "base").n == 3
    assert board.rate("generality", "new").value == pytest.approx((0.125 + 0.25) / 2)
    assert board.change("generality", "base", "new").value == pytest.approx(-0.3125)
    assert board.relative("generality", "base", "new").value == pytest.approx(-0.625)
    assert board.by_seed("generality", "base") == {1: 0.25, 2: 0.75}
    told = board.to_json([("base", "new")])
    assert [line["axis"] for line in told["differences"]] == ["generality"]
    assert told["axes"]["generality"]["new"]["domains"]["b"]["value"] == 0.25
    with pytest.raises(InputError, match="no trial of 'old' on generality; there are base, new"):
        board.rate("generality", "old")


def test_one_seed_and_one_domain_have_the_intervals_of_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(4, 9, 200)
    a, b = (rng.binomial(words, share) for share in (0.4, 0.3))
    board = Board(tuple(trial(row, "d", 1, list(map(int, e)), list(map(int, words))) for row, e in (("a", a), ("b", b))), 4000)
    found, low, high = board.rate("generality", "a"), *rate_interval(a.astype(float), words.astype(float), 4000)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))
    change, expected = board.change("generality", "a", "b"), rate_difference(a * 1.0, b * 1.0, words * 1.0, 4000)
    assert (change.value, change.low, change.high) == tuple(pytest.approx(value, abs=0.004) for value in expected)


def test_seeds_that_disagree_widen_the_interval() -> None:
    words, same, apart = [1] * 50, [[i % 2 for i in range(50)]] * 3, [[0] * 50, [i % 2 for i in range(50)], [1] * 50]
    boards = [Board(tuple(trial("r", "d", seed, errors, words) for seed, errors in enumerate(rows))) for rows in (same, apart)]
    rates = [board.rate("generality", "r") for board in boards]
    assert rates[0].value == pytest.approx(0.5) and rates[1].value == pytest.approx(0.5)
    assert rates[1].high - rates[1].low > 1.5 * (rates[0].high - rates[0].low)


def test_a_row_against_itself_does_not_differ() -> None:
    board = Board((trial("r", "d", 1, [1, 0, 2], [3, 3, 3]),))
    change = board.change("generality", "r", "r")
    assert (change.value, change.low, change.high) == (0.0, 0.0, 0.0)
