"""Prompts as rows of tokens, right-padded, with the place where each subject ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asrlife.errors import InputError

if TYPE_CHECKING:
    from asrlife.models.text import TextModel


@dataclass(frozen=True, eq=False)
class Rows:
    """`ids` and `mask` (rows, tokens), `places` (rows,) of the last token of the subject, `starts` (rows,) of the first token of the target
    and `lengths` (rows,) of the text; `owner` (rows,) says which edit a row is of."""

    ids: Tensor
    mask: Tensor
    places: Tensor
    starts: Tensor
    lengths: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    def part(self, some: slice) -> Rows:
        """Some of the rows."""
        return Rows(*(getattr(self, each.name)[some] for each in fields(self)))

    def predicting(self) -> Tensor:
        """The places behind which a token of the target stands, (rows, tokens; bool)."""
        places = torch.arange(self.ids.shape[1])
        found = (places >= self.starts[:, None] - 1) & (places < self.lengths[:, None] - 1)
        return found.to(self.ids.device)


def end_of_subject(model: TextModel, prompt: str, subject: str) -> int:
    """The place of the token that holds the last letter of the last `subject` in `prompt`; what stands before it is context."""
    found = prompt.rfind(subject)
    if found < 0:
        raise InputError(f"the subject {subject!r} does not stand in {prompt!r}")
    return place_of(model, prompt, found + len(subject) - 1)


def place_of(model: TextModel, text: str, letter: int) -> int:
    """The token that holds a letter of a text."""
    if model.speller.is_fast:
        offsets = model.speller(text, return_offsets_mapping=True)["offset_mapping"]
        holding = [place for place, (first, last) in enumerate(offsets) if first <= letter < last]
        if holding:
            return holding[-1]
    return len(model.ids(text[: letter + 1])) - 1


def rows(model: TextModel, texts: Sequence[tuple[int, str, str, str]]) -> Rows:
    """Rows of (edit, prompt, subject, target); an empty target leaves the prompt alone, and its start is then its length."""
    ids, places, starts = [], [], []
    for _, prompt, subject, target in texts:
        whole = model.spelt(prompt, f"{prompt} {target}".rstrip())[0][:-1]
        ids.append(whole)
        places.append(end_of_subject(model, prompt, subject))
        starts.append(model.spelt(prompt, f"{prompt} {target}")[1] if target else len(whole))
    longest = max(map(len, ids))
    if longest > model.places:
        raise InputError(f"a prompt with its target has {longest} tokens and {model.name} has places for {model.places}: shorten it")
    lengths, owner = torch.tensor([len(row) for row in ids]), torch.tensor([edit for edit, *_ in texts])
    return Rows(*padded(model, ids), torch.tensor(places), torch.tensor(starts), lengths, owner)


def padded(model: TextModel, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of tokens with ends behind the shorter ones, and 1 where there is text, both (rows, tokens)."""
    found = torch.full((len(ids), max(map(len, ids))), model.end, device=model.device)
    mask = torch.zeros_like(found)
    for number, row in enumerate(ids):
        found[number, : len(row)] = torch.tensor(row, device=model.device)
        mask[number, : len(row)] = 1
    return found, mask
