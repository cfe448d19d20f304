"""Selective attention merging: a general model's attention for a domain's model, more of it the higher the layer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.merge.consensus import summed
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.settings import CountOrZero, NotNegative, Share


@dataclass(frozen=True)
class SaMerge(Method):
    """SA merge (arXiv 2501.08468): W = W0 + share * tau_domain + (1 - share) * tau_general, in attention alone; else W = the domain's.

    The two experts are the domain's model and the general one, in this order. Of queries, keys and values, self and cross attention
    alike, share = `keep` ^ `powers`[g] for layers of group g; `bounds` are the first layers of the groups but the first. Everything
    else, and attention outside any layer, has share 1. The authors tune both for each task: the defaults (three groups of a twelve
    layer model, the lowest all the domain's) are ours. `pattern` finds the parameters, its group "layer" the layer's number.
    """

    name: ClassVar[str] = "sa_merge"
    paper: ClassVar[str] = "2501.08468"
    base: ClassVar[Literal["needed"]] = "needed"
    experts: ClassVar[tuple[int, int | None]] = (2, 2)
    symmetric: ClassVar[bool] = False
    keep: Share = 0.8
    powers: tuple[NotNegative, ...] = (0.0, 1.0, 2.0)
    bounds: tuple[CountOrZero, ...] = (4, 8)
    pattern: str = (
        r"\b(layers?|blocks|h)\.(?P<layer>\d+)\.(self_attn|encoder_attn|self_attention|attention|attn|cross_attn)\."
        r"(self\.)?(linear_)?(q|k|v|query|key|value)(_proj)?\."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.powers) != len(self.bounds) + 1 or list(self.bounds) != sorted(set(self.bounds)):
            raise InputError(f"sa_merge: powers {self.powers}, bounds {self.bounds}: pass rising bounds, and a power more than bounds")
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise InputError(f"sa_merge: pattern {self.pattern!r} is no regular expression: {error}") from error
        if "layer" not in groups:
            raise InputError(f"sa_merge: pattern {self.pattern!r} has no group (?P<layer>...)")

    def combine(self, stack: Stack) -> Tensor:
        """Weigh by the name, add."""
        assert stack.base is not None
        share = self.share(stack.name)
        return stack.base + summed([expert - stack.base for expert in stack.experts], (share, 1 - share), False)

    def share(self, name: str) -> float:
        """How much of the parameter `name` is the domain's, 0..1; the weights of task arithmetic are this and 1 minus this."""
        found = re.search(self.pattern, name)
        if found is None:
            return 1.0
        group = sum(int(found["layer"]) >= bound for bound in self.bounds)
        return float(self.keep ** self.powers[group])
