"""Expressions over checkpoints and deltas, worked out tensor by tensor into a new checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from asrlife.delta.checkpoint import Checkpoint, check_alike
from asrlife.delta.delta import Delta
from asrlife.delta.expression import Expression
from asrlife.delta.roles import BUFFER, STATISTICS, place, weight_norms
from asrlife.delta.shards import Spec
from asrlife.delta.weight_norm import effective, split
from asrlife.delta.writer import SHARD_SIZE, Writer
from asrlife.errors import InputError

Operand = Checkpoint | Delta
CARD = "merge_card.json"


@dataclass(frozen=True, eq=False)
class Combination:
    """An expression with what its names stand for: deltas, and checkpoints whose coefficients add up to 1, so that the sum is a model.

    What is no arithmetic comes from `base`, the first checkpoint named: buffers, configuration, processor, and, where `moved` says which
    tensors take part, all the others. Sums are taken in `accumulate`; weight-norm pairs move as the weights they make where no delta takes
    part; a variance that would come out negative is 0. Raises InputError for tensors that are missing, extra or of another shape.
    """

    expression: Expression
    operands: Mapping[str, Operand]
    moved: Collection[str] | None = None
    accumulate: torch.dtype = torch.float32
    base: Checkpoint = field(init=False)

    def __post_init__(self) -> None:
        models = {name: self.operands[name] for name in self.expression.names if isinstance(self.operands[name], Checkpoint)}
        if not models:
            raise InputError(f"{self.expression.text!r} names deltas alone: add the checkpoint that they are to move")
        total = sum(self.expression.coefficients[name] for name in models)
        if abs(total - 1.0) > 1e-6:
            raise InputError(
                f"in {self.expression.text!r} the checkpoints count {total:g} times in all, which makes no model: their factors must "
                "add up to 1, as in 'a + 0.4 * (b - c)' or '0.5 * a + 0.5 * b'"
            )
        object.__setattr__(self, "base", next(iter(models.values())))
        self._check()

    def tensors(self, without: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the result by name but those in `without`, one at a time, in the dtype of the sum; buffers as they are."""
        pairs = {name: pair for pair in self._pairs() for name in pair}
        for name in self.base:
            if name in without and not any(part not in without for part in pairs.get(name, ())):
                continue
            if not self.moves(name):
                yield name, self.base[name]
            elif name not in pairs:
                yield name, self._sum(name)
            elif name == pairs[name][0]:
                yield from zip(pairs[name], self._pair(*pairs[name]), strict=True)

    def _pairs(self) -> list[tuple[str, str]]:
        """Weight-norm pairs that move as one; a delta says what its two numbers move by, each for itself."""
        if any(isinstance(operand, Delta) for operand in self.operands.values()):
            return []
        return [pair for pair in weight_norms(self.base.entries).values() if all(map(self.moves, pair))]

    def moves(self, name: str) -> bool:
        """Whether the tensor is worked out, and not taken from the base as it is."""
        numeric = self.base.entries[name].dtype.is_floating_point and place(name).role != BUFFER
        return numeric and (self.moved is None or name in self.moved)

    def _sum(self, name: str) -> Tensor:
        found = self.expression.of({key: self.part(operand, name) for key, operand in self.operands.items()})
        return found.clamp_min(0) if STATISTICS in place(name).roles and name.endswith("running_var") else found

    def part(self, operand: Operand, name: str) -> Tensor:
        """A tensor of an operand in the dtype of the sum; zeros where a delta does not move it."""
        if isinstance(operand, Checkpoint):
            return operand[name].to(self.accumulate)
        if name in operand.tensors:
            return operand.tensors[name].dense().to(self.accumulate)
        return torch.zeros(self.base.entries[name].shape, dtype=self.accumulate)

    def _pair(self, gain: str, direction: str) -> tuple[Tensor, Tensor]:
        parts = {key: (self.part(operand, gain), self.part(operand, direction)) for key, operand in self.operands.items()}
        found = self.expression.of({key: effective(*part) for key, part in parts.items()})
        before = self.part(self.base, gain), self.part(self.base, direction)
        return before if torch.equal(found, effective(*before)) else split(found, *before)

    def _check(self) -> None:
        for operand in self.operands.values():
            if isinstance(operand, Delta):
                self._check_delta(operand)
            elif operand is not self.base:
                check_alike(self.base, operand, self.moved)

    def _check_delta(self, delta: Delta) -> None:
        for name, change in delta.tensors.items():
            if self.moved is not None and name not in self.moved:
                continue
            if name not in self.base.entries:
                raise InputError(f"a delta moves {name!r}, which {self.base.path} has not: it belongs to another architecture")
            if tuple(change.shape) != self.base.entries[name].shape:
                shapes = f"{list(change.shape)} in a delta and {list(self.base.entries[name].shape)} in {self.base.path}"
                raise InputError(f"{name!r} has shape {shapes}")


def write(
    combination: Combination,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    shard_size: int = SHARD_SIZE,
    card: Mapping[str, object] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Path:
    """Write the model that a combination makes, whole or not at all, with the files that belong to its base and a card.

    `dtype` of floating tensors, each its own in the base unless given; `advance` is called after every tensor. A run that was interrupted
    goes on where it left off. Raises InputError for a tensor that comes out NaN or infinite.
    """
    base = combination.base
    specs = {
        name: Spec(dtype if dtype and entry.dtype.is_floating_point else entry.dtype, entry.shape) for name, entry in base.entries.items()
    }
    told = {"expression": combination.expression.text, **(card or {})}
    plan = json.dumps([told, str(dtype), sorted(combination.moved or []), stamps(combination)])
    with Writer(out, specs, plan=plan, shard_size=shard_size, tied=base.tied, metadata=base.metadata) as writer:
        finished = writer.finished
        for name, tensor in combination.tensors(without=finished):
            if name not in finished:
                writer.put(name, _finite(name, tensor.to(specs[name].dtype), combination))
            advance()
        writer.carry(base.carried(), {} if out.suffix == ".safetensors" else {CARD: json.dumps(told, indent=2, ensure_ascii=False)})
        return writer.finish()


def _finite(name: str, tensor: Tensor, combination: Combination) -> Tensor:
    wide = tensor if tensor.dtype.itemsize > 1 else tensor.float()
    if tensor.is_floating_point() and not bool(torch.isfinite(wide.sum(dtype=torch.float64))):
        raise InputError(f"{name!r} of {combination.expression.text!r} comes out NaN or infinite in {tensor.dtype}: take a smaller factor")
    return tensor


def stamps(combination: Combination) -> list[object]:
    """What tells one state of the inputs from another without reading them."""
    stamps: list[object] = [str(combination.accumulate)]
    for name, operand in combination.operands.items():
        if isinstance(operand, Delta):
            stamps.append([name, operand.base, operand.norm(), list(operand.tensors)])
        else:
            files = sorted({entry.path for entry in operand.entries.values()})
            stamps.append([name, [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]])
    return stamps
