"""Finding a word in what a Whisper recogniser hears."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asrlife.audio.read import defects
from asrlife.errors import InputError
from asrlife.models.whisper_tokens import words

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.models.whisper import WhisperRecogniser

_LEAST = 0.02  # s; a frame of the encoder


@dataclass(frozen=True)
class Heard:
    """A word in a transcript: its `places` among the `tokens`, its `span` in the sound and the sound's length, both in s."""

    text: str
    word: str
    tokens: tuple[int, ...]
    places: tuple[int, ...]
    span: tuple[float, float]
    length: float


def find(model: WhisperRecogniser, waveform: Waveform, word: str, nth: int = 1) -> Heard:
    """The `nth` `word` that the model hears, whatever its case and the marks around it; raises InputError where there is none."""
    wrong = [name for name in defects(waveform) if name in {"silent", "short"}]
    if wrong:
        raise InputError(f"the sound is {wrong[0]}: give a recording in which {word!r} is said")
    (said,) = model.decode(model.prepare([waveform]))
    placed = list(words(said.tokens, model.control.end, model.spelling))
    found = [number for number, (text, _) in enumerate(placed) if _plain(text) == _plain(word)]
    if not 1 <= nth <= len(found) or not _plain(word):
        times = f" {nth} times" if found else ""
        raise InputError(f"{model.name} does not hear {word!r}{times} in {said.text!r}: name one of its words")
    timed = said.words[found[nth - 1]]
    start = min(timed.start, waveform.duration - _LEAST)
    span = (start, min(waveform.duration, max(timed.end, start + _LEAST)))
    return Heard(said.text, timed.text, said.tokens, tuple(placed[found[nth - 1]][1]), span, waveform.duration)


def _plain(word: str) -> str:
    return re.sub(r"[^\w']", "", word.casefold())
