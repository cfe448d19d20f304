"""Settings of methods: dataclass fields with their limits, from Python or as text from a command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from asrlife.errors import InputError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def typed(kind: type, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values of the types that the dataclass `kind` declares; raises InputError naming the nearest key or the broken limit."""
    known = _adapters(kind)
    return {key: _value(_known(known, key, where), key, value, where) for key, value in settings.items()}


def check(method: Any) -> None:
    """Raise InputError for a field outside its limits."""
    typed(type(method), {entry.name: getattr(method, entry.name) for entry in fields(method)}, method.name)


def nearest(key: str, known: Mapping[str, Any]) -> str:
    """What to write instead of an unknown key."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(sorted(known)) or 'none'}"


@cache
def _adapters(kind: type) -> Mapping[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {entry.name: TypeAdapter(hints[entry.name]) for entry in fields(kind)}


def _known(known: Mapping[str, TypeAdapter[Any]], key: str, where: str) -> TypeAdapter[Any]:
    if key not in known:
        raise InputError(f"{where}: unknown setting {key!r}; {nearest(key, known)}")
    return known[key]


def _value(adapter: TypeAdapter[Any], key: str, value: Any, where: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InputError(f"{where}: {key}: {error.errors()[0]['msg']} (it is {value!r})") from None
