"""EMR: one vector for all tasks, and for each task a mask and a number that bring its model back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from asrlife.methods.merge.consensus import scalar, total
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.settings import Finite


@dataclass(frozen=True, eq=False)
class Split:
    """What EMR keeps of one parameter: `unified`, and for each task a mask in its shape, one bit's worth an entry.

    `own` and `shared` are sums over its entries, in float64: of |tau_i|, and of |unified| under mask i. Summed over all parameters of
    a model their quotient is the task's rescaler.
    """

    unified: Tensor
    masks: tuple[Tensor, ...]
    own: tuple[float, ...]
    shared: tuple[float, ...]

    def vector(self, task: int, rescaler: float) -> Tensor:
        """The task's own vector as EMR remembers it: the unified one where it agrees, times the rescaler."""
        return self.unified.where(self.masks[task], 0) * scalar(rescaler, self.unified)


@dataclass(frozen=True)
class Emr(Method):
    """EMR merging (arXiv 2405.17461): elect a sign, take the largest magnitude that agrees; masks and rescalers bring each task back.

    The sign of sum_i weight_i tau_i is elected, minus where that is 0; unified = sign * max_i |weight_i tau_i| over those that agree.
    `merge` gives W0 + scale * unified, one model for all tasks; `split` what a model for each task is made of, with `rescalers`.
    """

    name: ClassVar[str] = "emr"
    paper: ClassVar[str] = "2405.17461"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0}
    base: ClassVar[Literal["needed"]] = "needed"
    scale: Finite = 1.0

    def combine(self, stack: Stack) -> Tensor:
        """Elect, scale, add."""
        assert stack.base is not None
        unified, _ = self._elected(self._vectors(stack))
        return stack.base + unified * scalar(self.scale, unified)

    @torch.no_grad()
    def split(self, stack: Stack) -> Split:
        """The unified vector with what each task needs to get its own back; InputError as `merge`."""
        self.admit(stack)
        vectors = self._vectors(stack)
        unified, masks = self._elected(vectors)
        own = tuple(float(vector.abs().double().sum()) for vector in vectors)
        shared = tuple(float(unified.abs().double().where(mask, 0).sum()) for mask in masks)
        return Split(unified, tuple(masks), own, shared)

    def _vectors(self, stack: Stack) -> list[Tensor]:
        assert stack.base is not None
        weights = self.own(stack, "weight")
        return [(expert - stack.base) * scalar(weight, expert) for expert, weight in zip(stack.experts, weights, strict=True)]

    def _elected(self, vectors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        plus = total(vectors) > 0
        masks = [torch.where(plus, vector > 0, vector < 0) for vector in vectors]
        sizes = torch.stack([vector.abs().where(mask, 0) for vector, mask in zip(vectors, masks, strict=True)]).amax(dim=0)
        return sizes.where(plus, -sizes), masks


def rescalers(splits: Iterable[Split]) -> tuple[float, ...]:
    """One number for each task, from all parameters of the model: sum |tau_i| / sum |unified under mask i|, 1 where both are 0."""
    sums = [(split.own, split.shared) for split in splits]
    tasks = range(len(sums[0][0])) if sums else ()
    own = [sum(one[task] for one, _ in sums) for task in tasks]
    shared = [sum(other[task] for _, other in sums) for task in tasks]
    return tuple(one / other if other else 1.0 for one, other in zip(own, shared, strict=True))
