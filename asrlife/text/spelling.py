"""Text in the letters that a model has."""

from __future__ import annotations

import unicodedata
from collections.abc import Set

_UNFOLDABLE = {"\u00e6": "ae", "\u0153": "oe", "\u00f8": "o", "\u00f0": "d", "\u00fe": "th", "\u0142": "l", "\u0111": "d"}


def fitted(text: str, alphabet: Set[str]) -> tuple[str, str, str]:
    """The text in lower case with the characters of `alphabet` alone; the accented letters that were folded; the letters left over.

    Punctuation that the alphabet lacks becomes a space, an accented letter the plain one; where letters are left over, the text cannot
    be spelled and is returned as far as it goes.
    """
    kept, folded, unknown = list[str](), dict[str, None](), dict[str, None]()
    for c in text.lower():
        plain = _folded(c)
        if c in alphabet or c == " ":
            kept.append(c)
        elif not c.isalnum() and not unicodedata.category(c).startswith("M"):
            kept.append("" if c == "'" else " ")
        elif plain and set(plain) <= alphabet:
            kept.append(plain)
            folded[c] = None
        else:
            unknown[c] = None
    return " ".join("".join(kept).split()), "".join(folded), "".join(unknown)


def _folded(c: str) -> str:
    return _UNFOLDABLE.get(c) or "".join(part for part in unicodedata.normalize("NFKD", c.casefold()) if not unicodedata.combining(part))
