"""How surely a model says what edits want, with gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from asrlife.data.edit import EditRequest
from asrlife.methods.edit.partial import logits_at
from asrlife.methods.edit.rows import Rows, rows

if TYPE_CHECKING:
    from asrlife.models.text import TextModel

_ROWS = 64  # in one forward that is kept for its gradient
_TOGETHER = 8  # prompts in one step


def asked(model: TextModel, requests: Sequence[EditRequest]) -> Rows:
    """Every prompt that an edit is made from with its target, a row each."""
    return rows(model, [(n, prompt, request.subject, request.target) for n, request in enumerate(requests) for prompt in request.prompts])


def parts(whole: Rows, size: int = _ROWS) -> Iterator[Rows]:
    """The same in pieces of at most `size` rows."""
    for first in range(0, len(whole), size):
        yield whole.part(slice(first, first + size))


def losses(model: TextModel, some: Rows) -> Tensor:
    """Cross-entropy of the target's tokens, in nats, a mean for each row, (rows,)."""
    wanted = some.predicting()
    scores = logits_at(model.module, some.ids, some.mask, wanted)
    each = nn.functional.cross_entropy(scores, some.ids[:, 1:][wanted[:, :-1]], reduction="none")
    counts = wanted.sum(1)
    owner = torch.arange(len(some), device=each.device).repeat_interleave(counts)
    return torch.zeros(len(some), device=each.device).index_add(0, owner, each) / counts


def descend(
    model: TextModel, requests: Sequence[EditRequest], parameters: Sequence[Tensor], steps: int, rate: float, enough: float,
    after: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Adam on `parameters` until every target's loss is below `enough` nats a token, for at most `steps` passes over the requests.

    A few prompts share each step, which is left out where all of them are below; `after` follows it.
    """
    some, optimiser = list(parts(asked(model, requests), _TOGETHER)), torch.optim.Adam(parameters, rate)
    for _ in range(steps):
        moved = False
        for part in some:
            found = losses(model, part)
            if bool((found >= enough).any()):
                for parameter, gradient in zip(parameters, torch.autograd.grad(found.mean(), parameters), strict=True):
                    parameter.grad = gradient
                optimiser.step()
                after()
                moved = True
        if not moved:
            return
