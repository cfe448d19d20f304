"""What an editor is, and those of closed form: each a frozen dataclass that turns requests into changes of weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from asrlife.data.edit import EditRequest
from asrlife.delta.delta import Change, LowRank
from asrlife.delta.weights import overwritten
from asrlife.methods.edit import algebra
from asrlife.methods.edit.algebra import Covariance
from asrlife.methods.edit.keys import heard, told
from asrlife.methods.edit.moments import Moments
from asrlife.methods.edit.sites import Site
from asrlife.methods.edit.values import Search, Where, additions

if TYPE_CHECKING:
    from asrlife.models.text import TextModel


@dataclass(eq=False)
class Bench:
    """What an editor works with: the model, where it writes, contexts, covariances by layer, and the keys of edits made before.

    `moments` are those of keys and gradients over all edits made, by layer; `seed` is for what an editor draws; `sought` are values that
    were looked for before, by all that they depend on. Contexts and covariances are there for editors that are `measured`.
    """

    model: TextModel
    sites: tuple[Site, ...]
    contexts: tuple[str, ...] = ()
    covariances: Mapping[int, Covariance] = field(default_factory=dict)
    earlier: dict[int, Tensor] = field(default_factory=dict)
    moments: dict[int, Moments] = field(default_factory=dict)
    seed: int = 0
    sought: dict[Any, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Editor(ABC):
    """`layers` to write to, or the depth of the last of `count` of them. `measured`: whether it needs contexts and covariances of keys."""

    name: ClassVar[str]
    measured: ClassVar[bool] = False
    layers: tuple[int, ...] | None = None
    depth: float = 0.35
    count: int = 1

    @abstractmethod
    def changes(self, bench: Bench, requests: Sequence[EditRequest]) -> Mapping[str, Change]:
        """Changes that make all requests true together, by the name of the weight and in its shape; the model is left as it was."""

    def each(self, bench: Bench, requests: Sequence[EditRequest]) -> Sequence[Mapping[str, Change]]:
        """The changes of each request alone: none knows of the others."""
        return [self.changes(_alone(bench), [request]) for request in requests]


def _alone(bench: Bench) -> Bench:
    """The same without what edits before have left."""
    return replace(bench, earlier={}, moments={})


@dataclass(frozen=True)
class Valued(Editor):
    """Editors that look for a value first, and then write it in closed form.

    `told` texts about each subject, which the model itself writes, are held while they look."""

    measured = True
    told: int = 12
    search: Search = Search()

    def _wanted(self, bench: Bench, requests: Sequence[EditRequest], where: Where) -> Tensor:
        """The values of requests; editors that share a bench, and look for the same, look for them once."""
        key = (bench.model.fingerprint(), tuple(requests), bench.contexts, bench.sites[-1].name, self.told, self.search, where)
        if key not in bench.sought:
            texts = told(bench.model, requests, self.told, seed=bench.seed)
            bench.sought[key] = additions(bench.model, requests, bench.contexts, bench.sites[-1], self.search, where, texts).additions
        return bench.sought[key]


@dataclass(frozen=True)
class Rome(Valued):
    """ROME (arXiv 2202.05262): one edit, one rank, one layer. `keys` "mean" takes the mean key over contexts everywhere (r-ROME, arXiv
    2403.07175); "original" divides by the product with the key without context, as the first code did, which can end a model."""

    name = "rome"
    keys: Literal["mean", "original"] = "mean"

    def changes(self, bench: Bench, requests: Sequence[EditRequest]) -> dict[str, LowRank]:
        """One change for each request, added up: the requests do not know of each other."""
        up, down = self._factors(bench, requests)
        return {bench.sites[-1].name: bench.sites[-1].stored(LowRank(up, down))}

    def each(self, bench: Bench, requests: Sequence[EditRequest]) -> list[dict[str, LowRank]]:
        """One rank each."""
        up, down = self._factors(bench, requests)
        site = bench.sites[-1]
        return [{site.name: site.stored(LowRank(up[:, [n]], down[[n]]))} for n in range(len(requests))]

    def _factors(self, bench: Bench, requests: Sequence[EditRequest]) -> tuple[Tensor, Tensor]:
        site = bench.sites[-1]
        found = self._wanted(bench, requests, "feed-forward").double().cpu()
        mean = heard(bench.model, requests, bench.contexts, [site])[0][0].double().cpu()
        alone = mean if self.keys == "mean" else heard(bench.model, requests, (), [site])[0][0].double().cpu()
        directions = bench.covariances[site.layer].solved(mean.T).T
        scale = (directions * alone).sum(-1, keepdim=True)
        return (found / scale).T, directions


@dataclass(frozen=True)
class _Spread(Valued):
    """Editors that write the last layer's wanted output by and by, over several layers and many edits at once (arXiv 2210.07229, 4.3)."""

    def changes(self, bench: Bench, requests: Sequence[EditRequest]) -> dict[str, LowRank]:
        """From the lowest layer up, each change made on the model that has those below it."""
        return self._written(bench, requests, self._wanted(bench, requests, self._where(bench)))

    def each(self, bench: Bench, requests: Sequence[EditRequest]) -> list[dict[str, LowRank]]:
        """The values of all are sought together, and each is written alone."""
        wanted = self._wanted(bench, requests, self._where(bench))
        return [self._written(_alone(bench), [request], wanted[[n]]) for n, request in enumerate(requests)]

    @staticmethod
    def _where(bench: Bench) -> Where:
        """One layer writes what it wants itself; several meet in the stream."""
        return "feed-forward" if len(bench.sites) == 1 else "block"

    def _written(self, bench: Bench, requests: Sequence[EditRequest], wanted: Tensor) -> dict[str, LowRank]:
        if len(bench.sites) > 1:
            return self._spread(bench, requests, wanted)
        (site,) = bench.sites
        keys = heard(bench.model, requests, bench.contexts, [site])[0][0]
        return {site.name: site.stored(self.solved(bench, site, wanted.double().cpu().T, keys.double().cpu().T))}

    def _spread(self, bench: Bench, requests: Sequence[EditRequest], wanted: Tensor) -> dict[str, LowRank]:
        last, count = bench.sites[-1], len(bench.sites)
        target = heard(bench.model, requests, bench.contexts, [last])[0][1] + wanted
        made: dict[str, LowRank] = {}
        with overwritten(bench.model.module, [site.name for site in bench.sites]) as weights:
            for number, site in enumerate(bench.sites):
                (keys, _), (_, now) = heard(bench.model, requests, bench.contexts, [site, last])
                gap = (target - now).double().cpu().T / (count - number)
                change = self.solved(bench, site, gap, keys.double().cpu().T)
                made[site.name] = site.stored(change)
                step = (change.up @ change.down).to(weights[site.name].dtype)
                with torch.no_grad():
                    weights[site.name].add_(step.T if site.transposed else step)
        return made

    @abstractmethod
    def solved(self, bench: Bench, site: Site, residuals: Tensor, keys: Tensor) -> LowRank:
        """The change of one layer from residuals (out, n) and keys (in, n)."""


