"""The value an edit wants to read at its subject: an addition to one module's output there, found by gradient for many edits at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    there; no addition is longer than `clamp` times what is there. The defaults were chosen on development facts of the closed world, and
    hold the subject's other facts harder than the source does (rate 0.5, 25 steps, divergence 0.0625, decay 0.5, enough 0.05; MEMIT's
    clamp is 0.75); its decay depends on the scale of the network.
    """

    steps: int = 40
    rate: float = 0.3
    divergence: float = 0.75
    decay: float = 0.0
    clamp: float = 4.0
    enough: float = 0.005


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

    Edits share each forward of at most `_ROWS` rows; what stands before the subjects' last tokens and the blocks below the site are run
    once, and edits that are done leave. Each edit has `contexts` before its prompt, "" first, and its further phrasings without; `told`
    are texts about each subject that the model is to go on saying as before.
    """
    parts = []
    for some in _groups(requests, contexts, told):
        texts = [told[n] if told else () for n in some]
        parts.append(_together(model, [requests[n] for n in some], contexts, site, search, where, texts))
    return Found(torch.cat([part.additions for part in parts]), torch.cat([part.losses for part in parts]))


def _groups(requests: Sequence[EditRequest], contexts: Sequence[str], told: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Edits whose rows make one forward."""
    group, count = list[int](), 0
    for number, request in enumerate(requests):
        many = len(contexts) + len(request.phrasings) + 1 + (len(told[number]) if told else 0)
        if group and count + many > _ROWS:
            yield group
            group, count = [], 0
        group.append(number)
        count += many
    yield group


def _together(
    model: TextModel, requests: Sequence[EditRequest], contexts: Sequence[str], site: Site, search: Search, where: Where,
    told: Sequence[Sequence[str]],
) -> Found:  # fmt: skip
    asked = [(n, p, r.subject, r.target) for n, r in enumerate(requests) for p in before(r, contexts)]
    held = [(n, ESSENCE.format(r.subject), r.subject, "") for n, r in enumerate(requests)]
    held += [(n, r.subject, r.subject, text) for n, r in enumerate(requests) for text in told[n]]
    at = ends(model.module, site.layer, rows(model, asked + held), len(held))
    return _descended(model.module, site.block if where == "block" else site.module, at, len(requests), search)


def before(request: EditRequest, contexts: Sequence[str]) -> list[str]:
    """The prompts that an edit is made from: its own behind each context, and its further phrasings."""
    return [*(f"{context}{request.prompt}" for context in contexts), *request.phrasings]


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
    losses, active = torch.full_like(sizes, torch.inf), torch.ones_like(sizes, dtype=torch.bool)
    wanted, known = _wanted(at), None
    for step in range(search.steps):
        scores = _scores(network, module, at, wanted.places, moving)
        known = scores[wanted.held].detach() if known is None else known
        loss = _loss(moving, sizes, scores, wanted, known, search)
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
            known, active = known[going[wanted.owner[wanted.held]]], going
            at = at.chosen(going[at.owner])
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
    """`places` (rows, tokens) whose scores count, and of each: whether it is `held`, its `owner`, and its `share` in the loss, which is a
    mean over the tokens of a row and over the rows of an edit. Those that are not held have `targets`."""

    places: Tensor
    held: Tensor
    targets: Tensor
    owner: Tensor
    share: Tensor


def _wanted(at: Ends) -> _Wanted:
    places = at.targets >= 0
    bare = ~places.any(1)
    places[bare, at.last[bare]] = True
    row = places.nonzero()[:, 0]
    many = torch.bincount(2 * at.owner + at.held)
    share = 1 / (many[2 * at.owner + at.held] * places.sum(1))
    return _Wanted(places, at.held[row], at.targets[places][~at.held[row]], at.owner[row], share[row])


def _loss(moving: Tensor, sizes: Tensor, scores: Tensor, wanted: _Wanted, known: Tensor, search: Search) -> Tensor:
    """The loss of each edit, (edits,)."""
    each = torch.zeros_like(scores[:, 0])
    each[~wanted.held] = -scores[~wanted.held].gather(1, wanted.targets[:, None])[:, 0]
    each[wanted.held] = search.divergence * (known.exp() * (known - scores[wanted.held])).sum(-1)
    # not the square, and of this a norm without a gradient at zero: as in the authors' code
    return torch.zeros_like(sizes).index_add(0, wanted.owner, each * wanted.share) + search.decay * _length(moving) / sizes**2


def _length(moving: Tensor) -> Tensor:
    """The length of each addition, whose gradient at zero is zero."""
    return (moving.square().sum(-1) + 1e-12).sqrt()


@torch.no_grad()
def _clamped(moving: Tensor, before: Tensor, active: Tensor, sizes: Tensor, clamp: float) -> None:
    """Edits that are done stay as they were; the others keep within `clamp` lengths of what is there."""
    moving[~active] = before[~active]
    length = moving.norm(dim=-1)
    moving.mul_((clamp * sizes / length.clamp_min(1e-12)).clamp_max(1.0)[:, None])
