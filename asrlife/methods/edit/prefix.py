"""Rows of which only the end is run, time and again: what stands before the subject's last token never changes, so it is run once."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from asrlife.methods.edit.partial import body, logits_at, resumed, states_into
from asrlife.methods.edit.rows import Rows


@dataclass(frozen=True, eq=False)
class Ends:
    """Rows from the last token of their subject on, which stands in column 0; attention sees what stands before it in `cache`.

    `ids`, `targets` (rows, tokens): the text, right-padded, and the token that should follow where a target is wanted, -1 elsewhere;
    `mask` (rows, before + tokens) marks what is text, with `positions` (rows, tokens) of it; `states` (rows, tokens, width) goes into block
    `layer`; `last` (rows,) is the column of the last token, `owner` (rows,) the edit, `held` (rows,) whether a row is to stay as it is.
    """

    layer: int
    ids: Tensor
    targets: Tensor
    mask: Tensor
    positions: Tensor
    states: Tensor
    last: Tensor
    owner: Tensor
    held: Tensor
    cache: Any

    def __len__(self) -> int:
        return len(self.ids)

    def chosen(self, kept: Tensor) -> Ends:
        """The rows `kept` (rows,; bool) alone."""
        parts = {name: getattr(self, name)[kept] for name in ("ids", "targets", "mask", "positions", "states", "last", "owner", "held")}
        return replace(self, cache=_selected(self.cache, kept.nonzero()[:, 0]), **parts)

    @contextmanager
    def resumed(self, network: Any) -> Iterator[None]:
        """A network that begins at block `layer` with `states`."""
        with resumed(network, self.layer, self.states):
            yield

    def logits(self, network: Any, wanted: Tensor) -> Tensor:
        """Scores of the places that are `wanted` (rows, tokens; bool), (places, classes), of a network that is resumed."""
        return logits_at(network, self.ids, self.mask, wanted, **_context(network, self.positions, _fresh(self.cache)))


def ends(network: Any, layer: int, asked: Rows, held: int = 0) -> Ends:
    """Run everything before the subjects' last tokens, and what comes after them up to block `layer`; the last `held` rows are to stay."""
    device = asked.ids.device
    places, starts, lengths, owner = (part.to(device) for part in (asked.places, asked.starts, asked.lengths, asked.owner))
    before = int(places.max())
    # subjects end in one column, so that distances within a row are true for windows of attention and positions by distance
    columns = torch.arange(before + int((lengths - places).max()), device=device) - (before - places)[:, None]
    mask = ((columns >= 0) & (columns < lengths[:, None])).long()
    columns = columns.clamp_min(0).minimum(lengths[:, None] - 1)
    ids = asked.ids.gather(1, columns)
    targeted = (columns >= starts[:, None] - 1) & (columns < lengths[:, None] - 1) & (mask > 0)
    targets = asked.ids.gather(1, (columns + 1).minimum(lengths[:, None] - 1)).where(targeted, torch.tensor(-1, device=device))
    cache = _cache(network, ids[:, :before], mask[:, :before], columns[:, :before])
    ids, columns, targets = ids[:, before:], columns[:, before:], targets[:, before:]
    states = states_into(network, layer, ids, mask, **_context(network, columns, _fresh(cache)))
    stay = torch.arange(len(ids), device=device) >= len(ids) - held
    return Ends(layer, ids, targets, mask, columns, states, lengths - 1 - places, owner, stay, cache)


@torch.no_grad()
def _cache(network: Any, ids: Tensor, mask: Tensor, positions: Tensor) -> Any:
    """Keys and values of all layers; None where nothing stands before."""
    if not ids.shape[1]:
        return None
    made = body(network)(input_ids=ids, attention_mask=mask, use_cache=True, **_context(network, positions, None))
    return made.past_key_values


def _context(network: Any, positions: Tensor, cache: Any) -> dict[str, Any]:
    known = inspect.signature(body(network).forward).parameters
    told = {"position_ids": positions} if "position_ids" in known else {}
    return told if cache is None else {**told, "past_key_values": cache}


def _fresh(cache: Any) -> Any:
    """One that a forward may add to: its layers put new tensors in place of old ones, which so stay as they are."""
    if cache is None:
        return None
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    return found


def _selected(cache: Any, places: Tensor) -> Any:
    found = _fresh(cache)
    if found is not None:
        found.batch_select_indices(places)
    return found
