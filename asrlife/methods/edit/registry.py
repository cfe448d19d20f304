"""The editors by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from asrlife.errors import InputError
from asrlife.methods.edit.editors import AlphaEdit, Editor, Emmet, Memit, Rome
from asrlife.methods.edit.tuned import FineTuneClamped, FineTuneTarget, Lora
from asrlife.methods.edit.ultraedit import UltraEdit
from asrlife.methods.settings import nearest, typed

EDITORS: Mapping[str, type[Editor]] = {
    editor.name: editor for editor in (Rome, Memit, Emmet, AlphaEdit, UltraEdit, FineTuneClamped, FineTuneTarget, Lora)
}


def editor_of(name: str, settings: Mapping[str, Any] | None = None) -> Editor:
    """An editor with some settings of its own; "search.rate" is the rate of its search. Raises InputError for what it does not know."""
    if name not in EDITORS:
        raise InputError(f"there is no editor {name!r}; {nearest(name, EDITORS)}")
    made = EDITORS[name]()
    for key, value in (settings or {}).items():
        owner, _, inner = key.partition(".")
        if inner and any(entry.name == owner for entry in fields(made)):
            part = getattr(made, owner)
            made = replace(made, **{owner: replace(part, **typed(type(part), {inner: value}, f"{name}.{owner}"))})
        else:
            made = replace(made, **typed(type(made), {key: value}, name))
    return made
