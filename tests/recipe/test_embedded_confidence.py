from __future__ import annotations

import numpy as np
import pytest

from asrlife.models.confidence import logit
from asrlife.recipe.embedded.confidence import Evidence, crossed, expected_error, fit


def drawn(scale: float, offset: float, count: int = 20_000) -> Evidence:
    rng = np.random.default_rng(0)
    scores = np.log(rng.uniform(0.3, 0.999, count))
    chance = 1 / (1 + np.exp(-np.array([scale * logit(score) + offset for score in scores])))
    return Evidence(scores, rng.random(count) < chance, np.arange(count) % 50)


def test_the_curve_that_made_the_data_is_found() -> None:
    curve = fit(drawn(1.5, -2.0))
    assert (curve.scale, curve.offset) == pytest.approx((1.5, -2.0), abs=0.1)


def test_a_fitted_curve_is_calibrated_on_what_it_never_saw() -> None:
    evidence = drawn(1.5, -2.0)
    before, after = expected_error(np.exp(evidence.scores), evidence.right), expected_error(crossed(evidence), evidence.right)
    assert before > 0.1 and after < 0.02


def test_what_is_never_right_does_not_break_the_fit() -> None:
    evidence = Evidence(np.log(np.linspace(0.5, 0.9, 40)), np.zeros(40, bool), np.arange(40))
    assert fit(evidence).of(np.log(0.9)) < 0.1


def test_the_error_by_hand() -> None:
    assert expected_error(np.array([0.95, 0.95, 0.15, 0.15]), np.array([True, True, False, False])) == pytest.approx(0.1)
    assert expected_error(np.array([1.0, 0.0]), np.array([False, True])) == 1.0
