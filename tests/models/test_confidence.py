from __future__ import annotations

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asrlife
from asrlife.audio.speak import speak
from asrlife.models.confidence import Platt, calibrated
from asrlife.text.hypothesis import Hypothesis, Word

SAID = Hypothesis("a b", (1, 2), (Word("a", 0, 1, 0.5), Word("b", 1, 2, 0.0)), log(0.8))


def card(scale: float, offset: float) -> dict[str, object]:
    curve = {"scale": scale, "offset": offset}
    return {"confidence": {"utterance": curve, "word": curve}}


def test_without_an_entry_everything_stays() -> None:
    assert calibrated(SAID, {}) is SAID and calibrated(SAID, {"confidence": {"word": {}}}) is SAID


def test_the_straight_curve_gives_the_raw_probability() -> None:
    found = calibrated(SAID, card(1, 0))
    assert found.confidence == pytest.approx(0.8) and [word.confidence for word in found.words] == pytest.approx([0.5, 0.0])
    assert (found.text, found.tokens, found.score) == (SAID.text, SAID.tokens, SAID.score)


def test_a_curve_by_hand() -> None:
    found = calibrated(SAID, card(2, -1))
    assert found.confidence == pytest.approx(1 / (1 + exp(-(2 * log(4) - 1)))) and found.words[0].confidence == pytest.approx(
        1 / (1 + exp(1))
    )


def test_adapted_weights_have_curves_of_their_own() -> None:
    both = card(1, 0)
    both["confidence"]["adapted"] = card(1, -2)["confidence"]  # type: ignore[index]
    plain, adapted = calibrated(SAID, both), calibrated(SAID, both, adapted=True)
    assert plain.confidence == pytest.approx(0.8) and adapted.confidence == pytest.approx(1 / (1 + exp(-(log(4) - 2))))
    assert adapted.words[0].confidence == pytest.approx(1 / (1 + exp(2)))
    assert calibrated(SAID, card(1, 0), adapted=True) == plain


def test_no_words_have_no_confidence() -> None:
    assert calibrated(Hypothesis("", (), (), -0.1), card(1, 0)).confidence is None


@given(st.floats(-1e6, 0), st.floats(-50, 50), st.floats(-500, 500))
def test_any_score_gives_a_probability(score: float, scale: float, offset: float) -> None:
    assert 0 <= Platt(scale, offset).of(score) <= 1


@pytest.mark.parametrize("name", ["ctc", "ctc-tts", "whisper"])
def test_the_embedded_models_say_probabilities(name: str) -> None:
    model = asrlife.load(f"embedded:{name}")
    assert model.card["confidence"]["utterance"]["error"]["after"] < model.card["confidence"]["utterance"]["error"]["before"]
    (found,) = model.transcribe([speak("turn on the kitchen light")])
    assert found.confidence is not None and 0 < found.confidence < exp(found.score)
    assert all(0 <= word.confidence <= 1 for word in found.words)


def test_refinements_of_the_embedded_model_promise_less() -> None:
    curves = asrlife.load("embedded:ctc").card["confidence"]
    said = Hypothesis("bin blue", (1, 2), (Word("bin", 0, 1, 0.99), Word("blue", 1, 2, 0.99)), log(0.995))
    plain, adapted = (calibrated(said, {"confidence": curves}, adapted=each) for each in (False, True))
    assert plain.confidence is not None and adapted.confidence is not None and adapted.confidence < plain.confidence
    assert curves["adapted"]["word"]["error"]["after"] < 0.5 * curves["adapted"]["word"]["error"]["before"]


def test_alternatives_differ_and_begin_with_the_likeliest() -> None:
    model = asrlife.load("embedded:ctc")
    found = model.alternatives(speak("turn on the kitchen light"), 5)
    assert len({hypothesis.text for hypothesis in found}) == 5
    assert [hypothesis.score for hypothesis in found] == sorted((hypothesis.score for hypothesis in found), reverse=True)
    assert found[0].score >= model.transcribe([speak("turn on the kitchen light")])[0].score - 1e-4
    assert all(word.start <= word.end for hypothesis in found for word in hypothesis.words)
