"""AdaMerging: task arithmetic whose coefficients are learnt without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from asrlife.methods.merge.consensus import summed
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.settings import Count, CountOrZero, Finite, Positive


@dataclass(frozen=True)
class AdaMerging(Method):
    """AdaMerging (arXiv 2310.02575): W = W0 + sum_k lambda_kl (W_k - W0), lambda by task k and layer l.

    The lambdas start at `init` (times a model's own `weight`) and take `steps` steps of Adam of `rate` down the mean entropy of the
    merged model's output on `batch` examples at a time, drawn by the merge's seed; `layerwise` false learns one for each task.
    `spoken`: of CTC frames only those whose best class is not the blank, as SUTA counts them (arXiv 2203.14222).
    `learning.learn` learns; by itself the method adds task vectors with the weights it is given.
    """

    name: ClassVar[str] = "adamerging"
    paper: ClassVar[str] = "2310.02575"
    per_model: ClassVar[Mapping[str, float]] = {"weight": 1.0}
    base: ClassVar[Literal["needed"]] = "needed"
    data: ClassVar[bool] = True
    init: Finite = 0.3
    steps: CountOrZero = 500
    rate: Positive = 1e-3
    layerwise: bool = True
    batch: Count = 8
    spoken: bool = False

    def combine(self, stack: Stack) -> Tensor:
        """Weigh, add."""
        assert stack.base is not None
        base = stack.base
        return base + summed([expert - base for expert in stack.experts], self.own(stack, "weight"), normalize=False)
