"""Kept states that are taken up again: only what a method could have made itself is believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from asrlife.errors import InputError
from asrlife.methods.online.state import State


def restored(data: bytes, start: State) -> State:
    """Read `State.to_bytes` for the model and the method whose start is `start`, onto the device where that is.

    Raises InputError naming what does not fit.
    """
    state = State.from_bytes(data, start.base)
    fit(state, start)
    place = next((vector.device for vector in start.vectors.values()), torch.device("cpu"))
    with torch.inference_mode(False):
        return state.updated({name: vector.to(place) for name, vector in state.vectors.items()})


def fit(state: State, start: State) -> None:
    """Raise InputError unless the parameters, shapes and kinds of `state` are those of `start` and its numbers are finite.

    Methods put away further vectors as they go; each must have the shape of one of the start's.
    """
    if state.names != start.names:
        raise InputError(f"shape: the state tunes {len(state.names)} other parameters than the method's {len(start.names)}")
    shapes = {(vector.shape, vector.dtype) for vector in start.vectors.values()}
    for name, vector in start.vectors.items():
        found = state.vectors.get(name)
        if found is None or (found.shape, found.dtype) != (vector.shape, vector.dtype):
            raise InputError(f"shape: {name!r} is {_told(found)}; the method's is {_told(vector)}")
    for name, vector in state.vectors.items():
        if (vector.shape, vector.dtype) not in shapes:
            raise InputError(f"shape: {name!r} is {_told(vector)}; the method has nothing like it")
        if not torch.isfinite(vector).all():
            raise InputError(f"NaN: {name!r} holds numbers that are not finite")
    _check_record(state.record, start.record)


def finite(state: State, before: State) -> bool:
    """Whether the numbers are that `state` holds and `before` does not."""
    new = (vector for name, vector in state.vectors.items() if vector is not before.vectors.get(name))
    return all(bool(torch.isfinite(vector).all()) for vector in new)


def drift(state: State, start: State) -> float:
    """Euclidean distance of the weights that the next utterance starts from to those of `start`; 0 where none are carried."""
    here, there = state.vectors.get("weights"), start.vectors.get("weights")
    return float(torch.linalg.vector_norm(here - there)) if here is not None and there is not None else 0.0


def _told(vector: torch.Tensor | None) -> str:
    return "missing" if vector is None else f"{str(vector.dtype).removeprefix('torch.')} {tuple(vector.shape)}"


def _check_record(found: Mapping[str, Any], start: Mapping[str, Any]) -> None:
    for key, value in start.items():
        if key not in found or not _alike(found[key], value):
            raise InputError(f"record: {key!r} is {str(found.get(key, 'missing'))[:40]!r}; the method's is like {value!r:.40}")


def _alike(found: Any, start: Any) -> bool:
    if isinstance(start, Mapping):
        return isinstance(found, Mapping) and found.keys() == start.keys() and all(_alike(found[key], start[key]) for key in start)
    if isinstance(start, list | tuple):
        return isinstance(found, list | tuple)
    if isinstance(start, bool) or start is None or isinstance(start, str):
        return found is None or isinstance(found, type(start)) or (start is None and isinstance(found, int | float | str))
    return isinstance(found, int | float) and not isinstance(found, bool)
