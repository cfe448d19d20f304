from __future__ import annotations

import os
from pathlib import Path

import pytest

from asrlife.files import atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_bytes_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.bin") as file:
        file.write(b"\x00\xff")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["a.bin"]


def test_writes_text_as_utf8(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.txt", "w") as file:
        file.write("größer")
    assert (tmp_path / "a.txt").read_bytes() == "größer".encode()


def test_makes_missing_folders(tmp_path: Path) -> None:
    with atomic(tmp_path / "new" / "deep" / "a.bin") as file:
        file.write(b"x")
    assert (tmp_path / "new" / "deep" / "a.bin").read_bytes() == b"x"


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_an_error_makes_no_file_where_none_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError), atomic(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise ValueError
    assert names(tmp_path) == []


def test_a_folder_in_the_way_is_an_error_without_litter(tmp_path: Path) -> None:
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(OSError), atomic(tmp_path / "a.bin") as file:
        file.write(b"x")
    assert names(tmp_path) == ["a.bin"]


def test_others_may_read_it_as_far_as_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "a.bin") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_two_writers_of_one_path_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic(path) as first, atomic(path) as second:
        first.write(b"1" * 1000)
        second.write(b"2" * 1000)
    assert path.read_bytes() == b"1" * 1000
    assert names(tmp_path) == ["a.bin"]
