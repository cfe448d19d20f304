"""Where a network keeps facts: the weight by which each block's feed-forward writes, found by shape and never by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from asrlife.delta.delta import LowRank
from asrlife.errors import InputError


@dataclass(frozen=True, eq=False)
class Site:
    """The down-projection of block `layer`: its module, the name of its weight, and whether that is stored (in, out), as GPT-2's are."""

    layer: int
    name: str
    module: nn.Module
    block: nn.Module
    transposed: bool

    @property
    def weight(self) -> Tensor:
        """W (out, in), a view."""
        stored: Any = self.module.weight
        return stored.detach().T if self.transposed else stored.detach()

    def stored(self, change: LowRank) -> LowRank:
        """A change of W in the shape in which the weight is stored."""
        return LowRank(change.down.T, change.up.T) if self.transposed else change


def blocks_of(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """The stack of blocks that a decoder runs through, and its name: the longest list of modules of one class, the last of several."""
    found = [
        (name, part) for name, part in module.named_modules() if isinstance(part, nn.ModuleList) and len({type(one) for one in part}) == 1
    ]
    if not found:
        raise InputError("the network has no stack of blocks: editing needs a transformer")
    longest = max(len(part) for _, part in found)
    return [(name, part) for name, part in found if len(part) == longest][-1]


def sites(module: nn.Module) -> tuple[Site, ...]:
    """One site for each block, from the input upwards.

    It is the linear map into the residual stream with the widest input, which must be wider than the stream: attention mostly writes from a
    narrower one. The stream is as wide as most linear maps of a block read.
    Raises InputError for a network without feed-forwards of that kind.
    """
    stack, blocks = blocks_of(module)
    return tuple(_site(layer, f"{stack}.{layer}", block) for layer, block in enumerate(blocks))


def _site(layer: int, prefix: str, block: nn.Module) -> Site:
    maps = [(name, part, *_shape(part)) for name, part in block.named_modules() if _is_linear(part)]
    # most of a block reads from the stream; what is written may be narrower, as keys and values that heads share
    read = Counter(into for *_, into in maps)
    width = max(read, key=lambda size: read[size], default=0)
    writing = [entry for entry in maps if entry[2] == width and entry[3] > width]
    if not writing:
        raise InputError(f"block {prefix} has no feed-forward that writes from a wider layer: its facts cannot be edited this way")
    name, part, _, _ = max(writing, key=lambda entry: entry[3])
    return Site(layer, f"{prefix}.{name}.weight", part, block, _is_conv1d(part))


def linears(network: nn.Module, block: nn.Module) -> tuple[str, ...]:
    """The names of the weights of every linear map of a block, attention and feed-forward."""
    prefix = next(name for name, part in network.named_modules() if part is block)
    return tuple(f"{prefix}.{name}.weight" for name, part in block.named_modules() if _is_linear(part))


def _is_conv1d(part: nn.Module) -> bool:
    return type(part).__name__ == "Conv1D"


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or _is_conv1d(part)


def _shape(part: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear map."""
    weight: Any = part.weight
    return (weight.shape[1], weight.shape[0]) if _is_conv1d(part) else (weight.shape[0], weight.shape[1])


def chosen(found: Sequence[Site], layers: Sequence[int] | None, depth: float, count: int = 1) -> tuple[Site, ...]:
    """The sites of `layers`, or of `count` layers that end at the share `depth` of the stack."""
    if layers is not None:
        wrong = [layer for layer in layers if not 0 <= layer < len(found)]
        if wrong:
            raise InputError(f"layer {wrong[0]}: the network has layers 0 to {len(found) - 1}")
        return tuple(found[layer] for layer in sorted(layers))
    last = min(len(found) - 1, round(depth * (len(found) - 1)))
    return tuple(found[max(0, last - count + 1) : last + 1])
