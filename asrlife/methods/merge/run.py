"""A plan carried out: tensor by tensor from mapped files into a mapped file, whole or not at all, and run once before it counts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from asrlife.delta.adapted import Adapted
from asrlife.delta.arithmetic import CARD
from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.shards import Spec
from asrlife.delta.weight_norm import effective, split
from asrlife.delta.writer import SHARD_SIZE, Writer
from asrlife.errors import InputError
from asrlife.files import atomic
from asrlife.methods.merge import fused
from asrlife.methods.merge.check import run_once
from asrlife.methods.merge.companions import companions
from asrlife.methods.merge.config import DTYPES, MergeConfig
from asrlife.methods.merge.layout import Source
from asrlife.methods.merge.method import Stack
from asrlife.methods.merge.plan import Job, Plan, partner
from asrlife.methods.merge.plan import plan as planned
from asrlife.methods.merge.tokens import respelt

COUNT = "num_batches_tracked"
Evidence = Callable[[Job], tuple[Tensor, ...]]


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


def opened(config: MergeConfig, beside: Path = Path()) -> dict[str, Checkpoint]:
    """The checkpoints that a merge names: embedded:NAME, folders or files here or beside the YAML file, or hub ids; headers are read.

    MODEL+ADAPTER is a model with a LoRA folder of peft on it. Where the merge asks for a tokenizer, all have the rows of its tokens.
    """
    return respelt(config, {name: _opened(name, beside) for name in config.references})


def _opened(name: str, beside: Path) -> Checkpoint:
    if "+" not in name or any(path.exists() for path in (Path(name).expanduser(), beside / name)):
        return Checkpoint.open(located(name, beside))
    model, _, adapter = name.rpartition("+")
    return Adapted(Checkpoint.open(located(model, beside)), located(adapter, beside))


def located(name: str, beside: Path = Path()) -> Path:
    """Where a model is; what is neither here nor beside the file is fetched from the hub. InputError where it is nowhere."""
    from asrlife.models.load import ASSETS, downloaded

    if name.startswith("embedded:"):
        return ASSETS / name.removeprefix("embedded:")
    for path in (Path(name).expanduser(), beside / name):
        if path.exists():
            return path
    return downloaded(name, "give the folder of a checkpoint, here or beside the file that names it")


def merge(config: MergeConfig, out: Path, *, beside: Path = Path(), **options: Any) -> dict[str, Any]:
    """Open, plan and run a merge; `options` as in `run`. InputError for one whose settings are still to be searched."""
    if config.search is not None:
        raise InputError("search: choose its settings first, with asrlife.evaluate.merge_search or `asrlife merge`")
    return run(planned(config, opened(config, beside)), out, **options)


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
    evidence: Evidence = lambda job: (),
    told: Mapping[str, Any] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Write the merged model to `out` and return its card, which lies beside the weights as merge_card.json.

    `threads` are torch's unless given; without `kernels` torch does all, with the same bits. A run that was interrupted goes on where it
    left off. Under `check` a folder is loaded and run once; what fails that is moved to NAME.failed. `fingerprints` reads every input
    once more, in as many threads. `evidence` gives data-driven methods what they go by, `told` is put on the card. Raises InputError,
    and leaves no `out`, where anything fails.
    """
    work = Work(plan, threads or torch.get_num_threads(), kernels and fused.available(), evidence)
    files, texts = companions(plan)
    card = _card(plan, work, fingerprints) | dict(told or {})
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
    return card if single else checked(out, card, check)


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


def _card(plan: Plan, work: Work, fingerprints: bool) -> dict[str, Any]:
    config = plan.config
    averaged = [job.names[0] for job in plan.jobs if job.kind == "average"]
    return {
        "method": config.merge_method,
        "config": config.model_dump(exclude_defaults=True, mode="json"),
        "seed": config.seed,
        "accumulate_dtype": config.accumulate_dtype,
        "inputs": _inputs(plan, fingerprints, work.threads),
        "files_from": plan.donor,
        "tensors": dict(plan.counts),
        "batchnorm": {"averaged": len(averaged), "note": "averaged by count: recompute on audio"} if averaged else None,
        "kernels": "numba" if work.kernels else "torch",
        "versions": {package: version(package) for package in ("asrlife", "torch", *(["numba"] if work.kernels else []))},
        "checked": None,
    }


def _inputs(plan: Plan, fingerprints: bool, threads: int) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(threads) as pool:  # hashing gives the interpreter's lock back
        return list(pool.map(lambda name: _input(name, plan, fingerprints), plan.models))


def _input(name: str, plan: Plan, fingerprints: bool) -> dict[str, Any]:
    checkpoint = plan.models[name]
    role = "base" if name == plan.config.base_model else "expert"
    return {
        "model": name,
        "role": role,
        "bytes": checkpoint.nbytes,
        "fingerprint": checkpoint.fingerprint() if fingerprints else None,
    }


def stamp(plan: Plan) -> str:
    """All that the bytes depend on, without reading the weights."""
    files = {
        name: [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in checkpoint.files]
        for name, checkpoint in plan.models.items()
    }
    return json.dumps([version("asrlife"), plan.config.model_dump(mode="json"), files])


def checked(out: Path, card: dict[str, Any], check: bool) -> dict[str, Any]:
    """Under `check`, the card, on the disk too, of a merge that was loaded and run once; InputError, and NAME.failed, where that fails."""
    if not check:
        return card
    try:
        card["checked"] = run_once(out)
    except InputError as error:
        failed = out.with_name(f"{out.name}.failed")
        if failed.exists():
            raise InputError(f"{error}; what does not work is in {out}, as {failed} is there already") from error
        os.replace(out, failed)
        raise InputError(f"{error}; what does not work is in {failed}") from error
    with atomic(out / CARD, "w") as file:
        file.write(_text(card))
    return card


def _text(card: Mapping[str, Any]) -> str:
    return json.dumps(card, indent=2, ensure_ascii=False)
