"""A plan carried out: tensor by tensor from mapped files into a mapped file, whole or not at all, and run once before it counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from asrlife.delta.arithmetic import CARD
from asrlife.delta.shards import Spec
from asrlife.delta.weight_norm import effective, split
from asrlife.delta.writer import SHARD_SIZE, Writer, check_absent
from asrlife.errors import InputError
from asrlife.methods.merge import fused
from asrlife.methods.merge.attached import Evidence, Print, attached
from asrlife.methods.merge.attached import prints as fingerprints_of
from asrlife.methods.merge.check import checked
from asrlife.methods.merge.companions import companions
from asrlife.methods.merge.config import DTYPES, MergeConfig
from asrlife.methods.merge.kept import Kept
from asrlife.methods.merge.layout import Source
from asrlife.methods.merge.learning import learn
from asrlife.methods.merge.method import Stack
from asrlife.methods.merge.places import file, opened
from asrlife.methods.merge.plan import Job, Plan, partner
from asrlife.methods.merge.plan import plan as planned
from asrlife.methods.merge.registry import METHODS

COUNT = "num_batches_tracked"
COEFFICIENTS = "coefficients.json"


class Target(Protocol):
    """Where one tensor of a result goes, by pieces."""

    @property
    def spec(self) -> Spec:
        """Its dtype and shape."""

    def write(self, first: int, piece: Tensor) -> None:
        """Write elements `first` and on from a flat tensor."""


class Places(Protocol):
    """Where tensors of a result go: a Writer's files, or memory."""

    def place(self, name: str) -> Target:
        """The place of a tensor."""

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a tensor and say that it is written."""

    def done(self, name: str) -> None:
        """Say that a tensor is written."""


def merge(config: MergeConfig, out: Path, *, beside: Path = Path(), **options: Any) -> dict[str, Any]:
    """Open, plan and run a merge; `options` as in `run`. InputError for one whose settings are still to be searched."""
    if config.search is not None:
        raise InputError("search: choose its settings first, with asrlife.evaluate.merge_search or `asrlife merge`")
    return run(planned(config, opened(config, beside), beside), out, **options)


def run(
    plan: Plan,
    out: Path,
    *,
    shard_size: int = SHARD_SIZE,
    threads: int | None = None,
    kernels: bool = True,
    fingerprints: bool = True,
    check: bool = True,
    durable: bool = True,
    evidence: Evidence | None = None,
    told: Mapping[str, Any] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Write the merged model to `out` and return its card, which lies beside the weights as merge_card.json.

    `threads` are torch's unless given; without `kernels` torch does all, with the same bits. A run that was interrupted goes on where it
    left off. Under `check` a folder is loaded and run once; what fails that is moved to NAME.failed. `fingerprints` reads every input
    once more, in as many threads. `evidence` gives data-driven methods what they go by, in place of the files that the merge names;
    `told` is put on the card. A method that learns on data does so first, unless the plan has learnt already (`learnt`); what it found
    lies beside the weights as coefficients.json. Raises InputError, and leaves no `out`, where anything fails.
    """
    check_absent(out)
    prints = fingerprints_of(plan.models)
    given = evidence or attached(plan, prints)
    kept = _kept(plan, out)
    plan = learnt(plan, out)
    work = Work(plan, threads or torch.get_num_threads(), kernels and fused.available(), given)
    files, texts = companions(plan)
    texts |= {} if plan.learnt is None else {COEFFICIENTS: _text(plan.learnt)}
    card = _card(plan, work, prints if fingerprints else None) | dict(told or {})
    with Writer(
        out,
        plan.specs,
        plan=stamp(plan),
        shard_size=shard_size,
        tied=plan.tied,
        metadata=plan.models[plan.donor].metadata,
        durable=durable,
    ) as writer:
        for job in plan.jobs:
            if not writer.finished.issuperset(job.names):
                work.do(job, writer)
            advance()
        single = out.suffix == ".safetensors"
        writer.carry(files, {} if single else texts | {CARD: _text(card)})
        writer.finish()
    kept.drop()
    return checked(out, card, CARD) if check and not single else card


def learnt(plan: Plan, out: Path, advance: Callable[[], None] = lambda: None) -> Plan:
    """The plan with what its method learns on data, from where an interrupted merge into `out` stopped; as it is where there is nothing."""
    wanted = METHODS[plan.config.merge_method].data and plan.learnt is None
    return learn(plan, advance, _kept(plan, out)) if wanted else plan


def _kept(plan: Plan, out: Path) -> Kept:
    return Kept(out.with_name(f".{out.name}.learning.json"), stamp(replace(plan, learnt=None)))


