"""Coefficients of task vectors learnt by going down the entropy of the merged model's output.

Training that makes models merge well (linearised or sharpness-aware tuning) would stand beside this as another learner of the same leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from asrlife.delta.roles import place
from asrlife.delta.weight_norm import effective
from asrlife.errors import InputError
from asrlife.methods.merge.adamerging import AdaMerging
from asrlife.methods.merge.exhibits import read
from asrlife.methods.merge.kept import Kept
from asrlife.methods.merge.layout import Source
from asrlife.methods.merge.leaves import Leaves
from asrlife.methods.merge.names import counterparts
from asrlife.methods.merge.places import file, handle
from asrlife.methods.merge.plan import Job, Plan, partner
from asrlife.methods.merge.subject import Subject, subject
from asrlife.methods.merge.vectors import TaskArithmetic

ALL = "all"
EVERY = 10  # steps, after which what was reached goes to the disk


@dataclass(frozen=True, eq=False)
class Mixture:
    """A base and its task vectors, in float32 by the names of the network's leaves: W = W0 + sum_k lambda_kl tau_k.

    `groups` has the layer of each tensor by its place in `layers`; lambda is (tasks, layers).
    """

    base: Mapping[str, Tensor]
    vectors: Mapping[str, tuple[Tensor, ...]]
    groups: Mapping[str, int]
    layers: tuple[str, ...]

    def at(self, coefficients: Tensor) -> dict[str, Tensor]:
        """The merged weights."""
        found = {}
        for name, base in self.base.items():
            merged = base.clone()
            for factor, vector in zip(coefficients[:, self.groups[name]].tolist(), self.vectors[name], strict=True):
                merged.add_(vector.to(merged.device), alpha=factor)
            found[name] = merged
        return found

    def slopes(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """d loss / d lambda (tasks, layers) = sum over the layer's tensors of <d loss / d W, tau_k>."""
        tasks = len(next(iter(self.vectors.values())))
        found = torch.zeros(tasks, len(self.layers), dtype=torch.float64)
        for name, vectors in self.vectors.items():
            slope = gradients[name].flatten()
            for task, vector in enumerate(vectors):
                found[task, self.groups[name]] += float(torch.dot(slope, vector.to(slope).flatten()))
        return found


@dataclass(frozen=True, eq=False)
class Learnt:
    """Coefficients (tasks, layers) and the entropy in nats before each step."""

    coefficients: Tensor
    entropies: tuple[float, ...]


def group(name: str, layerwise: bool) -> str:
    """The layer whose coefficients a tensor has: its part of the network and its number there, as in "encoder.3"."""
    where = place(name)
    return ALL if not layerwise else where.part if where.layer is None else f"{where.part}.{where.layer}"


def descend(
    shown: Subject, mixture: Mixture, method: AdaMerging, start: Tensor, seed: int, advance: Callable[[], None], kept: Kept | None = None
) -> Learnt:
    """Adam on the coefficients from `start` (tasks, layers): one backward pass to the weights of the merged network at each step.

    Examples are drawn in an order that the seed says, all once before any comes again. Where `kept` holds what an interrupted run has
    reached, it goes on from there, to the same end. InputError where the entropy comes out NaN.
    """
    climb = _Climb.of(start, method.rate, None if kept is None else kept.read())
    draw = _Draw(len(shown), method.batch, seed)
    for step in range(method.steps):
        chosen = draw.next()
        if step >= len(climb.entropies):
            leaves = Leaves.of(shown.module, mixture.at(climb.coefficients))
            loss = shown.unsure(chosen, leaves.weights(), method.spoken)
            if not torch.isfinite(loss):
                raise InputError(f"adamerging: the entropy is {float(loss.detach())} after {step} steps: take a smaller rate")
            slopes = mixture.slopes(leaves.gradients(loss)) if loss.requires_grad else torch.zeros_like(climb.coefficients)
            climb.step(slopes, float(loss.detach()))
            if kept is not None and (step + 1) % EVERY == 0:
                kept.write(climb.state())
        advance()
    if kept is not None:
        kept.write(climb.state())
    return Learnt(climb.coefficients.detach(), tuple(climb.entropies))


class _Climb:
    """Coefficients with Adam's moments and the entropies so far."""

    def __init__(self, coefficients: Tensor, rate: float) -> None:
        self.coefficients = coefficients
        self.entropies: list[float] = []
        self._adam = torch.optim.Adam([coefficients], lr=rate)

    @classmethod
    def of(cls, start: Tensor, rate: float, state: Mapping[str, Any] | None) -> _Climb:
        if state is None:
            return cls(start.clone(), rate)
        found = cls(torch.tensor(state["coefficients"], dtype=start.dtype), rate)
        found.entropies = list(state["entropies"])
        moments = {key: torch.tensor(state[key], dtype=start.dtype) for key in ("exp_avg", "exp_avg_sq")}
        own = found._adam.state_dict()
        found._adam.load_state_dict(own | {"state": {0: {"step": torch.tensor(float(len(found.entropies))), **moments}}})
        return found

    def step(self, slopes: Tensor, entropy: float) -> None:
        self.coefficients.grad = slopes
        self._adam.step()
        self.entropies.append(entropy)

    def state(self) -> dict[str, Any]:
        own = self._adam.state.get(self.coefficients, {})
        zero = torch.zeros_like(self.coefficients)
        moments = {key: own.get(key, zero).tolist() for key in ("exp_avg", "exp_avg_sq")}
        return {"coefficients": self.coefficients.tolist(), "entropies": self.entropies, **moments}


