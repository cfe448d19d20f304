from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.methods.online.choice import average, confidence, votes
from asrlife.models.ctc_decode import likelihood
from asrlife.models.handle import Emissions
from asrlife.text.hypothesis import Hypothesis

MODEL: Any = SimpleNamespace(blank=0)


def emissions(seed: int, sharp: float = 3.0, frames: int = 6) -> Emissions:
    generator = torch.Generator().manual_seed(seed)
    return Emissions(sharp * torch.randn(1, frames + 2, 4, generator=generator), torch.tensor([frames]))


def said(*tokens: int, score: float = -1.0) -> Hypothesis:
    return Hypothesis("", tokens, (), score)


def test_confidence_is_the_mean_of_the_best_log_probability_over_valid_steps() -> None:
    logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [99.0, 0.0]]])
    best = -torch.log1p(torch.exp(torch.tensor(-2.0)))
    expected = (torch.log(torch.tensor(0.5)) + best) / 2
    assert confidence(Emissions(logits, torch.tensor([2]))).item() == pytest.approx(expected.item(), abs=1e-6)


def test_votes_are_the_mean_likelihood_under_all_judges() -> None:
    judges, hypotheses = [emissions(1), emissions(2, 6.0), emissions(3)], [said(1, 2), said(3)]
    logs = [one.logits[0, :6].log_softmax(-1) for one in judges]
    by_hand = [sum(likelihood(log, tokens, 0) / 6 for log in logs) / 3 for tokens in ((1, 2), (3,))]
    assert votes(MODEL, judges, hypotheses) == pytest.approx(by_hand, abs=1e-5)


def test_nothing_said_has_a_likelihood_too() -> None:
    assert all(value < 0 for value in votes(MODEL, [emissions(1), emissions(2)], [said(), said(1)]))


def test_sequence_models_vote_for_themselves() -> None:
    model: Any = SimpleNamespace(blank=None)
    assert votes(model, [emissions(1), emissions(2), emissions(3)], [said(1, score=-0.5), said(2, score=-0.25)]) == [-0.5, -0.25]


@given(st.lists(st.floats(-5, 0), min_size=1, max_size=5), st.floats(0, 0.99))
@settings(deadline=None)
def test_an_average_of_one_value_is_that_value(values: list[float], memory: float) -> None:
    assert average(average((), values, memory), values, memory) == pytest.approx(tuple(values))
