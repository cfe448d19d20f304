"""The value an edit wants to read at its subject: an addition to one module's output there, found by gradient for many edits at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from asrlife.data.edit import EditRequest
from asrlife.methods.edit.partial import adding, listening
from asrlife.methods.edit.prefix import Ends, ends
from asrlife.methods.edit.rows import rows
from asrlife.methods.edit.sites import Site

if TYPE_CHECKING:
    from asrlife.models.text import TextModel

ESSENCE = "{} is a"
_ROWS = 384  # in one forward
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

    Edits share each forward of at most `_ROWS` rows; what stands before the subjects' last tokens and the blocks below the site are run
    once, and edits that are done leave. Each edit has `contexts` before its prompt, "" first.
    """
    per = max(1, _ROWS // (len(contexts) + 1))
    parts = [_together(model, requests[first : first + per], contexts, site, search, where) for first in range(0, len(requests), per)]
    return Found(torch.cat([part.additions for part in parts]), torch.cat([part.losses for part in parts]))


def _together(
    model: TextModel, requests: Sequence[EditRequest], contexts: Sequence[str], site: Site, search: Search, where: Where
) -> Found:  # fmt: skip
    asked = [(n, f"{c}{r.prompt}", r.subject, r.target) for n, r in enumerate(requests) for c in contexts]
    essence = [(n, ESSENCE.format(r.subject), r.subject, "") for n, r in enumerate(requests)]
    at = ends(model.module, site.layer, rows(model, asked + essence))
    return _descended(model.module, site.block if where == "block" else site.module, at, len(requests), search)


@torch.no_grad()
def _sizes(network: Any, module: nn.Module, at: Ends, edits: int) -> Tensor:
    """What the module puts out at each edit's subject without context, (edits, width)."""
    made: list[Tensor] = []
    alone = torch.zeros(len(at), dtype=torch.bool, device=at.owner.device)
    alone[[int((at.owner == edit).nonzero()[0]) for edit in range(edits)]] = True
    firsts = at.chosen(alone)
    with firsts.resumed(network), listening(module, lambda _, out: made.append(out)):
        firsts.logits(network, firsts.targets >= 0)
    return made[0][:, 0].float()


def _descended(network: Any, module: nn.Module, at: Ends, edits: int, search: Search) -> Found:
    there = _sizes(network, module, at, edits)
    sizes, moving = there.norm(dim=-1), torch.zeros_like(there, requires_grad=True)
    optimiser = torch.optim.Adam([moving], search.rate)
    losses, active, known = torch.full_like(sizes, torch.inf), torch.ones_like(sizes, dtype=torch.bool), torch.zeros(0)
    wanted = _wanted(at)
    for step in range(search.steps):
        scores = _scores(network, module, at, wanted.places, moving)
        of_essence = scores[wanted.essence]
        known = known if len(known) else of_essence.detach()
        loss = _loss(moving, sizes, scores[~wanted.essence], wanted, of_essence, known[active], search)
        losses = loss.detach().where(active, losses)
        going = active & (losses >= search.enough)
        if step + 1 == search.steps or not bool(going.any()):
            break
        before = moving.detach().clone()
        # a gradient of the additions alone: one of the weights would cost half as much again, and stay
        (moving.grad,) = torch.autograd.grad(loss[going].sum(), [moving])
        optimiser.step()
        _clamped(moving, before, going, sizes, search.clamp)
        if bool((going != active).any()):
            at, active = at.chosen(going[at.owner]), going
            wanted = _wanted(at)
    return Found(moving.detach(), losses)


def _scores(network: Any, module: nn.Module, at: Ends, places: Tensor, moving: Tensor) -> Tensor:
    """Logarithms of probabilities at `places` with the additions in the network, (places, classes)."""

    def added(out: Tensor) -> Tensor:
        spread = torch.zeros_like(out)
        spread[:, 0] = moving[at.owner]
        return out + spread

    with at.resumed(network), adding(module, added):
        return at.logits(network, places).log_softmax(-1)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """`places` (rows, tokens) whose scores count, and which of those scores are of `essence`; the others have `targets`, an `owner`, and a
    `share` in the loss, which averages over the tokens of a target and over the rows of an edit."""

    places: Tensor
    essence: Tensor
    targets: Tensor
    owner: Tensor
    share: Tensor


def _wanted(at: Ends) -> _Wanted:
    places = at.targets >= 0
    tokens = places.sum(1)
    bare = tokens == 0
    count = torch.bincount(at.owner[~bare])
    places[bare, at.last[bare]] = True
    row = places.nonzero()[:, 0]
    asked = row[~bare[row]]
    owner = at.owner[asked]
    return _Wanted(places, bare[row], at.targets[at.targets >= 0], owner, 1 / (count[owner] * tokens[asked]))


def _loss(
    moving: Tensor, sizes: Tensor, of_target: Tensor, wanted: _Wanted, of_essence: Tensor, known: Tensor, search: Search
) -> Tensor:  # fmt: skip
    """The loss of each edit, (edits,)."""
    said = -of_target.gather(1, wanted.targets[:, None])[:, 0] * wanted.share
    loss = torch.zeros_like(sizes).index_add(0, wanted.owner, said)
    drift = (known.exp() * (known - of_essence)).sum(-1)
    # not the square, and of this a norm without a gradient at zero: as in the authors' code
    return loss.index_add(0, wanted.owner.unique(), search.divergence * drift) + search.decay * _length(moving) / sizes**2


def _length(moving: Tensor) -> Tensor:
    """The length of each addition, whose gradient at zero is zero."""
    return (moving.square().sum(-1) + 1e-12).sqrt()


@torch.no_grad()
def _clamped(moving: Tensor, before: Tensor, active: Tensor, sizes: Tensor, clamp: float) -> None:
    """Edits that are done stay as they were; the others keep within `clamp` lengths of what is there."""
    moving[~active] = before[~active]
    length = moving.norm(dim=-1)
    moving.mul_((clamp * sizes / length.clamp_min(1e-12)).clamp_max(1.0)[:, None])
