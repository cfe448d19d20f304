"""Which characters of a text can be read aloud: emoji, control characters and other scripts, each named where it goes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_TYPOGRAPHY = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u00b4`", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
        **dict.fromkeys("\u2014\u2015", ", "),
        "\u2026": "...",
        "\u2044": "/",
        **{"\u3002": ". ", "\uff0c": ", ", "\uff01": "! ", "\uff1f": "? ", "\uff1b": "; ", "\uff1a": ": ", "\u3001": ", "},
        **{"\u061f": "?", "\u060c": ",", "\u0964": "."},
    }
)
_EMOJI = re.compile(
    "(?:[\U0001f1e6-\U0001f1ff]{2}|[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u2300-\u23ff\u25a0-\u25ff\u2190-\u21ff\U0001f000-\U0001f2ff])"
    "[\ufe0e\ufe0f\u200d\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
)
_COMPATIBLE = ("FULLWIDTH", "MATHEMATICAL", "LATIN SMALL LIGATURE", "HALFWIDTH")  # other shapes of plain letters and digits
_KEPT = frozenset(" .,;:?!-'\"()/%$\u20ac\u00a3\u00a5\u00b0+=<>&@#*\u00d7\u00f7\u00b1_~\u00bd\u00bc\u00be\u00b2\u00b3\u00b5\u2264\u2265")
SCRIPTS = {
    "ar": "ARABIC", "el": "GREEK", "fa": "ARABIC", "he": "HEBREW", "hi": "DEVANAGARI", "hy": "ARMENIAN", "ja": "CJK HIRAGANA KATAKANA",
    "ka": "GEORGIAN", "ko": "HANGUL", "ru": "CYRILLIC", "uk": "CYRILLIC", "bg": "CYRILLIC", "sr": "CYRILLIC LATIN", "th": "THAI",
    "zh": "CJK",
}  # fmt: skip


def readable(text: str) -> tuple[str, list[str]]:
    """The text with typographic signs made plain and without what has no sound, and what was changed, in words.

    Spaces of all kinds become one space; emoji, control characters, unassigned characters and symbols without a reading go.
    """
    changes: list[str] = []
    plain = unicodedata.normalize("NFC", "".join(_plain(c) for c in text).translate(_TYPOGRAPHY))
    if _spaced(plain) != _spaced(text):
        changes.append("typographic characters made plain")
    text, emoji = _EMOJI.sub(" ", plain), _EMOJI.findall(plain)
    changes += [f"{_count(len(emoji), 'emoji', 'emoji')} left out"] if emoji else []
    kept, control, symbols = [], list[str](), list[str]()
    for c in text:
        kind = unicodedata.category(c)
        if kind in ("Zs", "Zl", "Zp") or c in "\t\n\x0b\x0c\r":
            kept.append(" ")
        elif kind[0] == "C":
            control.append(c)
        elif kind[0] in "LMN" or c in _KEPT:
            kept.append(c)
        else:
            symbols.append(c)
            kept.append(" ")
    changes += [f"{_count(len(control), 'control character')} left out ({_codes(control)})"] if control else []
    changes += [f"{_count(len(symbols), 'symbol')} left out ({' '.join(dict.fromkeys(symbols))})"] if symbols else []
    return _spaced("".join(kept)), changes


def greek_spelt(text: str) -> tuple[str, list[str]]:
    """Greek letters that stand alone among others, by their names: "beta" for its sign; and what was changed."""
    found = [c for c in re.findall(r"(?<![\u0370-\u03ff])[\u0370-\u03ff](?![\u0370-\u03ff])", text) if c.isalpha()]
    for c in set(found):
        text = text.replace(c, unicodedata.name(c).rpartition(" ")[2].lower())
    return text, [f"Greek letters by name ({' '.join(dict.fromkeys(found))})"] if found else []


def foreign(text: str, language: str) -> str:
    """Why the script is not that of `language`, as "Cyrillic letters (3 of 20, such as 'a')"; empty where it is."""
    wanted = SCRIPTS.get(language.partition("-")[0], "LATIN").split()
    letters = [c for c in text if c.isalpha()]
    others = [c for c in letters if _script(c) not in wanted]
    if not others:
        return ""
    script, _ = Counter(_script(c) for c in others).most_common(1)[0]
    return f"{script.capitalize()} letters ({len(others)} of {len(letters)}, such as {others[0]!r})"


def _plain(c: str) -> str:
    return unicodedata.normalize("NFKC", c) if ord(c) > 127 and unicodedata.name(c, "").startswith(_COMPATIBLE) else c


def _script(c: str) -> str:
    name = unicodedata.name(c, "UNKNOWN").split()[0].partition("-")[0]
    return "LATIN" if name in ("FEMININE", "MASCULINE", "MODIFIER", "MICRO") else name


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _codes(characters: list[str]) -> str:
    return ", ".join(f"U+{ord(c):04X}" for c in dict.fromkeys(characters))
