"""The value an edit wants to read at its subject: an addition to one module's output there, found by gradient for many edits at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from asrlife.data.edit import EditRequest
from asrlife.methods.edit.partial import adding, listening, logits_at, resumed, states_into
from asrlife.methods.edit.rows import Rows, rows
from asrlife.methods.edit.sites import Site

if TYPE_CHECKING:
    from asrlife.models.text import TextModel

ESSENCE = "{} is a"
Where = Literal["feed-forward", "block"]


@dataclass(frozen=True)
class Search:
    """How values are found (arXiv 2202.05262, eq. 4): Adam at `rate` for at most `steps`, until the loss is below `enough`.

    `divergence` weighs KL from what the model says of the subject, `decay` the length of the addition over the square of that of what is
    there; no addition is longer than `clamp` times what is there.
    """

    steps: int = 25
    rate: float = 0.5
    divergence: float = 0.0625
    decay: float = 0.5
    clamp: float = 4.0
    enough: float = 0.05


@dataclass(frozen=True, eq=False)
class Found:
    """`additions` (edits, width) and the last loss (edits,)."""

    additions: Tensor
    losses: Tensor


def additions(
    model: TextModel, requests: Sequence[EditRequest], contexts: Sequence[str], site: Site, search: Search, where: Where = "feed-forward"
) -> Found:  # fmt: skip
    """What to add to the output of a site's module (or of its block) at each subject's last token, so that the target follows.

    All edits share each forward; blocks below the site are run once. Each edit has `contexts` before its prompt, "" among them.
    """
    asked = rows(model, [(n, f"{c}{r.prompt}", r.subject, r.target) for n, r in enumerate(requests) for c in contexts])
    essence = rows(model, [(n, ESSENCE.format(r.subject), r.subject, "") for n, r in enumerate(requests)])
    both = joined(model, asked, essence)
    module = site.block if where == "block" else site.module
    states = states_into(model.module, site.layer, both.ids, both.mask)
    sizes = _sizes(model.module, site, module, both, states)
    moving = torch.zeros(len(requests), len(sizes[0]), device=model.device, requires_grad=True)
    return _descended(model.module, site, module, both, states, moving, sizes.norm(dim=-1), len(asked), search)


def joined(model: TextModel, one: Rows, other: Rows) -> Rows:
    """Rows below each other."""
    longest = max(one.ids.shape[1], other.ids.shape[1])

    def wide(ids: Tensor, fill: int) -> Tensor:
        return nn.functional.pad(ids, (0, longest - ids.shape[1]), value=fill)

    ids = torch.cat([wide(one.ids, model.end), wide(other.ids, model.end)])
    mask = torch.cat([wide(one.mask, 0), wide(other.mask, 0)])
    rest = (torch.cat([getattr(one, name), getattr(other, name)]) for name in ("places", "starts", "lengths", "owner"))
    return Rows(ids, mask, *rest)


@torch.no_grad()
def _sizes(network: Any, site: Site, module: nn.Module, both: Rows, states: Tensor) -> Tensor:
    """What the module puts out at each edit's subject without context, (edits, width)."""
    made: list[Tensor] = []
    firsts = torch.tensor([int((both.owner == edit).nonzero()[0]) for edit in range(int(both.owner.max()) + 1)])
    with resumed(network, site.layer, states[firsts]), listening(module, lambda _, out: made.append(out)):
        logits_at(network, both.ids[firsts], both.mask[firsts], both.mask[firsts].bool())
    return made[0][torch.arange(len(firsts)), both.places[firsts]].clone()


def _descended(
    network: Any, site: Site, module: nn.Module, both: Rows, states: Tensor, moving: Tensor, sizes: Tensor, asked: int, search: Search
) -> Found:  # fmt: skip
    optimiser, every = torch.optim.Adam([moving], search.rate), torch.arange(len(both))
    wanted, targets, weight = _wanted(both, asked)
    known: Tensor | None = None
    losses = torch.full((len(moving),), float("inf"))

    def added(out: Tensor) -> Tensor:
        spread = torch.zeros_like(out)
        spread[every, both.places] = moving[both.owner]
        return out + spread

    with resumed(network, site.layer, states), adding(module, added):
        for step in range(search.steps):
            optimiser.zero_grad()
            scores = logits_at(network, both.ids, both.mask, wanted).log_softmax(-1)
            of_target, of_essence = scores[: len(targets)], scores[len(targets) :]
            known = of_essence.detach() if known is None else known
            loss = _loss(moving, sizes, of_target, targets, weight, of_essence, known, search)
            losses = loss.detach()
            active = losses >= search.enough
            if step + 1 == search.steps or not bool(active.any()):
                break
            before = moving.detach().clone()
            (moving.grad,) = torch.autograd.grad((loss * active).sum(), [moving])  # backward would fill those of all weights
            optimiser.step()
            _clamped(moving, before, active, sizes, search.clamp)
    return Found(moving.detach(), losses)


def _wanted(both: Rows, asked: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places whose scores count (rows, tokens), the tokens that those of asked rows should say, and the weight and owner of each of those.

    Weights average over the tokens of a target and over the rows of an edit; rows behind `asked` are of essence, at their last token.
    """
    wanted = torch.zeros_like(both.mask, dtype=torch.bool)
    targets, weights, owners = [], [], []
    for row in range(asked):
        first, last = int(both.starts[row]), int(both.lengths[row])
        wanted[row, first - 1 : last - 1] = True
        targets.append(both.ids[row, first:last])
        count = int((both.owner[:asked] == both.owner[row]).sum())
        weights.append(torch.full((last - first,), 1 / (count * (last - first))))
        owners.append(torch.full((last - first,), int(both.owner[row])))
    for row in range(asked, len(both)):
        wanted[row, int(both.lengths[row]) - 1] = True
    return wanted, torch.cat(targets), torch.stack([torch.cat(weights), torch.cat(owners).float()])


def _loss(
    moving: Tensor, sizes: Tensor, of_target: Tensor, targets: Tensor, weight: Tensor, of_essence: Tensor, known: Tensor, search: Search
) -> Tensor:  # fmt: skip
    """The loss of each edit, (edits,)."""
    said = -of_target.gather(1, targets[:, None])[:, 0] * weight[0].to(of_target.device)
    loss = torch.zeros(len(moving), device=moving.device).index_add(0, weight[1].long().to(moving.device), said)
    drift = (known.exp() * (known - of_essence)).sum(-1)
    # not the square, and of this a norm without a gradient at zero: as in the authors' code
    return loss + search.divergence * drift + search.decay * _length(moving) / sizes**2


def _length(moving: Tensor) -> Tensor:
    """The length of each addition, whose gradient at zero is zero."""
    return (moving.square().sum(-1) + 1e-12).sqrt()


@torch.no_grad()
def _clamped(moving: Tensor, before: Tensor, active: Tensor, sizes: Tensor, clamp: float) -> None:
    """Edits that are done stay as they were; the others keep within `clamp` lengths of what is there."""
    moving[~active] = before[~active]
    length = moving.norm(dim=-1)
    moving.mul_((clamp * sizes / length.clamp_min(1e-12)).clamp_max(1.0)[:, None])
