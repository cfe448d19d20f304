"""One tensor by the name that a network gives it and by that in its files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

_ALIASES = (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v"))


def counterpart(name: str, known: Collection[str]) -> str | None:
    """What `known` calls the tensor `name`, or None.

    The same name; the other spelling of a weight-norm pair; or the only one that differs by a prefix, as files of a bare body do.
    """
    spellings = [name, *(name.replace(one, other) for one, other in (*_ALIASES, *(pair[::-1] for pair in _ALIASES)))]
    found = next((spelling for spelling in spellings if spelling in known), None)
    if found is not None:
        return found
    near = [other for other in known for own in spellings if other.endswith(f".{own}") or own.endswith(f".{other}")]
    return near[0] if len(set(near)) == 1 else None


def counterparts(names: Iterable[str], known: Collection[str]) -> Mapping[str, str]:
    """By each of `names` what `known` calls it, where it knows it."""
    return {name: found for name in names if (found := counterpart(name, known)) is not None}
