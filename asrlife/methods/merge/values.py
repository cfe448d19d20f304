"""Parameters as mergekit writes them: one value, a gradient over the layers, or values for names that contain something."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

Value: TypeAlias = bool | int | float | str
Setting: TypeAlias = Any
"""A Value, a list of them (a gradient), {"value", "filter"}, or a list of those."""
Scope: TypeAlias = Mapping[str, Setting] | None


def resolved(scopes: Iterable[Scope], key: str, name: str, depth: float, cast: Callable[[Any], Any]) -> Any:
    """The value of `key` for the tensor `name`, from the first of `scopes` that has one for it; None where none has.

    `depth` is where between the first (0) and the last (1) layer the tensor is; `cast` makes a value of what is written.
    """
    for scope in scopes:
        if scope is not None and key in scope:
            value = evaluated(scope[key], name, depth, cast)
            if value is not None:
                return value
    return None


def evaluated(setting: Setting, name: str, depth: float, cast: Callable[[Any], Any]) -> Any:
    """What a setting says of the tensor `name`: numbers are interpolated, of other values the nearest below is taken.

    The first condition whose filter is contained in the name counts; "*" and no filter fit all. None where nothing fits.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return cast(setting)
    if any(isinstance(entry, Mapping) for entry in setting):
        fitting = (entry["value"] for entry in setting if _fits(entry.get("filter"), name))
        found = next(fitting, None)
        return None if found is None else evaluated(found, name, depth, cast)
    return _between([cast(entry) for entry in setting], depth, cast) if setting else None


def written(setting: Setting) -> list[Value]:
    """Every value that a setting names, whatever for."""
    if isinstance(setting, Mapping):
        return written(setting.get("value"))
    if isinstance(setting, list):
        return [value for entry in setting for value in written(entry)]
    return [setting]


def fault(setting: Setting) -> str | None:
    """What is wrong with how a setting is written, or None."""
    if isinstance(setting, Mapping):
        return _condition_fault(setting)
    if isinstance(setting, list):
        kinds = {isinstance(entry, Mapping) for entry in setting}
        if len(kinds) > 1:
            return "mixes plain values and {value, filter}: give all a filter, or none"
        if not setting:
            return "is an empty list: give a value"
        return next(filter(None, map(fault, setting)), None)
    return None if isinstance(setting, Value) else f"is {setting!r}: give a number, true or false, text, a list, or {{value, filter}}"


def _condition_fault(condition: Mapping[str, Any]) -> str | None:
    for key in condition:
        if key not in {"value", "filter"}:
            return f"has the key {key!r}: a condition has 'value' and, but for a last one that fits all, 'filter'"
    if "value" not in condition:
        return "has a condition without 'value'"
    if not isinstance(condition.get("filter"), str | None):
        return f"has the filter {condition['filter']!r}: give text that names contain"
    if isinstance(condition["value"], Mapping):
        return "has a condition within a condition"
    return fault(condition["value"])


def _fits(wanted: str | None, name: str) -> bool:
    return wanted is None or wanted == "*" or wanted in name


def _between(values: list[Any], depth: float, cast: Callable[[Any], Any]) -> Any:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return values[int(depth * (len(values) - 1))]
    place = depth * (len(values) - 1)
    first = int(place)
    share = place - first
    return cast((1 - share) * values[first] + share * values[min(len(values) - 1, first + 1)])
