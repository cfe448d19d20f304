"""Running the upper part of a network on states that were computed once, and listening in on a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from asrlife.methods.edit.sites import blocks_of


class _Enough(Exception):
    """What was wanted is known: the rest of the network need not run."""


class _Pass(nn.Module):
    """Lets states through in place of `block`, whose other attributes it has: some networks ask a block which mask it wants."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["_block"] = block

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_block"], name)

    def forward(self, states: Tensor, *given: Any, **named: Any) -> Tensor:
        return states


@contextmanager
def listening(module: nn.Module, heard: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Tell `heard` the first input and the output of each call of a module."""

    def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], made: Any) -> None:
        heard(given[0] if given else named["hidden_states"], first(made))

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def adding(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace what a module puts out by `change` of it."""

    def hook(_: nn.Module, __: tuple[Any, ...], made: Any) -> Any:
        changed = change(first(made))
        return changed if isinstance(made, Tensor) else (changed, *made[1:])

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def first(made: Any) -> Tensor:
    """The states among what a block returns."""
    found: Tensor = made if isinstance(made, Tensor) else made[0]
    return found


def resumed(module: nn.Module, layer: int, states: Tensor) -> AbstractContextManager[None]:
    """A network whose blocks below `layer` do nothing, and whose block `layer` is given `states` (rows, tokens, width)."""
    return resumed_in(blocks_of(module)[1], layer, states)


@contextmanager
def resumed_in(blocks: nn.ModuleList, layer: int, states: Tensor) -> Iterator[None]:
    """The same of the stack `blocks`, for a network that has several."""
    kept = list(blocks)

    def give(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return (states, *given[1:]), named
        return given, {**named, "hidden_states": states}

    handle = blocks[layer].register_forward_pre_hook(give, with_kwargs=True)
    try:
        for place in range(layer):
            blocks[place] = _Pass(blocks[place])
        yield
    finally:
        handle.remove()
        for place, block in enumerate(kept):
            blocks[place] = block


@torch.no_grad()
def states_into(module: nn.Module, layer: int, ids: Tensor, mask: Tensor, **more: Any) -> Tensor:
    """What block `layer` is given for each row, (rows, tokens, width); blocks above are not run. `more` goes to the network."""
    _, blocks = blocks_of(module)
    kept: list[Tensor] = []

    def take(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        kept.append((given[0] if given else named["hidden_states"]).clone())
        raise _Enough

    handle = blocks[layer].register_forward_pre_hook(take, with_kwargs=True)
    try:
        with suppress(_Enough):
            body(module)(input_ids=ids, attention_mask=mask, **{"use_cache": False, **more})
    finally:
        handle.remove()
    return kept[0]


def body(module: Any) -> nn.Module:
    """The network below the head."""
    found: nn.Module = module.base_model
    return found


def logits_at(module: Any, ids: Tensor, mask: Tensor, wanted: Tensor, **more: Any) -> Tensor:
    """Scores of the places that are `wanted` (rows, tokens; bool) alone, (places, classes): the head is what costs in a small network.

    `more` goes to the network, as the keys and values of what stands before.
    """
    # in the head's place, and not after the body: what a network does to its scores behind the head (scales, caps) still happens
    handle = module.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0][wanted][None],))
    try:
        scores: Tensor = module(input_ids=ids, attention_mask=mask, **{"use_cache": False, **more}).logits
    finally:
        handle.remove()
    return scores[0].float()
