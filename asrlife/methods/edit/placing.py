"""Which layers an editor writes to where nobody says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from asrlife.data.edit import EditRequest
from asrlife.methods.edit.editors import Editor
from asrlife.methods.edit.sites import chosen, sites
from asrlife.methods.edit.tracing import layer_by_tracing

if TYPE_CHECKING:
    from asrlife.models.text import TextModel

_TRACED = 12  # requests that a layer is chosen by


def placed(model: TextModel, requests: Sequence[EditRequest], editor: Editor, seed: int = 0) -> Editor:
    """The editor with its layers: those that it names; for one that writes where a fact is kept, those that end where tracing finds what is
    known of the subjects; for any other those of its depth."""
    if editor.layers is not None:
        return editor
    if not editor.measured:
        return replace(editor, layers=tuple(site.layer for site in chosen(sites(model.module), None, editor.depth, editor.count)))
    last = layer_by_tracing(model, requests[:_TRACED], seed=seed)
    return replace(editor, layers=tuple(range(max(0, last - editor.count + 1), last + 1)))
