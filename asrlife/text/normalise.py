"""The normal form in which transcripts are compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache


def normalise(text: str) -> str:
    """Spell `text` as the Whisper papers score it: lower case, no punctuation, numbers as digits, British spellings as American ones.

    Source: EnglishTextNormalizer of openai-whisper (arXiv 2212.04356, appendix C).
    """
    return _normaliser()(text).strip()


@cache
def _normaliser() -> Callable[[str], str]:
    from whisper.normalizers import EnglishTextNormalizer

    normaliser: Callable[[str], str] = EnglishTextNormalizer()
    return normaliser
