from __future__ import annotations

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.text.edits import corresponding, edits

LETTERS = st.text("ab ", max_size=7)


@settings(max_examples=50, deadline=None)
@given(LETTERS.filter(str.strip), LETTERS)
def test_the_last_is_the_distance_of_the_whole(text: str, other: str) -> None:
    text = text.strip()
    found = jiwer.process_characters(text, other.strip())
    assert edits(text, other.strip())[-1] == found.substitutions + found.deletions + found.insertions


@settings(max_examples=50, deadline=None)
@given(LETTERS, LETTERS)
def test_a_stretch_anywhere_is_the_best_of_all_stretches(text: str, other: str) -> None:
    stretches = [edits(text, other[first:last])[-1] for first in range(len(other) + 1) for last in range(first, len(other) + 1)]
    assert min(edits(text, other, anywhere=True)) == min(stretches)


@pytest.mark.parametrize(
    ("begin", "end", "other", "found"),
    [
        ("call", " phoebe at home", "call fibi at home", "call"),
        ("call", " phoebe at home", "kall fibi at home", "kall"),
        ("", "phoebe", "fibi", ""),
        ("call", " phoebe", "", ""),
    ],
)
def test_the_beginning_of_another_text_is_found(begin: str, end: str, other: str, found: str) -> None:
    assert other[: corresponding(begin, end, other)] == found
