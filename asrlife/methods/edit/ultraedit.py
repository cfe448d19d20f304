"""UltraEdit: from one forward and one backward for each edit to a change in closed form, with nothing to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asrlife.data.edit import EditRequest
from asrlife.delta.delta import Change
from asrlife.errors import InputError
from asrlife.methods.edit import algebra
from asrlife.methods.edit.editors import Bench, Editor
from asrlife.methods.edit.moments import Moments
from asrlife.methods.edit.partial import adding, listening
from asrlife.methods.edit.rows import Rows
from asrlife.methods.edit.sites import Site
from asrlife.methods.edit.targets import asked, losses, parts

if TYPE_CHECKING:
    from asrlife.models.text import TextModel


@dataclass(frozen=True)
class UltraEdit(Editor):
    """UltraEdit (arXiv 2505.14679): V = -eta ||k^||^2 g^ for keys k (in,) and gradients g (out,) at the tokens that say the target.

    k^ and g^ are normalised by the mean and the spread over all edits that the bench has seen. eta is `rate` times the root mean square of
    what the module puts out there, over the width of k: the authors' 1e-6 is of their models' scale.
    """

    name = "ultraedit"
    depth: float = 1.0
    count: int = 3
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise InputError(f"{self.name}: rate {self.rate} changes nothing: give a number above 0")

    def changes(self, bench: Bench, requests: Sequence[EditRequest]) -> Mapping[str, Change]:
        """One change of each site for all requests together, of the rank of their tokens."""
        found = slopes(bench.model, requests, bench.sites)
        return {site.name: self._change(bench, site, *found[site.layer]) for site in bench.sites}

    def _change(self, bench: Bench, site: Site, keys: Tensor, gradients: Tensor) -> Change:
        both = torch.cat([keys, gradients], 1)
        known = bench.moments.setdefault(site.layer, Moments.new(both.shape[1]))
        known.add(both)
        key, gradient = known.normalised(both).split([keys.shape[1], gradients.shape[1]], 1)
        scale = (keys @ site.weight.double().cpu().T).square().mean().sqrt()
        values = -self.rate * scale * key.square().mean(1, keepdim=True) * gradient
        return site.stored(algebra.ultraedit(keys.T, values))


def slopes(model: TextModel, requests: Sequence[EditRequest], at: Sequence[Site]) -> dict[int, tuple[Tensor, Tensor]]:
    """By layer what a site's module is given (tokens, in) at the tokens that say the targets, and the loss's slope there (tokens, out).

    The loss is the sum over prompts of the mean cross-entropy of a target's tokens. Both are in float64 on the CPU.
    """
    with torch.inference_mode(False), torch.enable_grad():
        found = [_slopes(model, some, at) for some in parts(asked(model, requests))]
    return {site.layer: (torch.cat([part[n][0] for part in found]), torch.cat([part[n][1] for part in found])) for n, site in enumerate(at)}


def _slopes(model: TextModel, some: Rows, at: Sequence[Site]) -> list[tuple[Tensor, Tensor]]:
    keys: list[Tensor] = []
    probes: list[Tensor] = []

    def probed(out: Tensor) -> Tensor:
        probes.append(torch.zeros_like(out, requires_grad=True))
        return out + probes[-1]

    with ExitStack() as stack:
        for site in at:
            stack.enter_context(listening(site.module, lambda given, _: keys.append(given.detach())))
            stack.enter_context(adding(site.module, probed))
        gradients = torch.autograd.grad(losses(model, some).sum(), probes)
    wanted = some.predicting()
    return [(key[wanted].double().cpu(), gradient[wanted].double().cpu()) for key, gradient in zip(keys, gradients, strict=True)]
