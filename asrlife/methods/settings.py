"""Settings of methods: dataclass fields with their limits, from Python or as text from a command line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
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
    known = {entry.name: entry for entry in fields(kind)}
    return {key: _value(_adapter(kind, _known(known, key, where)), key, value, where) for key, value in settings.items()}


def check(method: Any, but: Collection[str] = ()) -> None:
    """Raise InputError for a field outside its limits, those `but` named aside."""
    checked = [entry.name for entry in fields(method) if entry.name not in but]
    typed(type(method), {name: getattr(method, name) for name in checked}, method.name)


def nearest(key: str, known: Mapping[str, Any]) -> str:
    """What to write instead of an unknown key."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(sorted(known)) or 'none'}"


@cache
def _adapter(kind: type, key: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(kind, include_extras=True)[key])


def _known(known: Mapping[str, Any], key: str, where: str) -> str:
    if key not in known:
        raise InputError(f"{where}: unknown setting {key!r}; {nearest(key, known)}")
    return key


def _value(adapter: TypeAdapter[Any], key: str, value: Any, where: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InputError(f"{where}: {key}: {error.errors()[0]['msg']} (it is {value!r})") from None
