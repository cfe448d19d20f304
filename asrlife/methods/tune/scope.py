"""Which weights move, and what they have moved by."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from asrlife.delta.delta import Change, Dense, LowRank
from asrlife.delta.roles import BUFFER, EMBEDDING, HEAD, ROLES, chosen, place
from asrlife.delta.weights import Flat, low_rank, trainable
from asrlife.errors import InputError

FULL, LORA, NORMS, REGEX = "full", "lora", "norms", "regex:"
FIXED = ("encoder.embed_positions.weight",)
"""The sinusoids of Whisper's encoder, which nobody trains; only a regular expression reaches them."""
ALIASES: Mapping[str, str] = {NORMS: "norm"}


def selection(module: nn.Module, scope: str, without: Collection[str] = (), rank: int = 1) -> tuple[str, ...]:
    """Names of the parameters that `scope` lets move, in the order of the module.

    "full" is all of them; a role of `asrlife.delta.roles` ("encoder", "decoder", "cross-attention", "norm" or "norms" ...) those that have
    it, several joined by "+"; "regex:..." those in whose name the expression is found; "lora" the matrices of linear layers inside the
    stacks of layers, and "lora+decoder" those of the decoder alone. `without` leaves out roles. Raises InputError for an unknown word
    and where nothing is left.
    """
    names = [name for name, parameter in module.named_parameters() if parameter.is_floating_point()]
    if scope.startswith(REGEX):
        found = chosen(names, scope.removeprefix(REGEX), without=without)
    else:
        words = [ALIASES.get(word, word) for word in scope.split("+")]
        roles = [word for word in words if word not in {FULL, LORA}]
        _check(scope, roles)
        found = [name for name in chosen(names, roles=roles if FULL not in words else (), without=without) if not name.endswith(FIXED)]
        if LORA in words:
            matrices = set(linear(module, rank))
            found = [name for name in found if name in matrices]
    if not found:
        raise InputError(f"scope {scope!r} leaves no weight of this model to tune; try full, lora, norms, encoder or decoder")
    return tuple(found)


def factored(scope: str) -> bool:
    """Whether the scope moves weights by low-rank factors."""
    return not scope.startswith(REGEX) and LORA in scope.split("+")


def linear(module: nn.Module, rank: int) -> Iterator[str]:
    """Names of the weights of Linear and Conv1D layers inside stacks, tied ones and those too small for `rank` left out."""
    from transformers.pytorch_utils import Conv1D

    uses = [id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False)]
    for path, layer in module.named_modules():
        name = f"{path}.weight"
        if not isinstance(layer, nn.Linear | Conv1D) or place(name).layer is None or place(name).role in {HEAD, EMBEDDING, BUFFER}:
            continue
        weight = layer._parameters.get("weight")
        if weight is not None and uses.count(id(weight)) == 1 and rank <= min(weight.shape):
            yield name


def _check(scope: str, roles: Sequence[str]) -> None:
    for role in roles:
        if role not in ROLES:
            known = ", ".join((FULL, LORA, NORMS, *ROLES))
            raise InputError(f"scope {scope!r}: there is no {role!r}; join {known} by '+', or write regex:PATTERN")


class Moving(Protocol):
    """Weights of a network while they are tuned, whatever they are made of."""

    @property
    def leaves(self) -> Sequence[Tensor]:
        """What the optimiser is given."""

    def moved(self) -> Mapping[str, Tensor]:
        """By how much each base parameter has moved, with gradient."""

    def state(self) -> dict[str, Tensor]:
        """Copies of all that changes, by name."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""

    def zero(self) -> None:
        """Clear the gradients."""

    def changes(self, state: Mapping[str, Tensor]) -> dict[str, Change]:
        """The differences to the base that a state stands for."""


@dataclass(frozen=True, eq=False)
class Whole:
    """Parameters that move freely, laid end to end: the optimiser sees one vector."""

    flat: Flat
    start: Tensor

    @property
    def leaves(self) -> Sequence[Tensor]:
        """The vector of all weights."""
        return (self.flat.values,)

    def moved(self) -> Mapping[str, Tensor]:
        """W - W0 by name."""
        before = self.flat.named(self.start).values()
        return {name: own - first for name, own, first in zip(self.flat.names, self.flat.parameters, before, strict=True)}

    def state(self) -> dict[str, Tensor]:
        """Copies of the weights."""
        return {name: part.detach().clone() for name, part in self.flat.named(self.flat.values.detach()).items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        self.flat.load(torch.cat([state[name].reshape(-1) for name in self.flat.names]).to(self.flat.values))

    def zero(self) -> None:
        """Clear the gradients."""
        self.flat.zero()

    def changes(self, state: Mapping[str, Tensor]) -> dict[str, Change]:
        """Dense differences of what has moved."""
        changed = {name: state[name].to(first) - first for name, first in self.flat.named(self.start).items()}
        return {name: Dense(change.cpu()) for name, change in changed.items() if bool(change.any())}


@dataclass(frozen=True, eq=False)
class Factors:
    """Factors beside frozen matrices (LoRA, arXiv 2106.09685, scale 1)."""

    pairs: Mapping[str, LowRank]

    @property
    def leaves(self) -> Sequence[Tensor]:
        """All factors."""
        return [side for pair in self.pairs.values() for side in (pair.up, pair.down)]

    def moved(self) -> Mapping[str, Tensor]:
        """up @ down by name."""
        device = next(iter(self.pairs.values())).up.device.type
        with torch.autocast(device, enabled=False):
            return {name: pair.dense() for name, pair in self.pairs.items()}

    def state(self) -> dict[str, Tensor]:
        """Copies of the factors."""
        return {f"{name}.{side}": getattr(pair, side).detach().clone() for name, pair in self.pairs.items() for side in ("up", "down")}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        with torch.no_grad():
            for name, pair in self.pairs.items():
                pair.up.copy_(state[f"{name}.up"])
                pair.down.copy_(state[f"{name}.down"])

    def zero(self) -> None:
        """Clear the gradients."""
        for leaf in self.leaves:
            leaf.grad = None

    def changes(self, state: Mapping[str, Tensor]) -> dict[str, Change]:
        """Low-rank differences of what has moved."""
        moved = [name for name in self.pairs if bool(state[f"{name}.up"].any())]
        return {name: LowRank(state[f"{name}.up"].cpu(), state[f"{name}.down"].cpu()) for name in moved}


@contextmanager
def moving(module: nn.Module, names: Sequence[str], rank: int | None = None, seed: int = 0) -> Iterator[Moving]:
    """Let the parameters `names` move, by factors of `rank` where it is given; on exit the module is what it was, bit for bit.

    The factors are asrlife's own and not peft's: the network runs with weight + up @ down, the very sum that `applied` makes of the delta,
    so that the delta gives the tuned scores to the last bit. peft adds B(A x) to the output, which differs by rounding, and wraps
    modules of the network. `asrlife delta export` writes the folder that peft loads. LoRA's alpha is left out: under Adam it
    amounts to another learning rate.
    """
    if rank is None:
        with trainable(module, names) as flat:
            yield Whole(flat, flat.values.detach().clone())
    else:
        with low_rank(module, names, rank, seed) as pairs:
            yield Factors(pairs)
