"""Putting clean outputs back, a token at a time, into blocks that run on a corrupted input: what tracing text and tracing speech share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asrlife.methods.edit.partial import adding, listening, resumed_in

_AT_ONCE = 512  # rows in one forward


@contextmanager
def kept(modules: Sequence[nn.Module], made: bool) -> Iterator[list[Tensor]]:
    """What each module puts out (`made`), or is given, in the forward inside, in the order in which they run, (rows, tokens, width)."""
    found: list[Tensor] = []
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(listening(module, lambda given, out: found.append((out if made else given).clone())))
        yield found


def around(layer: int, window: int, layers: int) -> range:
    """The `window` layers that are restored with `layer`, which is in their middle, or just above it; fewer at the ends."""
    return range(max(0, layer - window // 2), min(layers, layer + (window + 1) // 2))


@dataclass(frozen=True, eq=False)
class Stack:
    """`blocks`, for each of them the module whose output is put back, and P(answer) of rows, given which noise sample each is of."""

    blocks: nn.ModuleList
    modules: Sequence[nn.Module]
    probability: Callable[[Tensor], Tensor]
    at_once: int = _AT_ONCE

    def effects(
        self, clean: Sequence[Tensor], corrupted: Sequence[Tensor], low: float, first: int, window: int, advance: Callable[[], None]
    ) -> Tensor:  # fmt: skip
        """IE (tokens, layers) = P(restored) - `low`, zero for tokens before `first`.

        `clean`: what each module put out, (tokens, width); `corrupted`: what went into each block, (samples, tokens, width). All tokens of
        a layer share a forward, which begins at the lowest layer that is restored.
        """
        found = torch.zeros(len(clean[0]), len(self.blocks))
        for layer in range(len(self.blocks)):
            found[first:, layer] = self._restored(around(layer, window, len(self.blocks)), clean, corrupted, first).cpu() - low
            advance()
        return found

    def _restored(self, within: range, clean: Sequence[Tensor], corrupted: Sequence[Tensor], first: int) -> Tensor:
        """P with the outputs of the layers `within` put back at each token from `first` on in turn, (tokens - first,)."""
        samples, tokens = corrupted[0].shape[:2]
        per, found = max(1, self.at_once // samples), []
        for begin in range(first, tokens, per):
            places = torch.arange(begin, min(tokens, begin + per)).repeat_interleave(samples)
            of = torch.arange(samples).repeat(len(places) // samples)
            with ExitStack() as stack:
                stack.enter_context(resumed_in(self.blocks, within.start, corrupted[within.start][of]))
                for layer in within:
                    stack.enter_context(adding(self.modules[layer], _back(places, clean[layer])))
                found.append(self.probability(of).reshape(-1, samples).mean(1))
        return torch.cat(found)


def _back(places: Tensor, clean: Tensor) -> Callable[[Tensor], Tensor]:
    def change(made: Tensor) -> Tensor:
        out = made.clone()
        out[torch.arange(len(out)), places] = clean[places]
        return out

    return change
