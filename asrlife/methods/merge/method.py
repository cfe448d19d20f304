"""What every merging method is: one parameter of all models in, one tensor out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.settings import check, nearest

LIMITS: Mapping[str, tuple[float, float]] = {"density": (0, 1), "gamma": (0, 1), "epsilon": (0, 0.5), "threshold": (0, math.inf)}


@dataclass(frozen=True, eq=False)
class Stack:
    """One parameter in all models, in the dtype sums are taken in (float32 unless told).

    `each` holds the settings that every expert has its own of ("weight", "density", "gamma", "epsilon" ...), a number for each expert.
    `evidence` is what data-driven methods go by, one for each expert: a Fisher diagonal, or the Gram matrix of a linear layer's inputs.
    Raises InputError where shapes or counts do not agree.
    """

    name: str
    base: Tensor | None
    experts: tuple[Tensor, ...]
    each: Mapping[str, tuple[float, ...]]
    seed: int = 0
    evidence: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if not self.experts:
            raise InputError(f"{self.name!r}: nothing to merge: name at least one model beside the base")
        self._shapes()
        for key, values in self.each.items():
            self._count(key, len(values))
        if self.evidence:
            self._count("evidence", len(self.evidence))

    def _shapes(self) -> None:
        first = self.experts[0] if self.base is None else self.base
        for index, expert in enumerate(self.experts):
            if expert.shape != first.shape:
                wanted = "the first model" if self.base is None else "the base"
                raise InputError(f"{self.name!r} is {tuple(expert.shape)} in model {index} and {tuple(first.shape)} in {wanted}")

    def _count(self, what: str, count: int) -> None:
        if count != len(self.experts):
            raise InputError(f"{self.name!r}: {count} values of {what!r} for {len(self.experts)} models: give one for each")


class Method(ABC):
    """A frozen dataclass whose fields are the settings that all experts share, with the paper's defaults; InputError beyond their limits.

    `name` is as on the command line, `paper` an arXiv number or "". `per_model` holds the settings that each expert has its own of, with
    their defaults: a stack that lacks one is merged with the default. `base` says whether a base model takes part, `experts` how many
    others do, at least and at most. `symmetric` promises that the order of the experts matters to rounding alone.
    `evidence` is the kind that the method goes by, needed or where there is some; `data` says that it learns on examples first.
    Sums over experts go from the first to the last, one addition after the other, and the base comes last.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    per_model: ClassVar[Mapping[str, float]] = {}
    base: ClassVar[Literal["needed", "optional", "unused"]]
    experts: ClassVar[tuple[int, int | None]] = (1, None)
    symmetric: ClassVar[bool] = True
    evidence: ClassVar[Literal["fisher", "gram"] | None] = None
    needs_evidence: ClassVar[bool] = False
    data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)

    @torch.no_grad()
    def merge(self, stack: Stack) -> Tensor:
        """The merged parameter, in the shape and dtype of the stack; the same for the same stack, which it leaves as it is.

        Raises InputError where the method does not do what the stack asks for.
        """
        self.admit(stack)
        first = stack.experts[0]
        return self.combine(stack).reshape(first.shape) if first.numel() else first.clone()

    @abstractmethod
    def combine(self, stack: Stack) -> Tensor:
        """`merge` for an admitted stack of at least one element; shares no memory with it."""

    def admit(self, stack: Stack) -> None:
        """Raise InputError for a missing base, a wrong number of experts, or a setting that the method does not have or allow."""
        least, most = self.experts
        if self.base == "needed" and stack.base is None:
            raise InputError(f"{self.name} of {stack.name!r} needs a base model: name the one that the others were tuned from")
        if not least <= len(stack.experts) <= (most or len(stack.experts)):
            wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
            raise InputError(f"{self.name} merges {wanted} models beside the base, and {stack.name!r} comes from {len(stack.experts)}")
        for key, values in stack.each.items():
            self._own(key, values)

    def own(self, stack: Stack, key: str) -> tuple[float, ...]:
        """The setting `key` of each expert, the default where the stack says nothing."""
        return stack.each.get(key, (self.per_model[key],) * len(stack.experts))

    def _own(self, key: str, values: tuple[float, ...]) -> None:
        if key not in self.per_model:
            raise InputError(f"{self.name}: no model has a {key!r} of its own; {nearest(key, self.per_model)}")
        low, high = LIMITS.get(key, (-math.inf, math.inf))
        for value in values:
            if not (math.isfinite(value) and low <= value <= high):
                raise InputError(
                    f"{self.name}: {key} is {value}: pass a finite number" + (f", {low:g} to {high:g}" if key in LIMITS else "")
                )
