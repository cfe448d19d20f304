"""What an edit wants of each step: other scores in closed form, or an addition to a module's output, found by gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, relu

from asrlife.delta.weights import overwritten
from asrlife.methods.edit.partial import adding, listening
from asrlife.methods.edit.speech.listeners import Listener, Steps
from asrlife.methods.edit.speech.places import Place
from asrlife.models.handle import Batch


@dataclass(frozen=True)
class Search:
    """How additions are found: Adam at `rate` (of the output's size) for at most `steps`, until all targets win by the margin.

    `divergence` weighs KL from what the model says at all other steps, `decay` the square of the addition over that of the output.
    """

    steps: int = 30
    rate: float = 0.2
    divergence: float = 1.0
    decay: float = 0.05


def lacking(scores: Tensor, targets: Tensor, margin: float) -> Tensor:
    """Which steps (n,) do not say their target by `margin` (nats, before the softmax)."""
    own = scores.gather(1, targets[:, None])[:, 0]
    rest = scores.scatter(1, targets[:, None], -torch.inf)
    return own < rest.max(1).values + margin


def least_change(scores: Tensor, targets: Tensor, margin: float) -> Tensor:
    """The shortest change (n, classes) of `scores` after which each target exceeds every other class by `margin` or more.

    The projection onto {z : z_y >= z_j + m}: z_y rises to u and what lies above u - m comes down to it, with
    u - z_y = sum_j max(0, z_j - u + m); u is found among the classes in falling order.
    """
    index = targets[:, None]
    own, rest = scores.gather(1, index), scores.scatter(1, index, -torch.inf).sort(1, descending=True).values[:, :-1] + margin
    counts = torch.arange(1, rest.shape[1] + 1, dtype=scores.dtype, device=scores.device)
    levels = (own + rest.cumsum(1)) / (counts + 1)  # u if that many classes come down
    fits = (rest > levels).sum(1, keepdim=True)
    level = torch.where(fits > 0, levels.gather(1, (fits - 1).clamp_min(0)), own)
    change = -relu(scores + margin - level)
    return change.scatter(1, index, level - own)


def additions(listener: Listener, place: Place, batch: Batch, steps: Steps, wrong: Tensor, margin: float, search: Search) -> Tensor:
    """What to add (n, out) to the module's output at the n steps that are `wrong` (steps,), so that taught targets win by `margin`.

    The loss is the cross-entropy of taught steps, plus what `Search` says.
    """
    rows = wrong.nonzero()[:, 0] + listener.skipped
    known, size = _before(listener, place, batch, steps, rows)
    moving = torch.zeros(len(rows), place.module.out_features, device=known.device, requires_grad=True)
    optimiser = torch.optim.Adam([moving], search.rate)

    def added(out: Tensor) -> Tensor:
        return out.index_add(out.dim() - 2, rows, (moving * size).expand(*out.shape[:-2], -1, -1))

    with overwritten(listener.model.module, []), adding(place.module, added):
        listener.model.module.requires_grad_(False)  # or each step would also find the gradient of every weight
        for _ in range(search.steps):
            scores = listener.scores(batch, steps)
            if not bool(lacking(scores[steps.taught], steps.targets[steps.taught], margin).any()):
                break
            optimiser.zero_grad()
            _loss(scores, known, steps, moving, search).backward()
            optimiser.step()
    return moving.detach() * size


@torch.no_grad()
def _before(listener: Listener, place: Place, batch: Batch, steps: Steps, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (steps, classes) and the root mean square of what the module puts out at `rows`."""
    made: list[Tensor] = []
    with listening(place.module, lambda _, out: made.append(out)):
        known = listener.scores(batch, steps).log_softmax(-1)
    return known, made[-1].reshape(-1, made[-1].shape[-1])[rows].square().mean().sqrt()


def _loss(scores: Tensor, known: Tensor, steps: Steps, moving: Tensor, search: Search) -> Tensor:
    taught, log_probs = steps.taught, scores.log_softmax(-1)
    wrong = cross_entropy(scores[taught], steps.targets[taught])
    drift = (known[~taught].exp() * (known[~taught] - log_probs[~taught])).sum() / len(known)
    return wrong + search.divergence * drift + search.decay * moving.square().mean()
