"""The value an edit wants to read at its subject: an addition to one module's output there, found by gradient for many edits at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
_ROWS = 768  # in one forward
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
    model: TextModel, requests: Sequence[EditRequest], contexts: Sequence[str], site: Site, search: Search, where: Where = "feed-forward",
    told: Sequence[Sequence[str]] = (),
) -> Found:  # fmt: skip
    """What to add to the output of a site's module (or of its block) at each subject's last token, so that the target follows.

    Edits share forwards; blocks below the site are run once. Each edit has `contexts` before its prompt, "" among them, and its further
    phrasings without; `told` are texts about each subject behind which the model is to go on as before.
    """
    parts = []
    for some in _groups(requests, contexts, told):
        texts = [told[n] if told else () for n in some]
        parts.append(_sought(model, [requests[n] for n in some], contexts, site, search, where, texts))
    return Found(torch.cat([part.additions for part in parts]), torch.cat([part.losses for part in parts]))


def _groups(requests: Sequence[EditRequest], contexts: Sequence[str], told: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Edits whose rows make one forward."""
    group: list[int] = []
    count = 0
    for number, request in enumerate(requests):
        rows_of_it = len(contexts) + len(request.phrasings) + 1 + (len(told[number]) if told else 0)
        if group and count + rows_of_it > _ROWS:
            yield group
            group, count = [], 0
        group.append(number)
        count += rows_of_it
    yield group


def _sought(
    model: TextModel, requests: Sequence[EditRequest], contexts: Sequence[str], site: Site, search: Search, where: Where,
    told: Sequence[Sequence[str]],
) -> Found:  # fmt: skip
    asked = rows(model, [(n, p, r.subject, r.target) for n, r in enumerate(requests) for p in before(r, contexts)])
    essence = [(n, ESSENCE.format(r.subject), r.subject, "") for n, r in enumerate(requests)]
    both = joined(model, asked, rows(model, [*essence, *((n, r.subject, r.subject, t) for n, r in enumerate(requests) for t in told[n])]))
    module = site.block if where == "block" else site.module
    states = states_into(model.module, site.layer, both.ids, both.mask)
    sizes = _sizes(model.module, site, module, both, states)
    moving = torch.zeros(len(requests), len(sizes[0]), device=model.device, requires_grad=True)
    return _descended(model.module, site, module, both, states, moving, sizes.norm(dim=-1), len(asked), search)


def before(request: EditRequest, contexts: Sequence[str]) -> list[str]:
    """The prompts that an edit is made from: its own behind each context, and its further phrasings."""
    return [*(f"{context}{request.prompt}" for context in contexts), *request.phrasings]


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
    wanted, targets, weight, apart = _wanted(both, asked)
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
            loss = _loss(moving, sizes, of_target, targets, weight, of_essence, known, apart, search)
            losses = loss.detach()
            active = losses >= search.enough
            if step + 1 == search.steps or not bool(active.any()):
                break
            before = moving.detach().clone()
            (moving.grad,) = torch.autograd.grad((loss * active).sum(), [moving])  # backward would fill those of all weights
            optimiser.step()
            _clamped(moving, before, active, sizes, search.clamp)
    return Found(moving.detach(), losses)


def _wanted(both: Rows, asked: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places whose scores count (rows, tokens); the tokens that those of asked rows should say; weight and owner of each of these, and of
    each place of the rows behind `asked`, which are of essence.

    Weights average over the tokens of a row and over the rows of an edit.
    """
    wanted = torch.zeros_like(both.mask, dtype=torch.bool)
    targets, weights = [], []
    many = [torch.bincount(both.owner[:asked]), torch.bincount(both.owner[asked:])]
    for row in range(len(both)):
        essence = row >= asked
        first, last = int(both.starts[row]) - 1, int(both.lengths[row]) - (not essence)
        wanted[row, first:last] = True
        if not essence:
            targets.append(both.ids[row, first + 1 : last + 1])
        owner = both.owner[row]
        share = 1.0 / (float(many[essence][owner]) * (last - first))
        weights.append(torch.tensor([[share], [float(owner)]]).expand(2, last - first))
    return wanted, torch.cat(targets), torch.cat(weights[:asked], 1), torch.cat(weights[asked:], 1)


def _loss(
    moving: Tensor, sizes: Tensor, of_target: Tensor, targets: Tensor, weight: Tensor, of_essence: Tensor, known: Tensor, apart: Tensor,
    search: Search,
) -> Tensor:  # fmt: skip
    """The loss of each edit, (edits,)."""
    said = -of_target.gather(1, targets[:, None])[:, 0]
    drift = (known.exp() * (known - of_essence)).sum(-1)
    # not the square, and of this a norm without a gradient at zero: as in the authors' code
    return _mean(said, weight, moving) + search.divergence * _mean(drift, apart, moving) + search.decay * _length(moving) / sizes**2


def _mean(values: Tensor, weight: Tensor, moving: Tensor) -> Tensor:
    """Values (places,) averaged for each edit, (edits,)."""
    weight = weight.to(values.device)
    return torch.zeros(len(moving), device=values.device).index_add(0, weight[1].long(), values * weight[0])


def _length(moving: Tensor) -> Tensor:
    """The length of each addition, whose gradient at zero is zero."""
    return (moving.square().sum(-1) + 1e-12).sqrt()


@torch.no_grad()
def _clamped(moving: Tensor, before: Tensor, active: Tensor, sizes: Tensor, clamp: float) -> None:
    """Edits that are done stay as they were; the others keep within `clamp` lengths of what is there."""
    moving[~active] = before[~active]
    length = moving.norm(dim=-1)
    moving.mul_((clamp * sizes / length.clamp_min(1e-12)).clamp_max(1.0)[:, None])
