"""The words of a sentence that a domain cannot do without: drug names, song titles, doses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asrlife.errors import InputError

_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class Entity:
    """Words `start` to `end` (not included) of a sentence's words, counted between spaces, that name one thing of kind `label`."""

    label: str
    text: str
    start: int
    end: int

    def to_json(self) -> dict[str, Any]:
        """As manifests keep it."""
        return asdict(self)


def located(text: str, wanted: Sequence[tuple[str, str]]) -> tuple[Entity, ...]:
    """Where the (label, words) of `wanted` are in `text`, in order, each after the one before; those that are not there are left out.

    Case, and punctuation at the edges of words, do not count.
    """
    words, found, after = [_bare(word) for word in text.split()], list[Entity](), 0
    for label, phrase in wanted:
        target = [_bare(word) for word in phrase.split()]
        places = (at for at in range(after, len(words) - len(target) + 1) if words[at : at + len(target)] == target)
        start = next(places, None) if target else None
        if start is not None:
            after = start + len(target)
            found.append(Entity(label, " ".join(text.split()[start:after]), start, after))
    return tuple(found)


def read_entities(rows: Any, text: str, where: str) -> tuple[Entity, ...]:
    """Entities of a manifest's row, a list of objects with "label", "text", "start" and "end"; InputError begins with `where`."""
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise InputError(
            f'{where}: "entities" is no list of objects; write [{{"label": "drug", "text": "warfarin", "start": 1, "end": 2}}]'
        )
    return tuple(_entity(row, len(text.split()), where) for row in rows)


def _entity(row: Mapping[str, Any], words: int, where: str) -> Entity:
    label, text, start, end = (row.get(key) for key in ("label", "text", "start", "end"))
    if not (isinstance(label, str) and isinstance(text, str) and type(start) is int and type(end) is int):
        raise InputError(f'{where}: an entity needs "label" and "text" in quotes, and whole numbers "start" and "end"; it is {dict(row)}')
    if not 0 <= start < end <= words:
        raise InputError(f"{where}: entity {text!r} is words {start} to {end} of a sentence of {words}; count words from 0")
    return Entity(label, text, start, end)


def _bare(word: str) -> str:
    return _EDGES.sub("", word).casefold()
