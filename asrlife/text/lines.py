"""Lines of a text file, a column of a table, or a key of JSONL rows; what cannot be read is a line with its fault, never an absence."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asrlife.errors import InputError
from asrlife.files import read_bytes
from asrlife.text.entity import Entity, read_entities

_TABLES = {".csv": ",;\t|", ".tsv": "\t"}  # the separators to choose from
_OBJECTS = frozenset({".jsonl", ".ndjson"})
_MARKS = ((b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


@dataclass(frozen=True)
class Line:
    """The text on line `number` (from 1), why it cannot be used where it cannot, and the entities that JSONL may mark in it."""

    number: int
    text: str
    fault: str = ""
    entities: tuple[Entity, ...] = ()


def read_lines(path: Path, column: str | None = None, key: str | None = None) -> tuple[Line, ...]:
    """All lines of a UTF-8 file, in order, blank and broken ones among them.

    A .csv or .tsv file, or any with `column`, is a table with a header: the column is "text" where none is named, or the only one. A
    .jsonl file, or any with `key`, has one object a line, whose `key` ("text" by default) is taken, and whose "entities" come along.
    Raises InputError for a file that cannot be opened, is UTF-16 or UTF-32, is empty, or has no such column.
    """
    if column is not None and key is not None:
        raise InputError("--column is for a table and --key for JSONL; give one of them")
    data, kind = _bytes(path), path.suffix.lower()
    if column is not None or (kind in _TABLES and key is None):
        return tuple(_table(data, path, column))
    if key is not None or kind in _OBJECTS:
        return tuple(_object(line, key or "text") for line in _plain(data))
    return tuple(_plain(data))


def _bytes(path: Path) -> bytes:
    data = read_bytes(path, "text file")
    for mark, name in _MARKS:
        if data.startswith(mark):
            raise InputError(f"{path}: is {name}; save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise InputError(f"{path}: has no lines to read aloud; it is empty")
    return data


def _plain(data: bytes) -> Iterator[Line]:
    for number, raw in enumerate(data.splitlines(), 1):
        try:
            yield Line(number, raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            fault = f"is no UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start}); save the file as UTF-8"
            yield Line(number, raw.decode("utf-8", "backslashreplace"), fault)


def _table(data: bytes, path: Path, column: str | None) -> Iterator[Line]:
    text = data.decode("utf-8", "surrogateescape")
    header = text.splitlines()[0]
    separator = max(_TABLES.get(path.suffix.lower(), ",;\t|"), key=header.count)
    rows, start = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), 0
    place, width = -1, 0
    try:
        for row in rows:
            number, start = start + 1, rows.line_num
            if place < 0:
                place, width = _column(row, path, column), len(row)
            else:
                yield _cell(number, row, place, width)
    except csv.Error as error:
        raise InputError(f'{path}:{start + 1}: broken row ({error}); put text with quotes or separators into quotes, " doubled') from error


def _column(header: list[str], path: Path, column: str | None) -> int:
    names = [name.strip() for name in header]
    wanted = column if column is not None else names[0] if len(names) == 1 else "text"
    if wanted not in names:
        raise InputError(f"{path}: has no column {wanted!r}; name one with --column: {', '.join(map(repr, names))}")
    return names.index(wanted)


def _cell(number: int, row: list[str], place: int, width: int) -> Line:
    text = row[place] if place < len(row) else ""
    readable = "".join(f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
    if readable != text:
        return Line(number, readable, "is no UTF-8; save the file as UTF-8")
    if row and len(row) != width:
        return Line(number, text, f"has {len(row)} columns where the header has {width}; put text with separators into quotes")
    return Line(number, text)


def _object(line: Line, key: str) -> Line:
    if line.fault or not line.text.strip():
        return line
    try:
        row = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        return Line(line.number, line.text, f"is broken JSON ({error})")
    if not isinstance(row, dict):
        return Line(line.number, line.text, f"is a JSON {type(row).__name__}, no object")
    if not isinstance(row.get(key), str):
        return Line(line.number, line.text, f"has no text under the key {key!r}; its keys: {', '.join(map(repr, row)) or 'none'}")
    try:
        row[key].encode()
        return Line(line.number, row[key], "", read_entities(row.get("entities") or [], row[key], "has broken entities"))
    except UnicodeEncodeError:
        return Line(line.number, ascii(row[key]), "holds half a surrogate pair, which is no character")
    except InputError as error:
        return Line(line.number, row[key], str(error))
