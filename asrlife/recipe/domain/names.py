"""Domains by name: the delta that `asrlife domain` left in a folder of the project is meant where a delta is asked for."""

from __future__ import annotations

import re
from pathlib import Path

from asrlife.errors import InputError

DOMAINS = Path("domains")
DELTA = "delta.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_name(name: str) -> str:
    """The name, which is that of a folder too; raises InputError for one that cannot be."""
    if not _NAME.fullmatch(name) or name.endswith(".safetensors"):
        raise InputError(f"--name {name!r}: use letters, digits, -, _ and ., a letter or digit first")
    return name


def known() -> list[str]:
    """The domains that are whole, in the folder that commands run in."""
    return sorted(path.parent.name for path in DOMAINS.glob(f"*/{DELTA}"))


def delta_of(given: Path | None) -> Path | None:
    """The delta file that is meant: a path that exists, or else that of the domain of this name; None stays None.

    What looks like a path (with a folder or a suffix .safetensors in it) stays as it is. Raises InputError for a name that is neither,
    naming those that there are.
    """
    if given is None:
        return None
    text = str(given)
    if given.is_file() or given.suffix == ".safetensors" or len(given.parts) != 1 or given.is_absolute():
        return given
    found = DOMAINS / text / DELTA
    if found.is_file():
        return found
    if found.parent.is_dir():
        raise InputError(f"delta {text}: {found.parent} is not finished: run `asrlife domain` with the same options again")
    names = ", ".join(known()) or "none"
    raise InputError(f"delta {text}: no such file, and no domain of this name in {DOMAINS}/; there: {names}")
