"""`edit(model, requests, method)`: requests in, a low-rank delta out, the model as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.data.edit import EditRequest
from asrlife.delta.delta import Delta, LowRank
from asrlife.delta.weights import applied
from asrlife.errors import InputError
from asrlife.methods.edit.cache import digest, kept_covariances
from asrlife.methods.edit.editors import Bench, Editor
from asrlife.methods.edit.keys import contexts, written
from asrlife.methods.edit.sites import Site, chosen, sites

if TYPE_CHECKING:
    from asrlife.models.text import TextModel

_TIMES, _OWN_TOKENS = 20, 48  # as many tokens as dimensions of a key, in texts of so many


def bench(model: TextModel, editor: Editor, texts: Sequence[str] = (), seed: int = 0, cache: Path | bool = True) -> Bench:
    """What `editor` needs of a model, once for all edits: sites, contexts, and covariances over `texts`, or over what the model writes.

    Covariances are kept on disk, see `kept_covariances`; `cache` is the folder, True for the user's own, False for none.
    """
    at = chosen(sites(model.module), editor.layers, editor.depth, editor.count)
    count = math.ceil(_TIMES * max(site.weight.shape[1] for site in at) / _OWN_TOKENS)
    source = digest(texts) if texts else f"{count} of {_OWN_TOKENS} tokens written with seed {seed}"
    found = kept_covariances(model, at, source, lambda: texts or written(model, count, _OWN_TOKENS, seed), cache)
    return Bench(model, at, contexts(model, seed), dict(zip((site.layer for site in at), found, strict=True)))


def edit(
    model: TextModel, requests: Sequence[EditRequest], editor: Editor, *, at: Bench | None = None, batch: int = 0,
    texts: Sequence[str] = (), seed: int = 0, advance: Callable[[], None] = lambda: None,
) -> Delta:  # fmt: skip
    """The delta that makes `requests` true of `model`, which is left as it was, bit for bit.

    With `batch` 0 all are made together on the model as it is. Otherwise they are made one batch after the other, each on the model that
    has those before it: sequential editing. `at` is a bench to use again; one that has made edits before remembers their keys.
    Raises InputError for no requests and for a network without sites.
    """
    if not requests:
        raise InputError("nothing to edit: give at least one request")
    at = at or bench(model, editor, texts, seed)
    base, size, total = model.fingerprint(), batch or len(requests), dict[str, LowRank]()
    for first in range(0, len(requests), size):
        some = requests[first : first + size]
        with applied(model.module, Delta(base, total)) if total else nullcontext():
            made = editor.changes(at, some)
        total = _summed(total, {name: _stored(change, at.sites, name) for name, change in made.items()})
        for _ in some:
            advance()
    return Delta(base, total, _note(model, editor, requests, batch, at))


def _stored(change: LowRank, at: Sequence[Site], name: str) -> LowRank:
    """In float32, and in the shape in which the weight is stored."""
    site = next(site for site in at if site.name == name)
    up, down = change.up.float(), change.down.float()
    return LowRank(down.T.contiguous(), up.T.contiguous()) if site.transposed else LowRank(up.contiguous(), down.contiguous())


def _summed(total: dict[str, LowRank], made: dict[str, LowRank]) -> dict[str, LowRank]:
    import torch

    both = dict(total)
    for name, change in made.items():
        old = both.get(name)
        both[name] = change if old is None else LowRank(torch.cat([old.up, change.up], 1), torch.cat([old.down, change.down]))
    return both


def _note(model: TextModel, editor: Editor, requests: Sequence[EditRequest], batch: int, at: Bench) -> dict[str, Any]:
    edits = [{"subject": r.subject, "prompt": r.prompt, "target": r.target} for r in requests]
    how = {"settings": asdict(editor), "layers": [site.layer for site in at.sites], "batch": batch}
    return {"method": editor.name, "of": model.name, "evidence": {"edits": edits}, **how}