class Work:
    """How a job is done."""

    def __init__(self, plan: Plan, threads: int, kernels: bool, evidence: Evidence) -> None:
        self.kernels, self.threads = kernels, threads
        self._plan, self._evidence = plan, evidence
        self._accumulate = DTYPES[plan.config.accumulate_dtype]

    def do(self, job: Job, writer: Places) -> None:
        """Fill the places of a job."""
        if job.kind == "merge":
            self._merge(job, writer)
        elif job.kind == "copy":
            writer.put(job.names[0], self._read(job.experts[0]))
        elif job.kind == "average":
            writer.put(job.names[0], self._average(job))
        else:
            for name, part in zip(job.names, self._pair(job), strict=True):
                writer.put(name, _finite(name, part.to(writer.place(name).spec.dtype)))

    def _read(self, source: Source) -> Tensor:
        return self._plan.models[source.model][source.name]

    def _merge(self, job: Job, writer: Places) -> None:
        assert job.method is not None
        stack, place = self.stack(job), writer.place(job.names[0])
        if self.kernels and self._accumulate == torch.float32 and fused.fits(job.method, stack, place.spec.dtype):
            fused.merge(job.method, stack, place.spec.dtype, place.write, self.threads)
            writer.done(job.names[0])
        else:
            writer.put(job.names[0], _finite(job.names[0], job.method.merge(self.wide(stack)).to(place.spec.dtype)))

    def stack(self, job: Job) -> Stack:
        """What the method of a job is given, in the dtypes of the files."""
        base = None if job.base is None else self._read(job.base)
        experts = tuple(map(self._read, job.experts))
        return Stack(job.names[0], base, experts, job.each, self._plan.config.seed, self._evidence(job))

    def wide(self, stack: Stack) -> Stack:
        """The same in the dtype that sums are taken in."""
        tensors = [tensor for tensor in (stack.base, *stack.experts) if tensor is not None]
        dtype = self._accumulate
        for tensor in tensors:
            dtype = torch.promote_types(dtype, tensor.dtype)
        base = None if stack.base is None else stack.base.to(dtype)
        return Stack(stack.name, base, tuple(expert.to(dtype) for expert in stack.experts), stack.each, stack.seed, stack.evidence)

    def _pair(self, job: Job) -> tuple[Tensor, Tensor]:
        """A weight-norm pair: what the pairs make is merged, and the result is split as the first pair was."""
        assert job.method is not None
        sources = ([job.base] if job.base else []) + list(job.experts)
        pairs = [(self._read(s), self._read(Source(s.model, partner(s.name, *job.names)))) for s in sources]
        pairs = [(gain.to(self._accumulate), direction.to(self._accumulate)) for gain, direction in pairs]
        weights = [effective(*pair) for pair in pairs]
        base = weights.pop(0) if job.base else None
        stack = Stack(job.names[0], base, tuple(weights), job.each, self._plan.config.seed, self._evidence(job))
        return split(job.method.merge(self.wide(stack)), *pairs[0])

    def _average(self, job: Job) -> Tensor:
        """BatchNorm statistics: the mean over the experts of positive weight by how many batches each has seen, equal where none counts.

        Where no expert has positive weight, the base's. Statistics of merged weights are approximate: recompute them on audio.
        """
        weights = job.each.get("weight", (1.0,) * len(job.experts))
        sources = [source for source, weight in zip(job.experts, weights, strict=True) if weight > 0] or [job.base or job.experts[0]]
        counts = torch.tensor([self._batches(source) for source in sources], dtype=torch.float64)
        shares = counts / counts.sum() if counts.sum() > 0 else torch.full_like(counts, 1 / len(counts))
        parts = [self._read(source).double() for source in sources]
        # equal statistics, as of layers that were frozen, stay as they are to the last bit
        same = all(torch.equal(part, parts[0]) for part in parts)
        return parts[0] if same else torch.stack([part * share for part, share in zip(parts, shares, strict=True)]).sum(0)

    def _batches(self, source: Source) -> float:
        name = f"{source.name.rpartition('.')[0]}.{COUNT}"
        checkpoint = self._plan.models[source.model]
        return float(checkpoint[name]) if name in checkpoint.stored else 0.0


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{name!r} comes out NaN or infinite in {tensor.dtype}: take smaller weights, or another dtype")
    return tensor


def _card(plan: Plan, work: Work, prints: Print | None) -> dict[str, Any]:
    config = plan.config
    averaged = [job.names[0] for job in plan.jobs if job.kind == "average"]
    return {
        "method": config.merge_method,
        "config": config.model_dump(exclude_defaults=True, mode="json"),
        "seed": config.seed,
        "accumulate_dtype": config.accumulate_dtype,
        "inputs": _inputs(plan, prints, work.threads),
        "files_from": plan.donor,
        "tensors": dict(plan.counts),
        "learnt": plan.learnt,
        "batchnorm": {"averaged": len(averaged), "note": "averaged by count: recompute on audio"} if averaged else None,
        "kernels": "numba" if work.kernels else "torch",
        "versions": {package: version(package) for package in ("asrlife", "torch", *(["numba"] if work.kernels else []))},
        "checked": None,
    }


def _inputs(plan: Plan, prints: Print | None, threads: int) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(threads) as pool:  # hashing gives the interpreter's lock back
        return list(pool.map(lambda name: _input(name, plan, prints), plan.models))


def _input(name: str, plan: Plan, prints: Print | None) -> dict[str, Any]:
    checkpoint = plan.models[name]
    role = "base" if name == plan.config.base_model else "expert"
    return {
        "model": name,
        "role": role,
        "bytes": checkpoint.nbytes,
        "fingerprint": None if prints is None else prints(name),
        "evidence": next((s.evidence for job in plan.jobs for s in job.experts if s.model == name and s.evidence), None),
    }


def stamp(plan: Plan) -> str:
    """All that the bytes depend on, without reading the weights."""
    files = {
        name: [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in checkpoint.files]
        for name, checkpoint in plan.models.items()
    }
    evidence = sorted({s.evidence for job in plan.jobs for s in job.experts if s.evidence})
    named = [*evidence, *([plan.config.data.manifest] if plan.config.data else [])]
    stamps = [(name, file(name, plan.beside, "data").stat().st_mtime_ns) for name in named]
    return json.dumps([version("asrlife"), plan.config.model_dump(mode="json"), files, stamps, plan.learnt])


def _text(card: Mapping[str, Any]) -> str:
    return json.dumps(card, indent=2, ensure_ascii=False)
