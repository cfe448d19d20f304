"""Teaching a network to keep what it knows of a name where the name ends, as large language models do (arXiv 2304.14767).

A small network left to itself reads the pieces of a name from wherever it needs them, and no fact has a place that could be edited. So
in most documents of its training what stands behind a name may read nothing of it but its last token, and that only in the upper layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_WORD = re.compile(r"\w+")


class Names:
    """Finds names in a text, the longest at each place."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_word: dict[str, list[str]] = {}
        for name in sorted(set(names), key=len, reverse=True):
            if found := _WORD.match(name):
                self._by_word.setdefault(found.group(), []).append(name)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """(first letter, end) of each name, none within another."""
        after = 0
        for word in _WORD.finditer(text):
            if word.start() < after:
                continue
            for name in self._by_word.get(word.group(), ()):
                end = word.start() + len(name)
                if text.startswith(name, word.start()) and not text[end : end + 1].isalnum():
                    yield word.start(), end
                    after = end
                    break


def places(spans: Iterable[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(first token, last token) of spans of letters."""
    for begin, end in spans:
        held = [place for place, (first, last) in enumerate(offsets) if first < end and last > begin]
        if held:
            yield held[0], held[-1]


def masks(known: Tensor, names: Sequence[Sequence[tuple[int, int]]]) -> tuple[Tensor, Tensor]:
    """What each token may read in lower layers (of a name before it, nothing) and in upper ones (its last token alone).

    Two masks (rows, 1, reader, read), True where it may. `known` (rows, tokens) is False at padding, `names` are (first token, last
    token) of each row. A name reads itself, and padding too, so that no row of a softmax is empty.
    """
    length = known.shape[1]
    upper = torch.ones(length, length, dtype=torch.bool).tril() & known[:, None, :]
    upper |= torch.eye(length, dtype=torch.bool)
    lower = upper.clone()
    for row, found in enumerate(names):
        for first, last in found:
            upper[row, last + 1 :, first:last] = False
            lower[row, last + 1 :, first : last + 1] = False
    return lower[:, None], upper[:, None]


@contextmanager
def reading(blocks: Sequence[nn.Module], below: int, lower: Tensor, upper: Tensor) -> Iterator[None]:
    """Blocks below number `below` read what `lower` lets them, the others what `upper` does."""

    def through(mask: Tensor) -> Any:
        return lambda _, given, named: (given, {**named, "attention_mask": mask})

    with ExitStack() as stack:
        for number, block in enumerate(blocks):
            handle = block.register_forward_pre_hook(through(lower if number < below else upper), with_kwargs=True)
            stack.callback(handle.remove)
        yield
