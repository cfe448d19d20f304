"""Forgetting controls as text: NAME:VALUE;KEY=VALUE, as in replay:0.2;data=old.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.errors import InputError
from asrlife.recipe.names import nearest

if TYPE_CHECKING:
    from asrlife.data.corpus import Corpus
    from asrlife.methods.tune import Keep

MAIN = {"replay": "share"}
"""What the value without a key is; strength where nothing is said here."""
OF_DATA = ("split", "limit")


def keeps(texts: Sequence[str], read: Any) -> list[Keep]:
    """The controls; `read(path, split, limit)` gives the corpus that `data` names.

    Raises InputError for an unknown control or key, naming the nearest, a value out of its limits, and for data that is not named.
    """
    return [_keep(text, read) for text in texts]


def parsed(text: str) -> tuple[str, dict[str, str]]:
    """The name and the settings of a control."""
    from asrlife.methods.tune import KEEPS

    name, _, tail = text.partition(":")
    name = name.strip()
    if name not in KEEPS:
        raise InputError(f"--keep {text}: unknown control {name!r}; {nearest(name, KEEPS)}")
    settings: dict[str, str] = {}
    for part in (part.strip() for part in tail.split(";") if part.strip()):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            key, value = MAIN.get(name, "strength"), part
        if key in settings:
            raise InputError(f"--keep {text}: {key} is given twice; name it once")
        settings[key] = value
    return name, settings


def _keep(text: str, read: Any) -> Keep:
    from asrlife.methods.settings import typed
    from asrlife.methods.tune import KEEPS

    name, settings = parsed(text)
    kind = KEEPS[name]
    plain, found = _plain(kind), dict[str, Any]()
    known = [*plain, *(("data", *OF_DATA) if _needs_data(kind) else ()), *(("earlier",) if "earlier" in _names(kind) else ())]
    for key in settings:
        if key not in known:
            raise InputError(f"--keep {text}: unknown key {key!r}; {nearest(key, known)}")
    found |= typed(kind, {key: value for key, value in settings.items() if key in plain}, f"--keep {text}")
    if _needs_data(kind):
        found["data"] = _data(text, settings, read)
    if "earlier" in settings:
        found["earlier"] = _tensors(Path(settings["earlier"]))
    made: Keep = kind(**found)
    return made


def _names(kind: type[Any]) -> list[str]:
    return [entry.name for entry in fields(kind) if entry.init]


def _plain(kind: type[Any]) -> list[str]:
    return [name for name in _names(kind) if name not in {"data", "earlier"}]


def _needs_data(kind: type[Any]) -> bool:
    return any(entry.name == "data" and entry.default is MISSING for entry in fields(kind))


def _data(text: str, settings: Mapping[str, str], read: Any) -> Corpus:
    if "data" not in settings:
        raise InputError(f"--keep {text}: needs what is not to be forgotten, as in {text.partition(':')[0]}:data=old.jsonl")
    limit = settings.get("limit")
    if limit is not None and not limit.isdecimal():
        raise InputError(f"--keep {text}: limit: {limit!r} is no number of utterances")
    found: Corpus = read(Path(settings["data"]), settings.get("split"), None if limit is None else int(limit))
    return found


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): give the .safetensors of importances by parameter name") from error
