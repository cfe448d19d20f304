"""Keys: what feed-forwards read at the subjects of edits, and over running text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from asrlife.data.edit import EditRequest
from asrlife.errors import InputError
from asrlife.methods.edit.algebra import Covariance
from asrlife.methods.edit.partial import body, listening
from asrlife.methods.edit.rows import Rows, padded, rows
from asrlife.methods.edit.sites import Site
from asrlife.methods.edit.values import before

if TYPE_CHECKING:
    from asrlife.models.text import TextModel

_ROWS = 64
_WRITTEN = 256  # texts at once


@torch.no_grad()
def heard(model: TextModel, requests: Sequence[EditRequest], contexts: Sequence[str], at: Sequence[Site]) -> list[tuple[Tensor, Tensor]]:
    """For each site the means over contexts and phrasings of its input and of its block's output at the subjects' last tokens, each
    (edits, width). Without contexts only the prompts themselves are heard."""
    asked = rows(model, [(n, p, r.subject, "") for n, r in enumerate(requests) for p in (before(r, contexts) if contexts else [r.prompt])])
    window = _Window(asked)
    taken = {site.layer: list[Tensor]() for site in at}
    blocks = {site.layer: list[Tensor]() for site in at}
    with ExitStack() as stack:
        for site in dict.fromkeys(at):
            stack.enter_context(listening(site.module, window.inputs(taken[site.layer])))
            stack.enter_context(listening(site.block, window.outputs(blocks[site.layer])))
        _run(model.module, asked, window)
    return [(_mean(taken[site.layer], asked.owner), _mean(blocks[site.layer], asked.owner)) for site in at]


def _mean(parts: Sequence[Tensor], owner: Tensor) -> Tensor:
    """The mean over the rows of each edit, (edits, width)."""
    found, counts = torch.cat(list(parts)), torch.bincount(owner)[:, None]
    return found.new_zeros(len(counts), found.shape[1]).index_add_(0, owner.to(found.device), found) / counts.to(found.device)


class _Window:
    """Which rows are in the forward that is running; picks what stands at their places."""

    def __init__(self, asked: Rows) -> None:
        self.asked, self.begin = asked, 0

    def inputs(self, kept: list[Tensor]) -> Callable[[Tensor, Tensor], None]:
        """Keeps what a module is given."""
        return lambda given, _: kept.append(self._picked(given))

    def outputs(self, kept: list[Tensor]) -> Callable[[Tensor, Tensor], None]:
        """Keeps what a module puts out."""
        return lambda _, made: kept.append(self._picked(made))

    def _picked(self, states: Tensor) -> Tensor:
        places = self.asked.places[self.begin : self.begin + len(states)]
        return states[torch.arange(len(states)), places].clone()


def _run(network: Any, asked: Rows, window: _Window) -> None:
    for window.begin in range(0, len(asked), _ROWS):
        part = slice(window.begin, window.begin + _ROWS)
        body(network)(input_ids=asked.ids[part], attention_mask=asked.mask[part], use_cache=False)


@torch.no_grad()
def covariances(model: TextModel, texts: Sequence[str], at: Sequence[Site], most: int = 2048, shrinkage: float = 1e-4) -> list[Covariance]:
    """E[k k'] over the tokens of `texts` for all sites in one pass, in float64, with a little of the identity (see `Covariance.shrunk`).

    Ten to twenty times as many tokens as the keys have dimensions are enough (arXiv 2506.04226). A forward has at most `most` tokens.
    """
    if not texts:
        raise InputError("the covariance of keys needs texts: give some, or let the model write its own")
    sums: dict[int, Tensor] = {}
    count = 0
    for ids, mask in _batches(model, texts, most):
        count += int(mask.sum())
        with ExitStack() as stack:
            for site in at:
                stack.enter_context(listening(site.module, _adding(sums, site.layer, mask.bool())))
            body(model.module)(input_ids=ids, attention_mask=mask, use_cache=False)
    return [Covariance((sums[site.layer] / count).cpu()).shrunk(shrinkage) for site in at]


def _adding(sums: dict[int, Tensor], layer: int, mask: Tensor) -> Callable[[Tensor, Tensor], None]:
    """Adds the second moment of what a module is given where there is text."""

    def add(given: Tensor, _: Tensor) -> None:
        keys = given[mask].float()
        sums[layer] = sums.get(layer, 0.0) + (keys.T @ keys).double()

    return add


def _batches(model: TextModel, texts: Sequence[str], most: int) -> Iterator[tuple[Tensor, Tensor]]:
    room = min(most, model.places)
    tokens = sorted((model.ids(text)[:room] for text in texts), key=len)
    group: list[list[int]] = []
    for row in [*(row for row in tokens if row), []]:
        if group and (not row or (len(group) + 1) * len(row) > most):
            yield padded(model, group)
            group = []
        group.append(row)


@torch.no_grad()
def written(model: TextModel, count: int, tokens: int, seed: int = 0, begin: str = "", ends: bool = False) -> list[str]:
    """Texts that the model writes by itself, drawn from its own probabilities: contexts, or text to measure keys on where there is none.

    A text is as long as asked for, or, with `ends`, as the model has it.
    """
    first = model.ids(begin) or [model.end]
    generator = torch.Generator(model.device).manual_seed(seed)
    texts = []
    for done in range(0, count, _WRITTEN):
        ids = torch.tensor([first] * min(_WRITTEN, count - done), device=model.device)
        rows = _drawn(model, ids, min(tokens, model.places - len(first)), generator, ends)[:, len(first) :].tolist()
        kept = [row[: row.index(model.end)] if model.end in row else row for row in rows]
        texts += [str(model.speller.decode(row, skip_special_tokens=True)).strip() for row in kept]
    return texts


def _drawn(model: TextModel, ids: Tensor, tokens: int, generator: torch.Generator, ends: bool) -> Tensor:
    given, past = ids, None
    for _ in range(tokens):
        made = model.module(given, past_key_values=past, use_cache=True)
        scores, past = made.logits[:, -1].float(), made.past_key_values
        if not ends:
            scores[:, model.end] = -torch.inf
        given = torch.multinomial(scores.softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, given], 1)
    return ids


def contexts(model: TextModel, seed: int = 0, lengths: Sequence[int] = (5, 10), each: int = 2) -> tuple[str, ...]:
    """Beginnings to stand before a prompt: none, and `each` texts of each length that the model wrote (cf. arXiv 2202.05262, 3.1)."""
    texts = [text for length in lengths for text in written(model, each, length, seed + length)]
    return ("", *(f"{text}. " for text in texts if text))


def told(model: TextModel, requests: Sequence[EditRequest], count: int, tokens: int = 16, seed: int = 0) -> list[list[str]]:
    """What the model itself writes behind each subject, `count` texts at most: what else it knows, which an edit should leave as it is.

    Left out are those in which its answer to the request stands, or would be the likeliest word somewhere: they say what is to change.
    """
    if not count:
        return [[] for _ in requests]
    found = []
    for number, (request, answer) in enumerate(zip(requests, _answers(model, requests, tokens), strict=True)):
        texts = written(model, 2 * count, tokens, seed + number, request.subject, ends=True)
        other = [text for text in dict.fromkeys(texts) if text[:1].isalpha() and answer not in text]
        # spelt anew behind the subject, a text can have more tokens than were drawn
        fitting = [text for text in other if len(model.ids(f"{request.subject} {text}")) <= model.places]
        kept = _silent(model, request.subject, fitting, _begin(model, request.prompt, answer)) if fitting else []
        found.append(kept[:count])
    return found


def _answers(model: TextModel, requests: Sequence[EditRequest], tokens: int) -> list[str]:
    """What the model answers each request now, in no more tokens than the network has places for."""
    room = [min(tokens, model.places - len(model.ids(request.prompt))) for request in requests]
    found = [""] * len(requests)
    for most in set(room):
        some = [place for place, own in enumerate(room) if own == most]
        for place, text in zip(some, model.complete([requests[place].prompt for place in some], most), strict=True):
            found[place] = text.strip().rstrip(".")
    return found


def _begin(model: TextModel, prompt: str, answer: str) -> int:
    """The token that an answer begins with."""
    ids, first = model.spelt(prompt, f"{prompt} {answer}")
    return ids[first]


@torch.no_grad()
def _silent(model: TextModel, subject: str, texts: Sequence[str], token: int) -> list[str]:
    """The texts behind `subject` in which `token` is nowhere the likeliest."""
    at = rows(model, [(n, subject, subject, text) for n, text in enumerate(texts)])
    likeliest = model.module(at.ids, attention_mask=at.mask).logits.argmax(-1) == token
    behind = torch.arange(at.ids.shape[1]) >= at.starts[:, None] - 1
    said = (likeliest & behind.to(likeliest.device) & at.mask.bool()).any(1)
    return [text for text, wrong in zip(texts, said.tolist(), strict=True) if not wrong]
