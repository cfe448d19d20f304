from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.text.normalise import normalise


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Turn ON the Light, please! ", "turn on the light please"),
        ("It's the COLOUR of mister Smith's car", "it is the color of mister smith is car"),
        ("twenty three degrees", "23 degrees"),
        ("um, hello [laughter]", "hello"),
        ("zero zero five nine", "0059"),
        ("", ""),
    ],
)
def test_the_whisper_normal_form(text: str, normal: str) -> None:
    assert normalise(text) == normal


@settings(deadline=None)
@given(st.lists(st.sampled_from(["Bin", "BLUE", "at", "f,", "Place", "now.", "Green", "again"])).map(" ".join))
def test_plain_words_are_normal_after_one_pass(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text) == " ".join(w.lower().strip(",.") for w in text.split())
