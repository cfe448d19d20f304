"""Rows of JSON and JSONL files, and what stands in them; what is wrong with one raises `Fault`, to which the reader adds where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from asrlife.errors import InputError
from asrlife.files import read_text

Row = Mapping[str, Any]
Pairs = tuple[tuple[str, str], ...]


class Follows(TypedDict, total=False):
    """What is asked of a request that should follow it, by kind."""

    paraphrases: Pairs
    reversals: Pairs
    hops: Pairs


class Fault(ValueError):
    """What is wrong with one row."""


def numbered(path: Path) -> Iterator[tuple[str, Any]]:
    """Every row with its number, "record 1" of a JSON list or "line 1" of JSONL, which of the two told from the first letter.

    A line that is no JSON comes as the `Fault` that says so. Raises InputError for a file that cannot be read or holds nothing.
    """
    text = read_text(path, "file of edits")
    if not text.strip():
        raise InputError(f"{path}: is empty; write one JSON object a line, or a JSON list of them")
    if text.lstrip()[0] == "[":
        yield from ((f"record {number}", row) for number, row in enumerate(_list(path, text), 1))
    else:
        # not splitlines: a text may hold U+2028, which JSON leaves as it is
        lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        yield from ((f"line {number}", _object(line)) for number, line in lines)


def _list(path: Path, text: str) -> list[Any]:
    try:
        found: list[Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is broken JSON ({error}); check that the file is whole") from error
    if not found:
        raise InputError(f"{path}: is an empty list; it holds no edits")
    return found


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Fault(f"is broken JSON ({error})")


def text_of(row: Row, key: str) -> str:
    """The text under a key, without spaces around it; there must be one."""
    found = row.get(key)
    if not isinstance(found, str) or not found.strip():
        raise Fault(f"has no text under {key!r}; its keys: {', '.join(map(repr, row)) or 'none'}")
    return found.strip()


def texts_of(row: Row, key: str) -> tuple[str, ...]:
    """A list of texts under a key, which may be missing."""
    found = row.get(key) or []
    if not isinstance(found, list) or not all(isinstance(text, str) and text.strip() for text in found):
        raise Fault(f"{key!r} is no list of texts")
    return tuple(text.strip() for text in found)


def rows_of(row: Row, key: str) -> tuple[Row, ...]:
    """A list of objects under a key, which may be missing."""
    found = row.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Fault(f"{key!r} is no list of objects")
    return tuple(found)


def row_of(row: Row, key: str) -> Row:
    """The object under a key."""
    found = row.get(key)
    if not isinstance(found, dict):
        raise Fault(f"{key!r} is no object")
    return found


def flat(value: Any) -> tuple[str, ...]:
    """All texts in a text or in lists of lists of them, in order, each once."""
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if not isinstance(value, list):
        raise Fault(f"an answer is a JSON {type(value).__name__}, no text and no list of texts")
    return tuple(dict.fromkeys(text for one in value for text in flat(one)))


def others(names: tuple[str, ...]) -> Pairs:
    """The first of some names paired with each of the rest."""
    return tuple((names[0], other) for other in names[1:])


def as_it_stands(subject: str, prompt: str) -> str:
    """The subject as it stands in the prompt: sets are not always of one mind about capitals."""
    place = prompt.lower().find(subject.lower())
    if subject in prompt or place < 0 or len(prompt.lower()) != len(prompt):
        return subject
    return prompt[place : place + len(subject)]
