"""`edit(model, requests, editor)`: requests in, a delta out, the model as it was."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.data.edit import EditRequest
from asrlife.delta.delta import Change, Delta, Dense, LowRank, together
from asrlife.delta.factors import compressed
from asrlife.delta.weights import applied
from asrlife.errors import InputError
from asrlife.methods.edit.cache import digest, kept_covariances
from asrlife.methods.edit.editors import Bench, Editor
from asrlife.methods.edit.keys import contexts, written
from asrlife.methods.edit.placing import placed
from asrlife.methods.edit.registry import editor_of
from asrlife.methods.edit.sites import chosen, sites
from asrlife.methods.edit.targets import asked

if TYPE_CHECKING:
    from asrlife.models.text import TextModel

_TIMES, _OWN_TOKENS = 20, 48  # as many tokens as dimensions of a key, in texts of so many


def bench(model: TextModel, editor: Editor, texts: Sequence[str] = (), seed: int = 0, cache: Path | bool = True) -> Bench:
    """What `editor` needs of a model, once for all edits: sites, contexts, and covariances over `texts`, or over what the model writes.

    Covariances are kept on disk, see `kept_covariances`; `cache` is the folder, True for the user's own, False for none.
    """
    at = chosen(sites(model.module), editor.layers, editor.depth, editor.count)
    if not editor.measured:
        return Bench(model, at, seed=seed)
    count = math.ceil(_TIMES * max(site.weight.shape[1] for site in at) / _OWN_TOKENS)
    source = digest(texts) if texts else f"{count} of {_OWN_TOKENS} tokens written with seed {seed}"
    found = kept_covariances(model, at, source, lambda: texts or written(model, count, _OWN_TOKENS, seed), cache)
    known = dict(zip((site.layer for site in at), found, strict=True))
    return Bench(model, at, contexts(model, seed), known, seed=seed)


def edit(
    model: TextModel, requests: Sequence[EditRequest], method: Editor | str = "rome", *, at: Bench | None = None, batch: int = 0,
    texts: Sequence[str] = (), seed: int = 0, advance: Callable[[], None] = lambda: None,
) -> Delta:  # fmt: skip
    """The delta that makes `requests` true of `model`, which is left as it was, bit for bit.

    `method` is an editor, or the name of one, which then has its own settings and writes where tracing or its depth says (see `placed`).
    With `batch` 0 all are made together on the model as it is. Otherwise they are made one batch after the other, each on the model that
    has those before it: sequential editing. `at` is a bench to use again; one that has made edits before remembers what
    editors keep of them: keys, and moments of keys and gradients.
    Raises InputError for no requests, for a prompt that the network has no places for, and for a network without sites.
    """
    if not requests:
        raise InputError("nothing to edit: give at least one request")
    asked(model, requests)  # which tells of prompts that are too long before anything else is done
    editor = placed(model, requests, editor_of(method), seed) if isinstance(method, str) else method
    at = at or bench(model, editor, texts, seed)
    # the last alone: all of them together could be large
    (total,) = deque(edits(model, requests, editor, at, batch or len(requests), advance), maxlen=1)
    return Delta(total.base, total.tensors, _note(model, editor, requests, batch, at))


def edits(
    model: TextModel, requests: Sequence[EditRequest], editor: Editor, at: Bench, batch: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Delta]:  # fmt: skip
    """Sequential editing, watched: the delta of all edits so far, after each batch of them."""
    total = Delta(model.fingerprint(), {})
    for first in range(0, len(requests), batch):
        some = requests[first : first + batch]
        with applied(model.module, total) if total.tensors else nullcontext():
            made = editor.changes(at, some)
        total = _summed(total, made)
        for _ in some:
            advance()
        yield total


def edit_each(model: TextModel, requests: Sequence[EditRequest], editor: Editor, at: Bench) -> list[Delta]:
    """A delta for each request by itself, all made on the model as it is: what single edits are measured with."""
    none = Delta(model.fingerprint(), {})
    made = editor.each(at, requests)
    return [
        Delta(none.base, _summed(none, changes).tensors, _note(model, editor, [request], 0, at))
        for request, changes in zip(requests, made, strict=True)
    ]


def _summed(total: Delta, made: Mapping[str, Change]) -> Delta:
    """With the changes added, in float32 on the CPU; factors beyond the full rank of a weight are superfluous and go."""
    tensors = dict(total.tensors)
    for name, change in made.items():
        tensors[name] = together(tensors[name], _single(change)) if name in tensors else _single(change)
    every = Delta(total.base, tensors)
    return compressed(every) if any(_overfull(change) for change in tensors.values()) else every


def _single(change: Change) -> Change:
    if isinstance(change, Dense):
        return Dense(change.value.float().cpu().contiguous())
    return LowRank(change.up.float().cpu().contiguous(), change.down.float().cpu().contiguous())


def _overfull(change: Change) -> bool:
    return isinstance(change, LowRank) and change.rank > min(change.shape)


def _note(model: TextModel, editor: Editor, requests: Sequence[EditRequest], batch: int, at: Bench) -> dict[str, Any]:
    edits = [{"subject": r.subject, "prompt": r.prompt, "target": r.target} for r in requests]
    how = {"settings": asdict(editor), "layers": [site.layer for site in at.sites], "batch": batch}
    return {"method": editor.name, "of": model.name, "evidence": {"edits": edits}, **how}
