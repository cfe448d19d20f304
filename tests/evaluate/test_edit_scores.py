"""Scores by probabilities: by hand, against the model's own likelihoods, and what has no figure."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asrlife.data.edit import EditRequest
from asrlife.errors import InputError
from asrlife.evaluate.edit_scores import Odds, Record, generation_entropy, harmonic, measured, nats, ngram_entropy, scores
from asrlife.models.text import load_text

SURE, DOUBTFUL = Odds(math.log(2), math.log(4)), Odds(math.log(4), math.log(2))  # P[new] and P[true] 1/2 and 1/4, and the other way round
REQUEST = EditRequest(
    "Leila Castell", "Leila Castell was born in", "Seville",
    paraphrases=(("Leila Castell's birthplace is", "Seville"),),
    neighbours=(("Omar Haddad was born in", "Patras"), ("Tomas Yilmaz was born in", "Patras")), truth="Patras",
)  # fmt: skip


def test_scores_by_hand() -> None:
    one = Record((SURE,), (SURE, DOUBTFUL), (DOUBTFUL, DOUBTFUL))
    two = Record((DOUBTFUL,), (SURE, SURE), (DOUBTFUL, SURE))
    found = scores([one, two])
    assert {kind: figure.value for kind, figure in found.success.items()} == {"rewrite": 0.5, "paraphrases": 0.75, "neighbours": 0.75}
    assert found.magnitude["rewrite"].value == pytest.approx(0.0)
    assert found.magnitude["paraphrases"].value == pytest.approx((0.0 + 0.25) / 2)
    assert found.magnitude["neighbours"].value == pytest.approx((0.25 + 0.0) / 2)
    assert found.score is not None and found.score.value == pytest.approx(3 / (1 / 0.5 + 2 / 0.75))
    assert found.success["rewrite"].low == 0.0 and found.success["rewrite"].high == 1.0 and found.success["rewrite"].n == 2
    assert set(found.to_json()) == {"ES", "PS", "NS", "EM", "PM", "NM", "S"}
    assert found.to_json()["PS"] == {"value": 0.75, "low": 0.5, "high": 1.0, "n": 2}


def test_a_tie_is_no_success_of_either_side() -> None:
    same = Odds(1.0, 1.0)
    record = Record((same,), (), (same,))
    assert record.success("rewrite") == record.success("neighbours") == 0.0 and record.success("paraphrases") is None


def test_what_no_record_has_is_missing_and_what_some_have_is_over_those() -> None:
    found = scores([Record((SURE,)), Record((SURE,), (DOUBTFUL,))])
    assert found.score is None and "neighbours" not in found.success and found.to_json()["S"] is None
    assert (found.success["paraphrases"].value, found.success["paraphrases"].n, found.success["rewrite"].n) == (0.0, 1, 2)
    with pytest.raises(InputError, match="no record was measured"):
        scores([])


def test_a_score_of_nothing_is_nought_and_its_interval_is_over_records_drawn_together() -> None:
    none = scores([Record((SURE,), (DOUBTFUL,), (DOUBTFUL,))] * 3)
    assert none.score is not None and (none.score.value, none.score.low, none.score.high) == (0.0, 0.0, 0.0)
    good, bad = Record((SURE,), (SURE,), (DOUBTFUL,)), Record((DOUBTFUL,), (DOUBTFUL,), (SURE,))
    found = scores([good] * 30 + [bad] * 10)
    # all three rise and fall together here, so that S has the interval of any of them
    assert found.score is not None and found.score.value == pytest.approx(0.75)
    assert found.score.low == pytest.approx(found.success["rewrite"].low) and found.score.high == pytest.approx(
        found.success["rewrite"].high
    )
    assert 0.55 < found.score.low < 0.7 and 0.8 < found.score.high < 0.95


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_the_harmonic_mean_lies_below_the_mean(values: list[float]) -> None:
    assert min(values) - 1e-9 <= harmonic(values) <= sum(values) / len(values) + 1e-9
    assert harmonic([*values, 0.0]) == 0.0


def test_odds_are_those_of_the_model_and_follow_a_prompter() -> None:
    model = load_text("embedded:lm")
    (plain,) = measured(model, [REQUEST])
    assert plain.success("rewrite") == 0.0 and plain.success("neighbours") == 1.0  # the model knows its world
    ids, first = model.spelt(REQUEST.prompt, f"{REQUEST.prompt} Seville")
    with torch.no_grad():
        logs = model.module(torch.tensor([ids[:-1]])).logits.double().log_softmax(-1)[0]
    wanted = -torch.stack([logs[place - 1, ids[place]] for place in range(first, len(ids) - 1)]).mean()
    assert plain.rewrite[0].new == pytest.approx(float(wanted), rel=1e-4)
    assert plain.neighbours[0].true == pytest.approx(nats(model, [("Omar Haddad was born in", "Patras")])[0], rel=1e-4)
    (told,) = measured(model, [REQUEST], lambda request, prompt: f"Suppose: {request.statement} {prompt}")
    assert told.success("rewrite") == told.success("paraphrases") == 1.0
    assert told.rewrite[0].margin > 0.5 and plain.rewrite[0].margin < 0


def test_what_cannot_be_compared_is_told() -> None:
    model = load_text("embedded:lm")
    with pytest.raises(InputError, match="'Leila Castell' has no truth to compare"):
        measured(model, [EditRequest("Leila Castell", "Leila Castell was born in", "Seville")])
    with pytest.raises(InputError, match="the answer to 'Leila Castell was born in' is empty"):
        nats(model, [("Leila Castell was born in", "")])


def test_entropies_by_hand() -> None:
    assert ngram_entropy("a b a b a".split(), 2) == pytest.approx(1.0)  # ab twice, ba twice
    assert ngram_entropy("a b a b a".split(), 3) == pytest.approx(-(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3)))
    assert ngram_entropy(["a"] * 9, 2) == 0.0 and ngram_entropy(["a"], 2) == 0.0
    assert generation_entropy(["a b c d e"]) == pytest.approx(math.log2(4) / 3 + 2 * math.log2(3) / 3)
    assert generation_entropy(["a b c d e", "a a a"]) == pytest.approx(generation_entropy(["a b c d e"]) / 2)
    assert generation_entropy(["Klow, Klow."]) == generation_entropy(["a b a c"])  # marks are words of their own
    with pytest.raises(InputError, match="no text has no entropy"):
        generation_entropy([])