@dataclass(frozen=True)
class Memit(_Spread):
    """MEMIT (arXiv 2210.07229): least squares between edits and `weight` times the covariance."""

    name = "memit"
    weight: float = 15.0

    def solved(self, bench: Bench, site: Site, residuals: Tensor, keys: Tensor) -> LowRank:
        """R K' (weight C + K K')^-1."""
        return algebra.memit(residuals, keys, bench.covariances[site.layer], self.weight)


@dataclass(frozen=True)
class Emmet(_Spread):
    """EMMET (arXiv 2403.14236): the edits exactly, and of all that makes them the least in the norm of the covariance."""

    name = "emmet"
    ridge: float = 0.1

    def solved(self, bench: Bench, site: Site, residuals: Tensor, keys: Tensor) -> LowRank:
        """R (K' C^-1 K + ridge I)^-1 K' C^-1; one edit alone has no ridge."""
        return algebra.emmet(residuals, keys, bench.covariances[site.layer], self.ridge if keys.shape[1] > 1 else 0.0)


@dataclass(frozen=True)
class AlphaEdit(_Spread):
    """AlphaEdit (arXiv 2410.02355): only along directions in which keys hardly vary, and with the keys of earlier edits held.

    Those that share `energy` of the covariance's trace, or, as the authors have it, of eigenvalues below `threshold`, which is absolute.
    """

    name = "alphaedit"
    ridge: float = 0.1
    energy: float | None = 0.05
    threshold: float | None = None

    def solved(self, bench: Bench, site: Site, residuals: Tensor, keys: Tensor) -> LowRank:
        """See `asrlife.methods.edit.algebra.alphaedit`; the keys are held from then on."""
        unused = bench.covariances[site.layer].unused(self.threshold, self.energy)
        before = bench.earlier.get(site.layer)
        bench.earlier[site.layer] = keys if before is None else torch.cat([before, keys], 1)
        return algebra.alphaedit(residuals, keys, unused, before, self.ridge)
