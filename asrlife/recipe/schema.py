"""Settings read from YAML: an unknown key or a wrong type is one line that says where and what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from asrlife.errors import InputError
from asrlife.recipe.names import nearest


class Settings(BaseModel):
    """A frozen group of settings that knows no other keys than its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Group = TypeVar("Group", bound=BaseModel)


def parse(group: type[Group], data: Any, where: str) -> Group:
    """Make the settings of `data`; `where` begins the message of the InputError that the first fault raises."""
    try:
        return group.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        # a misspelt key is both unknown and missing; the misspelling is what to name
        fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
        place = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            raise InputError(f"{where}: unknown key {place!r}; {nearest(str(fault['loc'][-1]), group.model_fields)}") from None
        if fault["type"] == "missing":
            raise InputError(f"{where}: the key {place!r} is missing") from None
        given = "" if isinstance(fault["input"], (dict, list)) else f" (it is {fault['input']!r})"
        raise InputError(f"{where}: {place + ': ' if place else ''}{_reason(fault['msg'])}{given}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read with the safe loader."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: should be a mapping of keys to values")
    return data


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` in it; mappings are merged key by key, everything else is replaced."""
    both = dict(base)
    for key, value in over.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
