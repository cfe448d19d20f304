"""Merging methods by name, with their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asrlife.errors import InputError
from asrlife.methods.merge.method import Method
from asrlife.methods.settings import nearest, typed

METHODS: Mapping[str, type[Method]] = {}


def make(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """The method `name` with the paper's settings, over them `settings`, which may be text, as from a command line.

    An unknown name or key raises InputError with the nearest one, a value outside its limits one that states them.
    """
    if name not in METHODS:
        raise InputError(f"unknown merging method {name!r}; {nearest(name, METHODS)}")
    kind = METHODS[name]
    return kind(**typed(kind, settings or {}, name))
