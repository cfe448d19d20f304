"""Settings of a merge that are left free: what they are by default, and a merge with values for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from asrlife.errors import InputError
from asrlife.methods.merge.config import MergeConfig, Model
from asrlife.methods.merge.plan import SCALE
from asrlife.methods.merge.registry import MERGEKIT, METHODS
from asrlife.methods.settings import nearest


def settled(config: MergeConfig, values: Mapping[str, float]) -> MergeConfig:
    """The merge with `values` for settings as `search` names them, and without its search.

    Raises InputError for a name that no model has, and for a shared setting that a model of the file has its own of.
    """
    models = list(config.models or ())
    shared = dict(config.parameters or {})
    for name, value in values.items():
        index, key = place(config, name)
        if index is None:
            shared.pop(SCALE if key == "scale" else key, None)
            shared[key] = value
        else:
            models[index] = models[index].model_copy(update={"parameters": {**(models[index].parameters or {}), key: value}})
    found = {"models": tuple(models)} if config.models else {}
    return config.model_copy(update={**found, "parameters": shared, "search": None})


def place(config: MergeConfig, name: str) -> tuple[int | None, str]:
    """Which of `models` the setting `name` belongs to, None for all of them, and its key."""
    owner, _, key = name.rpartition(".")
    if not owner:
        _check_shared(config, key)
        return None, key
    models = config.models or ()
    numbers = {f"models.{number}": number for number in range(len(models))}
    found = [number for number, model in enumerate(models) if owner in {model.model, Path(model.model).name}]
    if owner in numbers or len(found) == 1:
        return numbers.get(owner, found[0] if found else 0), key
    if found:
        raise InputError(f"search: {name!r} could be that of {len(found)} models: say which, as in models.{found[0]}.{key}")
    raise InputError(f"search: {name!r} is no setting of a model: {nearest(owner, {**numbers, **{m.model: 0 for m in models}})}")


def _check_shared(config: MergeConfig, key: str) -> None:
    other = SCALE if key == "scale" else key
    for number, model in enumerate(config.models or ()):
        if {key, other} & set(model.parameters or {}):
            raise InputError(
                f"search: {model.model} has a {key!r} of its own, which goes before the shared one: search models.{number}.{key}"
            )


def default(config: MergeConfig, name: str) -> float:
    """The value that the merge has for a setting unless it is searched; InputError where that is no one number."""
    index, key = place(config, name)
    own: tuple[Model, ...] = () if index is None else ((config.models or ())[index],)
    for scope in (*(model.parameters or {} for model in own), config.parameters or {}):
        for spelt in (key, SCALE if key == "scale" else key):
            if spelt in scope:
                return _number(name, scope[spelt])
    return _number(name, _unless_told(config.merge_method, key))


def _unless_told(method: str, key: str) -> Any:
    kind = METHODS[method]
    shared = {entry.name: entry.default for entry in fields(kind) if entry.default is not MISSING}  # type: ignore[arg-type]
    known = {**kind.per_model, **shared, **MERGEKIT.get(method, {})}
    key = "scale" if key == SCALE and "scale" in shared else key
    if key not in known:
        raise InputError(f"search: {method} has no setting {key!r}; {nearest(key, known)}")
    return known[key]


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"search: {name!r} is {value!r}, not one number: a gradient, a filter or a word cannot be searched") from None
