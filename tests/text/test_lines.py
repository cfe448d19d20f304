from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrlife.errors import InputError
from asrlife.text.entity import Entity
from asrlife.text.lines import Line, read_lines


def written(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_plain_lines_keep_their_numbers_and_faults(tmp_path: Path) -> None:
    lines = read_lines(written(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\n\ntwo \xff\nthr\xc3\xa9e"))
    assert [(line.number, line.text) for line in lines] == [(1, "one"), (2, ""), (3, "two \\xff"), (4, "thrée")]
    assert lines[2].fault == "is no UTF-8 (byte 0xff at position 4); save the file as UTF-8"
    assert not any(lines[place].fault for place in (0, 1, 3))


@given(st.binary(min_size=1, max_size=60))
def test_every_line_of_any_bytes_is_there(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(data)
    try:
        lines = read_lines(path)
    except InputError as error:
        assert "UTF-" in str(error) or "empty" in str(error)
    else:
        assert [line.number for line in lines] == list(range(1, len(data.removeprefix(b"\xef\xbb\xbf").splitlines()) + 1))


def test_a_column_of_a_table(tmp_path: Path) -> None:
    table = 'id;note\n1;"two\nlines; here"\n2;\n3;last;extra\n4;caf\xff\n'.encode("latin-1")
    lines = read_lines(written(tmp_path, "a.csv", table), column="note")
    assert [(line.number, line.text) for line in lines] == [(2, "two\nlines; here"), (4, ""), (5, "last"), (6, "caf\\xff")]
    assert lines[2].fault.startswith("has 3 columns where the header has 2") and "no UTF-8" in lines[3].fault


@pytest.mark.parametrize(
    ("name", "data"), [("a.csv", "text,other\nhello,x\n"), ("a.tsv", "text\tother\nhello\tx\n"), ("a.csv", "only\nhello\n")]
)
def test_the_column_that_is_meant_without_being_named(tmp_path: Path, name: str, data: str) -> None:
    assert [line.text for line in read_lines(written(tmp_path, name, data))] == ["hello"]


def test_rows_of_jsonl_with_their_entities(tmp_path: Path) -> None:
    entity = {"label": "drug", "text": "warfarin", "start": 1, "end": 2}
    rows = [json.dumps({"text": "start warfarin", "entities": [entity]}), "", "{broken", "[1]", '{"other": 1}', '{"text": 5}']
    rows += ['{"text": "\\ud800"}', json.dumps({"text": "a", "entities": [entity]}), json.dumps({"text": "a", "entities": "none"})]
    lines = read_lines(written(tmp_path, "a.jsonl", "\n".join(rows)))
    assert lines[0] == Line(1, "start warfarin", "", (Entity("drug", "warfarin", 1, 2),))
    faults = [line.fault for line in lines[1:]]
    wanted = [
        "",
        "is broken JSON",
        "is a JSON list, no object",
        "its keys: 'other'",
        "no text under the key 'text'",
        "half a surrogate pair",
    ]
    wanted += ["entity 'warfarin' is words 1 to 2 of a sentence of 1", '"entities" is no list of objects']
    assert all(part in fault for part, fault in zip(wanted, faults, strict=True))


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("a.txt", b"", {}, "has no lines to read aloud"),
        ("a.txt", b" \n\n", {}, "has no lines to read aloud"),
        ("a.txt", "x".encode("utf-16"), {}, "is UTF-16; save it as UTF-8"),
        ("a.txt", "x".encode("utf-32"), {}, "is UTF-32; save it as UTF-8"),
        ("a.csv", b"id,note\n1,x\n", {}, "has no column 'text'; name one with --column: 'id', 'note'"),
        ("a.csv", b"id,note\n1,x\n", {"column": "notes"}, "has no column 'notes'; name one with --column: 'id', 'note'"),
        ("a.csv", b'text,b\n"open,x\n', {}, r"a.csv:2: broken row"),
        ("a.txt", b"x\n", {"column": "a", "key": "b"}, "give one of them"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, name: str, data: bytes, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_lines(written(tmp_path, name, data), **options)
    assert message in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; check the path"):
        read_lines(tmp_path / "gone.txt")
    with pytest.raises(InputError, match="is a folder; name one text file"):
        read_lines(tmp_path)
