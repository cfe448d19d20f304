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


def asked(model: TextModel, requests: Sequence[EditRequest]) -> Rows:
    """Each prompt with its target, a row for each request."""
    return rows(model, [(number, request.prompt, request.subject, request.target) for number, request in enumerate(requests)])


def parts(whole: Rows) -> Iterator[Rows]:
    """The same in pieces that fit into one forward."""
    for first in range(0, len(whole), _ROWS):
        yield whole.part(slice(first, first + _ROWS))


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
    """Adam on `parameters` until every target's loss is below `enough` nats a token, for at most `steps`; `after` follows each step."""
    whole, optimiser = asked(model, requests), torch.optim.Adam(parameters, rate)
    for _ in range(steps):
        optimiser.zero_grad()
        worst = 0.0
        for some in parts(whole):
            found = losses(model, some)
            worst = max(worst, float(found.detach().max()))
            _accumulate(found.sum() / len(whole), parameters)
        if worst < enough:
            return
        optimiser.step()
        after()


def _accumulate(loss: Tensor, parameters: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
