"""What every merging method is: one parameter of all models in, one tensor out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.settings import check


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
    their defaults: a stack that lacks one is merged with the default. `base` says whether a base model takes part.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    per_model: ClassVar[Mapping[str, float]] = {}
    base: ClassVar[Literal["needed", "optional", "unused"]]

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def merge(self, stack: Stack) -> Tensor:
        """The merged parameter, in the shape and dtype of the stack; the same for the same stack, which it leaves as it is."""
