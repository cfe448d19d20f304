"""Adaptation methods by name, with settings given as "key=value"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from asrlife.errors import InputError
from asrlife.recipe.names import nearest

if TYPE_CHECKING:
    from asrlife.methods.online import Method
    from asrlife.models.handle import Recogniser


def methods(names: Sequence[str], changes: Sequence[str], model: Recogniser | None = None) -> dict[str, Method]:
    """Make the named methods for `model`, in order; a change "key=value" reaches every method with that key, "suta.key=value" one.

    An unknown method or key, or a value of the wrong type, raises InputError naming the nearest.
    """
    from asrlife.methods.online import make

    settings = settings_of(names, changes)
    return {name: make(name, settings[name], model) for name in settings}


def settings_of(names: Sequence[str], changes: Sequence[str]) -> dict[str, dict[str, str]]:
    """Sort the changes by the method that they reach."""
    keys = {name: _keys(name) for name in names}
    if not keys:
        raise InputError("no adaptation method given; use none, suta or dsuta")
    settings: dict[str, dict[str, str]] = {name: {} for name in keys}
    for change in changes:
        for name, key, value in _reach(change, keys):
            settings[name][key] = value
    return settings


def _keys(name: str) -> frozenset[str]:
    from asrlife.methods.online import METHODS

    if name not in METHODS:
        raise InputError(f"unknown adaptation {name!r}; {nearest(name, METHODS)}")
    return frozenset(field.name for field in fields(METHODS[name]) if field.name != "name")


def _reach(change: str, keys: Mapping[str, frozenset[str]]) -> list[tuple[str, str, str]]:
    target, equals, value = (part.strip() for part in change.partition("="))
    method, dot, key = target.rpartition(".")
    if not equals or not key:
        raise InputError(f"--set {change}: should be key=value or method.key=value, as in lr=0.001")
    if dot and method not in keys:
        raise InputError(f"--set {change}: {method!r} is not among the methods of this run; {nearest(method, keys)}")
    within = [method] if dot else list(keys)
    hits = [(name, key, value) for name in within if key in keys[name]]
    if not hits:
        known = frozenset[str]().union(*(keys[name] for name in within))
        hint = nearest(key, known) if known else f"{' and '.join(within)} has no settings; choose --adapt suta or dsuta"
        raise InputError(f"--set {change}: unknown key {key!r}; {hint}")
    return hits
