"""Numbers, dates and units as words, and text as sentences: wetext and sentencex, and what they leave open for us."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

LANGUAGES = ("en", "ja", "zh")  # those whose numbers wetext says
_DIGITS = "zero one two three four five six seven eight nine".split()
_UNITS = {  # units of medicine that wetext 0.1.8 does not know, after a number
    r"(?:\u00b5g|\u03bcg|mcg|ug)": "micrograms", "mL": "ml", "dL": "deciliters", "dl": "deciliters", "mmHg": "millimeters of mercury",
    "bpm": "beats per minute", "mmol": "millimoles", "mEq": "milliequivalents", "IU": "international units", "kcal": "kilocalories",
}  # fmt: skip
_PER = {"L": "liter", "l": "liter", "dl": "deciliter", "dL": "deciliter", "ml": "milliliter", "h": "hour", "hr": "hour", "min": "minute"}
_PER |= {"day": "day", "d": "day", "kg": "kilogram", "week": "week", "dose": "dose"}
_TITLES = {"Dr": "doctor", "Mr": "mister", "Mrs": "missus", "Ms": "miss", "Prof": "professor"}  # as Whisper's normaliser has them
_HINTS = (
    *((rf"\b{title}\.(?= [A-Z])", words) for title, words in _TITLES.items()),
    (r"\bNo\. (?=\d)", "number "),
    (r"\b1(?=,\d{3}\b)", "one 1"),  # wetext says "thousand" for 1,000
    (r"\b(\d{2,3})/(\d{2,3})\b(?!/)", r"\1 over \2"),  # a blood pressure, no fraction
    (r"(\d\.\d+)-(?=\d+\.\d)", r"\1 to "),
    *((rf"(?<=\d)\s*{unit}(?![A-Za-z])", f" {words}") for unit, words in _UNITS.items()),
    *((rf"(\d\s*[A-Za-z]+)/{unit}(?![A-Za-z])", rf"\1 per {words}") for unit, words in _PER.items()),
    (r"(?<=\d)\s*(mg|ml|g|micrograms)/(?=\d)", r" \1 per "),
    (r"<\s*(?=\d)", "less than "), (r">\s*(?=\d)", "more than "), (r"\u2264\s*(?=\d)", "at most "), (r"\u2265\s*(?=\d)", "at least "),
    (r"\u00b1\s*(?=\d)", "plus or minus "),
)  # fmt: skip


def sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text, in order; abbreviations as "Dr." and initials end none."""
    import sentencex

    return [part.strip() for part in sentencex.segment(language.partition("-")[0], text) if part.strip()]


def spoken(text: str, language: str = "en") -> str:
    """The text with its numbers, dates, times, amounts and units in words, as "five milligrams" for "5 mg".

    English, Chinese and Japanese; other languages, and what has no reading, keep their digits.
    """
    code = language.partition("-")[0]
    text = _hinted(text) if code == "en" else text
    if code not in LANGUAGES or not re.search(r"[\d%&$\u20ac\u00a3\u00b0=+@#*\u00bd\u00bc\u00be]", text):
        return text
    return " ".join(_said(text, code).replace("\\", "").split())


def _hinted(text: str) -> str:
    """English that wetext would misread, in words that it does not touch."""
    for pattern, words in _HINTS:
        text = re.sub(pattern, words, text)
    return re.sub(r"\b(1[1-9]|20)(\d)0s\b", _decade, text)


def _decade(found: re.Match[str]) -> str:
    return re.sub(r"y$", "ie", _said(f"in {found[1]}{found[2]}0", "en").removeprefix("in ")) + "s"


def _said(text: str, language: str) -> str:
    """What wetext makes of it; where it gives up, word by word, and then digit by digit."""
    whole = _tried(text, language)
    if whole is not None:
        return whole
    parts = ((word, _tried(word, language)) for word in text.split())
    return " ".join(_spelt(word) if part is None else part for word, part in parts)


def _tried(text: str, language: str) -> str | None:
    try:
        return _normaliser(language)(text)
    except (AssertionError, ValueError, RuntimeError, IndexError, KeyError):
        return None


def _spelt(word: str) -> str:
    return " ".join(re.sub(r"\d", lambda digit: f" {_DIGITS[int(digit[0])]} ", word).split())


@cache
def _normaliser(language: str) -> Callable[[str], str]:
    import wetext

    made: Any = wetext.Normalizer(lang=language, operator="tn")
    return lambda text: str(made.normalize(text))
