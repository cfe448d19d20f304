"""What cannot be taught is refused before anything is computed, and places of words are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.methods.edit.speech.lessons import Lesson, lessons, place
from asrlife.methods.edit.speech.listeners import span
from asrlife.models.handle import Recogniser
from asrlife.models.load import load

NOISE = Waveform(0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32), 16_000)
NOTHING, SILENCE = Waveform(np.zeros(0, np.float32), 16_000), Waveform(np.zeros(16_000, np.float32), 16_000)


@pytest.fixture(scope="module")
def ctc(ctc_folder: Callable[..., Path]) -> Recogniser:
    return load(ctc_folder())


@pytest.mark.parametrize(
    ("audio", "text", "word", "message"),
    [
        (NOISE, None, None, "'u': has no text"),
        (NOISE, "  ", None, "'u': has no text"),
        (NOTHING, "a bed", None, "'u': holds no sound"),
        (SILENCE, "a bed", None, "'u': is silent"),
        (NOISE, "a b3d", None, "'u': the model cannot spell '3'"),
        (NOISE, "a bed", "bad", "'u': 'bad' is not in the text 'a bed'"),
        (NOISE, "a bed", " ", "'u': the word to teach is empty"),
    ],
)
def test_what_cannot_be_taught_is_named(ctc: Recogniser, audio: Waveform, text: str | None, word: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lessons(ctc, [Utterance("u", audio, text)], word)


def test_no_utterances_are_refused(ctc: Recogniser) -> None:
    with pytest.raises(InputError, match="give at least one utterance"):
        lessons(ctc, [])


@pytest.mark.parametrize(
    ("text", "word", "found"),
    [
        ("call phoebe now", "phoebe", (1, 2)),
        ("Call Phoebe, now", "phoebe", (1, 2)),
        ("the river boys sing", "river boys", (1, 3)),
        ("call phoebe", None, (0, 2)),
    ],
)
def test_words_are_found_whatever_their_case_and_stops(text: str, word: str | None, found: tuple[int, int]) -> None:
    assert place(text, word) == found


def test_the_frames_of_a_word_reach_from_the_letters_before_to_those_behind() -> None:
    blank, space, a, b, c = range(5)
    #      a a _ sp _ b _ b c _ sp sp a
    path = [a, a, blank, space, blank, b, blank, b, c, blank, space, space, a]
    labels = [a, space, b, b, c, space, a]
    taught = span(path, labels, Lesson(NOISE, "a bbc a", 1, 2), space, blank)
    assert [place for place, own in enumerate(taught) if own] == list(range(2, 12))
    assert span(path, labels, Lesson(NOISE, "a bbc a", 0, 1), space, blank) == [place < 5 for place in range(13)]
    assert all(span(path, labels, Lesson(NOISE, "a bbc a", 0, 3), space, blank))
