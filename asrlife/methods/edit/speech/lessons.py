"""Utterances that an edit is made from, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from asrlife.data.utterance import Utterance
from asrlife.errors import InputError

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.models.handle import Recogniser

SILENT = 1e-4  # of full scale: below it lies what a 16-bit converter makes of nothing
_AROUND = '.,;:!?"()[]{}'


@dataclass(frozen=True, eq=False)
class Lesson:
    """Sound, its right text, and the words of it that are taught, `first` to `last` (exclusive)."""

    waveform: Waveform
    text: str
    first: int
    last: int


def lessons(model: Recogniser, utterances: Sequence[Utterance], word: str | None = None) -> list[Lesson]:
    """One lesson for each utterance; without `word` all of its words are taught.

    Raises InputError, naming the utterance, for no text, no sound, silence, a text that the model cannot spell or hold, and one without
    the word.
    """
    if not utterances:
        raise InputError("nothing to teach: give at least one utterance with its text")
    return [_lesson(model, utterance, word) for utterance in utterances]


def _lesson(model: Recogniser, utterance: Utterance, word: str | None) -> Lesson:
    try:
        text = " ".join((utterance.text or "").split())
        if not text:
            raise InputError("has no text: write what is said, with the right spelling")
        first, last = place(text, word)
        return Lesson(_sounding(model, utterance, text), text, first, last)
    except InputError as error:
        raise InputError(f"utterance {utterance.id!r}: {error}") from error


def place(text: str, word: str | None) -> tuple[int, int]:
    """Where the words of `word` stand among those of `text`, first to last (exclusive); raises InputError where they do not."""
    words = [_bare(one) for one in text.split()]
    if word is None:
        return 0, len(words)
    wanted = [_bare(one) for one in word.split()]
    if not wanted:
        raise InputError("the word to teach is empty: name it, or leave it out to teach the whole text")
    for first in range(len(words) - len(wanted) + 1):
        if words[first : first + len(wanted)] == wanted:
            return first, first + len(wanted)
    raise InputError(f"{word!r} is not in the text {text!r}: spell it there as it is to be written")


def _bare(word: str) -> str:
    return word.casefold().strip(_AROUND)


def _sounding(model: Recogniser, utterance: Utterance, text: str) -> Waveform:
    waveform = utterance.waveform(model.rate)
    if not len(waveform.samples):
        raise InputError("holds no sound: record it again")
    if float(np.abs(waveform.samples).max()) < SILENT:
        raise InputError("is silent: record it again, nearer to the microphone")
    model.fits(waveform, text)
    return waveform
