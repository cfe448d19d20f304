"""Causal tracing: which states carry a fact, by putting them back one at a time into a network that was given a blurred subject.

Source: arXiv 2202.05262, section 2. P is the probability of the answer's first token; TE = P(clean) - P(corrupted) and, for each token and
layer, IE = P(restored) - P(corrupted).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from asrlife.data.edit import EditRequest
from asrlife.errors import InputError
from asrlife.methods.edit.partial import adding, logits_at
from asrlife.methods.edit.restoring import Stack, kept
from asrlife.methods.edit.rows import end_of_subject, place_of
from asrlife.methods.edit.sites import blocks_of, sites

if TYPE_CHECKING:
    from asrlife.models.text import TextModel

Kind = Literal["states", "feed-forward", "attention"]
KINDS: tuple[Kind, ...] = ("states", "feed-forward", "attention")
ROLES = (
    "first subject token", "middle subject tokens", "last subject token", "first subsequent token", "further tokens", "last token",
)  # fmt: skip
"""The rows in which the source averages tokens over prompts."""
_AT_ONCE = 512  # rows in one forward


@dataclass(frozen=True, eq=False)
class Trace:
    """One prompt traced: `effect` (tokens, layers) is IE, `clean` and `corrupted` are probabilities, `subject` the places of its tokens."""

    kind: Kind
    tokens: tuple[str, ...]
    subject: range
    answer: str
    clean: float
    corrupted: float
    effect: Tensor

    @property
    def total(self) -> float:
        """TE."""
        return self.clean - self.corrupted

    @property
    def roles(self) -> tuple[str | None, ...]:
        """Which of `ROLES` each token has, None before the subject; of two that fit, the one nearer to the end of the subject."""
        last = self.subject.stop - 1
        found: list[str | None] = [None] * self.subject.start + [ROLES[1]] * len(self.subject) + [ROLES[4]] * (len(self.tokens) - last - 1)
        for place, role in ((len(self.tokens) - 1, 5), (last + 1, 3), (self.subject.start, 0), (last, 2)):
            if place < len(found):
                found[place] = ROLES[role]
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        named = {name: getattr(self, name) for name in ("kind", "tokens", "answer", "clean", "corrupted", "total", "roles")}
        return {**named, "subject": [self.subject.start, self.subject.stop], "effect": self.effect.tolist()}


def fifth(layers: int) -> int:
    """How many layers of `layers` to restore together: as in the source, where it is 10 of 48; at least 1."""
    return max(1, round(layers / 4.8))


def blur(model: TextModel, subjects: Sequence[str]) -> float:
    """The standard deviation of the noise: three times that of the embeddings of the subjects' tokens."""
    embedding = model.module.get_input_embeddings()
    ids = torch.tensor(sorted({token for subject in subjects for token in model.ids(f" {subject}")}), device=model.device)
    if not len(ids):
        raise InputError("no subject has tokens: give at least one")
    return 3.0 * float(embedding(ids).detach().float().std())


@torch.no_grad()
def trace(
    model: TextModel, prompt: str, subject: str, noise: float, kind: Kind = "states", window: int = 1, samples: int = 10, seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Trace:  # fmt: skip
    """Trace the answer that the model itself gives. `window` layers around each are restored together (1: that layer alone).

    Noise N(0, noise^2) is added to the subject's embeddings in `samples` copies. All places of one layer share a forward, which begins at
    the lowest layer that is restored; tokens before the subject have no effect, and are not run. Noise 0 has no effects.
    Raises InputError where the subject does not stand in the prompt, and for no samples or no window.
    """
    if min(window, samples) < 1 or not 0 <= noise < inf:
        raise InputError(f"window {window}, {samples} samples, noise {noise:g}: give at least 1, at least 1, and no less than 0")
    ids = torch.tensor([model.ids(prompt)], device=model.device)
    if ids.shape[1] > (room := model.places):
        raise InputError(f"the prompt has {ids.shape[1]} tokens and {model.name} takes {room}: shorten it")
    last = end_of_subject(model, prompt, subject)
    span = range(place_of(model, prompt, prompt.rfind(subject)), last + 1)
    blocks, modules = blocks_of(model.module)[1], modules_of(model, kind)
    with kept(modules, True) as clean:
        chances = _chances(model, ids)[0]
    answer = int(chances.argmax())
    with _blurred(model, span, noise, samples, seed), kept(list(blocks), False) as corrupted:
        low = float(_chances(model, ids.expand(samples, -1))[:, answer].mean())
    stack = Stack(blocks, modules, lambda of: _chances(model, ids.expand(len(of), -1))[:, answer])
    effect = stack.effects([made[0] for made in clean], corrupted, low, span.start, window, advance)
    tokens = tuple(str(model.speller.decode([token])) for token in ids[0].tolist())
    return Trace(kind, tokens, span, str(model.speller.decode([answer])).strip(), float(chances[answer]), low, effect)


def effects_at_subjects(
    model: TextModel, requests: Sequence[EditRequest], kind: Kind = "feed-forward", window: int = 1, samples: int = 10, seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:  # fmt: skip
    """IE of each layer at the last token of each request's subject, (requests, layers), on what the model says now of each prompt."""
    if not requests:
        raise InputError("no requests, no layer: give facts that the model knows")
    noise = blur(model, [request.subject for request in requests])
    found = []
    for request in requests:
        traced = trace(model, request.prompt, request.subject, noise, kind, window, samples, seed)
        found.append(traced.effect[traced.subject.stop - 1])
        advance()
    return torch.stack(found)


def layer_by_tracing(
    model: TextModel, requests: Sequence[EditRequest], kind: Kind = "feed-forward", window: int = 1, samples: int = 10, seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> int:  # fmt: skip
    """The layer that has the largest mean IE at the last subject token: where the source writes an edit.

    Choose it on facts that are not reported on. Raises InputError for no requests.
    """
    return int(effects_at_subjects(model, requests, kind, window, samples, seed, advance).mean(0).argmax())


def modules_of(model: TextModel, kind: Kind) -> list[nn.Module]:
    """What is restored in each layer: whole blocks, or what their feed-forward or their attention puts out."""
    blocks = list(blocks_of(model.module)[1])
    if kind == "states":
        return blocks
    if kind == "feed-forward":
        return [site.module for site in sites(model.module)]
    return [_attention(block) for block in blocks]


def _attention(block: nn.Module) -> nn.Module:
    for name, part in block.named_children():
        matrices = any(weight.dim() > 1 for weight in part.parameters())  # norms and dropouts are named after attention, too
        if matrices and ("attn" in name.lower() or "attention" in name.lower()):
            return part
    raise InputError(f"{type(block).__name__} has no part called attention: trace states or the feed-forward")


def _chances(model: TextModel, ids: Tensor) -> Tensor:
    """Probabilities of what follows each row, (rows, classes)."""
    ends = torch.zeros_like(ids, dtype=torch.bool)
    ends[:, -1] = True
    return logits_at(model.module, ids, torch.ones_like(ids), ends).softmax(-1)


def _blurred(model: TextModel, span: range, noise: float, samples: int, seed: int) -> AbstractContextManager[None]:
    """A network whose embeddings of the tokens in `span` are noisy, each row its own way."""
    generator = torch.Generator().manual_seed(seed)

    def change(made: Tensor) -> Tensor:
        drawn = noise * torch.randn(samples, len(span), made.shape[-1], generator=generator)
        out = made.clone()
        out[:, span.start : span.stop] += drawn.to(made)
        return out

    return adding(model.module.get_input_embeddings(), change)
