"""Files that are whole or absent."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from asrlife.errors import InputError


@contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success fsync it and rename it into place, on error leave `path` as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}"
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # nothing is there after the rename
    sync(path.parent)


def sync(folder: Path) -> None:
    """A rename is safe from a power cut once its folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_folder(name: str) -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/asrlife/NAME, by default in ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    # the standard says that a relative path is to be ignored
    return (Path(named) if Path(named).is_absolute() else Path.home() / ".cache") / "asrlife" / name


def read_bytes(path: Path | str, kind: str) -> bytes:
    """The bytes of a file; raises InputError with the cause, and with what to name instead: one `kind`, as in "sound file"."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder; name one {kind}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error


def read_text(path: Path | str, kind: str) -> str:
    """The same of a text in UTF-8, with or without its mark."""
    try:
        return read_bytes(path, kind).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 (byte {error.start}); save it as UTF-8") from error
