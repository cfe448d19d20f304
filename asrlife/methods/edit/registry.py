"""The editors by name."""

from __future__ import annotations

from collections.abc import Mapping

from asrlife.methods.edit.editors import AlphaEdit, Editor, Emmet, Memit, Rome
from asrlife.methods.edit.tuned import FineTuneClamped, FineTuneTarget, Lora
from asrlife.methods.edit.ultraedit import UltraEdit

EDITORS: Mapping[str, type[Editor]] = {
    editor.name: editor for editor in (Rome, Memit, Emmet, AlphaEdit, UltraEdit, FineTuneClamped, FineTuneTarget, Lora)
}
