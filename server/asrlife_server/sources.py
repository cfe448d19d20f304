"""One name for each setting in a YAML file, the environment and flags: flags go over the environment, that over the file."""

from __future__ import annotations

import logging
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from asrlife.errors import InputError
from asrlife.recipe.names import nearest
from asrlife.recipe.schema import Settings, parse

PREFIX = "ASRLIFE_"
_DEEPER = "__"
_log = logging.getLogger("asrlife.server")


def groups(root: type[BaseModel]) -> dict[str, type[Settings]]:
    """The groups of settings in `root`, each by its dotted name, the deeper ones first."""
    found: dict[str, type[Settings]] = {}
    for name, field in root.model_fields.items():
        if (group := _group(field)) is not None:
            found |= {f"{name}.{deeper}": kind for deeper, kind in groups(group).items()} | {name: group}
    return found


def fields(root: type[BaseModel]) -> dict[str, FieldInfo]:
    """Every single setting by its dotted name, in the order in which they are written."""
    found: dict[str, FieldInfo] = {}
    for name, field in root.model_fields.items():
        group = _group(field)
        found |= {name: field} if group is None else {f"{name}.{deeper}": each for deeper, each in fields(group).items()}
    return found


def variable(name: str) -> str:
    """What a setting is called in the environment: limits.streams is ASRLIFE_LIMITS__STREAMS."""
    return PREFIX + name.replace(".", _DEEPER).upper()


def environment(root: type[BaseModel], variables: Mapping[str, str]) -> dict[str, Any]:
    """The settings among the variables, by dotted name.

    A name with a double underscore, or one that begins as a group does, must be a setting; any other variable is somebody else's.
    Raises InputError naming the variable, and the nearest setting or the fault.
    """
    known = {variable(name): name for name in fields(root)}
    given: dict[str, Any] = {}
    for key, text in variables.items():
        if key in known:
            given[known[key]] = _read(root, known[key], text, key)
        elif (inside := _inside(root, key)) is not None:
            given[inside] = _plain(text)
        elif _ours(root, key):
            raise InputError(f"{key}: is no setting of the server; {nearest(key, _alike(key, known))}")
        elif key.startswith(PREFIX) and (near := get_close_matches(key.removeprefix(PREFIX), _single(root), n=1, cutoff=0.7)):
            _log.warning("%s is no setting of the server and is passed over; did you mean %s%s?", key, PREFIX, near[0])
    return given


def assignments(root: type[BaseModel], given: Sequence[str]) -> dict[str, Any]:
    """The settings in texts like limits.streams=8, by dotted name; raises InputError naming the text and what is wrong with it."""
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InputError(f"--set {text!r}: should be NAME=VALUE, as in limits.streams=8")
        if name not in fields(root) and _mapping(root, name) is None:
            raise InputError(f"--set {name}: is no setting of the server; {nearest(name, _alike(name, fields(root)))}")
        values[name] = _read(root, name, value, f"--set {name}") if name in fields(root) else _plain(value)
    return values


def check(root: type[BaseModel], name: str, value: Any, where: str) -> None:
    """Raise InputError for a value that the setting does not take, in words that begin with `where`."""
    field = fields(root).get(name)
    if field is None:
        return
    try:
        kind: Any = Annotated[field.annotation, field]
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InputError(f"{where}: {fault['msg'].removeprefix('Value error, ')} (it is {value!r})") from None


def parsed(root: type[Settings], data: Mapping[str, Any], where: str) -> Any:
    """The settings of `data`, group by group, so that a fault is told with its group and an unknown key with the nearest of that group."""
    for name, group in groups(root).items():
        place, given = where, data
        for part in name.split("."):
            given = given.get(part, {})
            place = f"{place}: {part}"
            if not isinstance(given, Mapping):
                raise InputError(f"{place}: should be a mapping of keys to values (it is {given!r})")
        parse(group, given, place)
    return parse(root, data, where)


def flat(config: BaseModel, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a configuration with its value, by dotted name."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Settings):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def holds(data: Mapping[str, Any], name: str) -> bool:
    """Whether nested data say something of a setting."""
    place: Any = data
    for part in name.split("."):
        if not isinstance(place, Mapping) or part not in place:
            return False
        place = place[part]
    return True


def _group(field: FieldInfo) -> type[Settings] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def _read(root: type[BaseModel], name: str, text: str, where: str) -> Any:
    field = fields(root)[name]
    kinds = _kinds(field.annotation)
    value: Any = text
    if kinds & {dict, list, tuple, set, frozenset} or any(issubclass(kind, Mapping) for kind in kinds):
        value = _plain(text)
    elif type(None) in kinds and text.strip().lower() in ("", "null", "none"):
        value = None
    check(root, name, value, where + _hint(text))
    return value


def _kinds(annotation: Any) -> set[type]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_kinds(each) for each in typing.get_args(annotation)))
    kind = origin or annotation
    return {kind} if isinstance(kind, type) else set()


def _plain(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _mapping(root: type[BaseModel], name: str) -> str | None:
    """`name` where it reaches into a setting that is itself a mapping, as in adaptation.settings.lr."""
    for known, field in fields(root).items():
        if name.startswith(f"{known}.") and dict in _kinds(field.annotation):
            return name
    return None


def _inside(root: type[BaseModel], key: str) -> str | None:
    if not key.startswith(PREFIX):
        return None
    return _mapping(root, key.removeprefix(PREFIX).replace(_DEEPER, ".").lower())


def _ours(root: type[BaseModel], key: str) -> bool:
    if not key.startswith(PREFIX):
        return False
    rest = key.removeprefix(PREFIX)
    names = [name.upper().replace(".", _DEEPER) for name in groups(root)]
    return _DEEPER in rest or any(rest == name or rest.startswith(f"{name}_") for name in names)


def _single(root: type[BaseModel]) -> list[str]:
    return [name.upper() for name in fields(root) if "." not in name]


def _alike(name: str, known: Mapping[str, Any]) -> list[str]:
    """The names worth offering: near ones, or else all of the same group."""
    return get_close_matches(name, known, n=1, cutoff=0.5) or list(known)


def _hint(text: str) -> str:
    # Kubernetes gives each container the addresses of its services in variables like ASRLIFE_PORT
    return " (Kubernetes sets it for a service called asrlife: say enableServiceLinks: false)" if text.startswith("tcp://") else ""
