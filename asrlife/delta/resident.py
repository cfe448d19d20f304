"""An expression worked out again and again with other factors, into tensors that stay in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import reduce

import torch
from torch import Tensor

from asrlife.delta.arithmetic import Combination, Operand
from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.expression import parse, with_numbers
from asrlife.delta.memory import Memory
from asrlife.delta.roles import STATISTICS, place, weight_norms
from asrlife.delta.shards import Spec
from asrlife.errors import InputError

_NEAR = 1e-9


class ResidentSum:
    """The expression `text` with factors `free`; a sum in one factor, X + s * Y, has X and Y worked out once.

    What `fill` writes is what `arithmetic.write` writes: bit for bit where the text is written as X + s * Y, else to rounding.
    `default` is 1 for every factor.
    """

    def __init__(
        self,
        text: str,
        operands: Mapping[str, Operand],
        free: tuple[str, ...],
        moved: Collection[str] | None = None,
        accumulate: torch.dtype = torch.float32,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Check that the sum is a model at the defaults; `moved`, `accumulate` and `dtype` as `Combination` and `write` have them."""
        self.text, self.free = text, free
        self.default = dict.fromkeys(free, 1.0)
        self._operands, self._moved, self._accumulate = operands, moved, accumulate
        self._whole = self.combination(self.default)
        self.donor: Checkpoint = self._whole.base
        self.names = tuple(name for name in self.donor if self._whole.moves(name))
        entries = self.donor.entries
        self._specs = {
            n: Spec(dtype if dtype and entries[n].dtype.is_floating_point else entries[n].dtype, entries[n].shape) for n in entries
        }
        self._slope = self._affine() if len(free) == 1 else None
        self._apart = {part for pair in weight_norms(entries).values() for part in pair}
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def base(self) -> dict[str, float] | None:
        """All factors 0; None where that is no model."""
        nothing = dict.fromkeys(self.free, 0.0)
        try:
            self.combination(nothing)
        except InputError:
            return None
        return nothing

    def combination(self, values: Mapping[str, float]) -> Combination:
        """The sum with these factors."""
        return Combination(parse(with_numbers(self.text, values)), self._operands, self._moved, self._accumulate)

    def fill(self, values: Mapping[str, float], places: Mapping[str, Tensor]) -> None:
        """Work the sum out at `values` into `places`, a tensor for each of `names`."""
        memory, once = Memory(self._specs, places), self._once()
        for name in once:
            self._sum(name, values[self.free[0]], memory)
        left = self._specs.keys() - (set(self.names) - once)
        for name, tensor in self.combination(values).tensors(without=left):
            if name not in left:
                memory.put(name, tensor)

    def _once(self) -> set[str]:
        """Tensors that are X + s * Y."""
        plain = (name for name in self.names if name not in self._apart and STATISTICS not in place(name).roles)
        return set(plain) if self._slope else set()

    def _sum(self, name: str, factor: float, memory: Memory) -> None:
        if name not in self._parts:
            assert self._slope is not None
            parts = [{key: self._whole.part(self._operands[key], name) for key in terms} for terms in self._slope]
            self._parts[name] = _total(self._slope[0], parts[0]), _total(self._slope[1], parts[1])
        first, slope = self._parts[name]
        target = memory.view(name)
        sums = target if target.dtype == slope.dtype else torch.empty_like(slope)
        torch.mul(slope, factor, out=sums)
        memory.put(name, sums.add_(first))

    def _affine(self) -> tuple[dict[str, float], dict[str, float]] | None:
        """What every operand counts at 0, and by how much more for each unit of the one factor; None where it is not so even."""
        zero, one, two = (parse(with_numbers(self.text, {self.free[0]: value})).coefficients for value in (0.0, 1.0, 2.0))
        slope = {name: one[name] - zero[name] for name in one}
        even = all(abs(zero[name] + 2 * slope[name] - two[name]) <= _NEAR * max(1.0, abs(two[name])) for name in one)
        first = {name: factor for name, factor in zero.items() if factor}
        return (first, {name: factor for name, factor in slope.items() if factor}) if even and first and any(slope.values()) else None


def _total(factors: Mapping[str, float], values: Mapping[str, Tensor]) -> Tensor:
    return reduce(torch.add, [values[name] if factor == 1 else values[name] * factor for name, factor in factors.items()])