class _Draw:
    def __init__(self, count: int, size: int, seed: int) -> None:
        self._count, self._size = count, min(size, count)
        self._generator = torch.Generator().manual_seed(seed)
        self._left: list[int] = []

    def next(self) -> list[int]:
        if len(self._left) < self._size:
            self._left = torch.randperm(self._count, generator=self._generator).tolist()
        chosen, self._left = self._left[: self._size], self._left[self._size :]
        return chosen


def learn(plan: Plan, advance: Callable[[], None] = lambda: None, kept: Kept | None = None) -> Plan:
    """The plan with the coefficients that its data teach, as task arithmetic; `advance` is called after every step, `kept` as in `descend`.

    The network is the base's, called with other weights and never changed; running statistics of BatchNorm are the base's meanwhile.
    Raises InputError where the base or the data do not load, or where the plan moves layers about.
    """
    method = _method(plan)
    assert plan.config.base_model is not None and plan.config.data is not None
    data = plan.config.data
    shown = subject(
        handle(plan.config.base_model, plan.beside), read([file(data.manifest, plan.beside, "data")], data.split, data.limit), "own"
    )
    jobs = [job for job in plan.jobs if job.kind in {"merge", "pair"}]
    layers = tuple(dict.fromkeys(group(job.names[0], method.layerwise) for job in jobs))
    start = method.init * torch.tensor([list(jobs[0].each["weight"])], dtype=torch.float64).T.expand(-1, len(layers))
    found = descend(shown, _mixture(plan, jobs, layers, method, shown), method, start, plan.config.seed, advance, kept)
    rows = {layer: tuple(found.coefficients[:, index].tolist()) for index, layer in enumerate(layers)}
    weighed = [_weighed(job, rows, method.layerwise) for job in plan.jobs]
    return replace(plan, jobs=tuple(weighed), learnt=_told(jobs[0], rows, found.entropies, shown))


def _weighed(job: Job, rows: Mapping[str, tuple[float, ...]], layerwise: bool) -> Job:
    if job.kind not in {"merge", "pair"}:
        return job
    return replace(job, method=TaskArithmetic(), each={"weight": rows[group(job.names[0], layerwise)]})


def _told(job: Job, rows: Mapping[str, tuple[float, ...]], entropies: Sequence[float], shown: Subject) -> dict[str, Any]:
    return {
        "experts": [source.model for source in job.experts],
        "coefficients": {layer: list(row) for layer, row in rows.items()},
        "steps": len(entropies),
        "entropy": list(entropies),
        "data": shown.exhibits.note,
    }


def _method(plan: Plan) -> AdaMerging:
    found = {job.method for job in plan.jobs if job.kind in {"merge", "pair"}}
    weights = {tuple(job.each.get("weight", ())) for job in plan.jobs if job.kind in {"merge", "pair"}}
    if len(found) != 1 or len(weights) != 1:
        raise InputError("adamerging: init, steps, rate, weight ... are one for all tensors: give numbers, without lists and filters")
    method = found.pop()
    assert isinstance(method, AdaMerging)
    return method


def _mixture(plan: Plan, jobs: Sequence[Job], layers: Sequence[str], method: AdaMerging, shown: Subject) -> Mixture:
    """What of the plan the network has; other tensors follow their layer's coefficients unasked."""
    leaves = Leaves.of(shown.module)
    called = {job: (job.names[0] if job.kind == "merge" else _effective_name(job.names[0])) for job in jobs}
    known = counterparts(called.values(), leaves.tensors)
    base, vectors, groups = {}, {}, {}
    for job, name in called.items():
        assert job.base is not None
        if name not in known:
            continue
        leaf = known[name]
        base[leaf] = _weight(plan, job, job.base)
        vectors[leaf] = tuple(_weight(plan, job, source) - base[leaf] for source in job.experts)
        groups[leaf] = layers.index(group(job.names[0], method.layerwise))
        if base[leaf].shape != leaves.tensors[leaf].shape:
            raise InputError(f"adamerging: {job.names[0]!r} is not in the base as the result has it: merge whole models, without slices")
    return Mixture(base, vectors, groups, tuple(layers))


def _effective_name(gain: str) -> str:
    return gain.replace("parametrizations.weight.original0", "weight").removesuffix("_g")


def _weight(plan: Plan, job: Job, source: Source) -> Tensor:
    tensors = plan.models[source.model]
    if job.kind == "merge":
        return tensors[source.name].float()
    return effective(tensors[source.name].float(), tensors[partner(source.name, *job.names)].float())
