"""Similarity of texts: by hand, and bounds."""

from __future__ import annotations

import math

import pytest

from asrlife.text.similarity import similarities


def test_a_worked_example() -> None:
    found = similarities(["red one"], {"x": ["red two"], "y": ["green ham"]})
    # three documents; "red" is in two of them: idf = ln(4 / 3) + 1; the other words in one: ln(4 / 2) + 1
    red, rare = math.log(4 / 3) + 1, math.log(2) + 1
    assert found == {"x": pytest.approx(red**2 / (red**2 + rare**2)), "y": 0.0}


def test_the_same_words_in_another_order_are_the_same_text() -> None:
    found = similarities(["A b", "c"], {"same": ["c b a"], "twice": ["a b c a b c"], "none": []})
    assert found["same"] == pytest.approx(1.0) and found["twice"] == pytest.approx(1.0) and found["none"] == 0.0
