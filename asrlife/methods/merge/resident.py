"""A merge done again and again with other settings, from models that stay mapped into tensors that stay in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.memory import Memory
from asrlife.errors import InputError
from asrlife.methods.merge import fused
from asrlife.methods.merge.config import MergeConfig
from asrlife.methods.merge.free import default, settled
from asrlife.methods.merge.plan import SCALE, Job, Plan
from asrlife.methods.merge.plan import plan as planned
from asrlife.methods.merge.run import Work
from asrlife.methods.merge.vectors import TaskVectors


class Resident:
    """A merge whose settings `free` change from one `fill` to the next.

    Of task vectors whose scale alone is free the mixed vector is worked out once, so that each fill is W0 + scale * vector; other merges
    are done anew, by the fused kernels where they fit. What `fill` writes is what `run` writes, bit for bit.
    """

    def __init__(self, config: MergeConfig, models: Mapping[str, Checkpoint], free: tuple[str, ...], threads: int | None = None) -> None:
        """Plan the merge at its own settings; InputError where it cannot be done, or makes another architecture than the donor's."""
        self.config, self.free, self._models = config, free, models
        self.default = {name: default(config, name) for name in free}
        self.plan = planned(settled(config, self.default), models)
        self._threads = threads or torch.get_num_threads()
        self._vectors: dict[str, tuple[Tensor, Tensor]] = {}
        self._scale_alone = set(free) <= {"scale", SCALE} and all(isinstance(job.method, TaskVectors) for job in self._moving(self.plan))
        _check_same(self.plan)

    @property
    def donor(self) -> Checkpoint:
        """The model whose network the merged weights fit."""
        return self._models[self.plan.donor]

    @property
    def base(self) -> dict[str, float] | None:
        """The settings at which the merge is its base; None where no value of them says so."""
        return dict.fromkeys(self.free, 0.0) if self._scale_alone else None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that a fill writes; all others are the donor's."""
        moving = [name for job in self._moving(self.plan) for name in job.names]
        home = self.plan.donor
        copies = [(job.names[0], job.experts[0]) for job in self.plan.jobs if job.kind == "copy"]
        copied = [name for name, source in copies if (source.model, source.name) != (home, name)]
        return tuple(sorted({*moving, *copied, *getattr(self.donor, "moved", ())}))

    def settled(self, values: Mapping[str, float]) -> MergeConfig:
        """The merge as it would be written with these values."""
        return settled(self.config, values)

    def fill(self, values: Mapping[str, float], places: Mapping[str, Tensor]) -> None:
        """Write the merge at `values` into `places`, a tensor for each of `names`."""
        plan = planned(settled(self.config, values), self._models)
        work = Work(plan, self._threads, fused.available(), lambda job: ())
        memory, wanted = Memory(plan.specs, places), set(self.names)
        for job in plan.jobs:
            if self._scale_alone and job.kind == "merge" and plan.config.accumulate_dtype == "float32":
                self._scaled(job, work, memory)
            elif wanted.intersection(job.names):
                work.do(job, memory)

    def _scaled(self, job: Job, work: Work, memory: Memory) -> None:
        assert isinstance(job.method, TaskVectors)
        name = job.names[0]
        if name not in self._vectors:
            stack = work.wide(work.stack(job))
            assert stack.base is not None
            replace(job.method, scale=1.0).admit(stack)
            self._vectors[name] = stack.base, job.method.mixed(stack)
        base, vector = self._vectors[name]
        place = memory.view(name)
        sums = place if place.dtype == vector.dtype else torch.empty_like(vector)
        # a product that is rounded, then a sum, as in TaskVectors.combine
        torch.mul(vector, job.method.scale, out=sums)
        sums.add_(base)
        memory.put(name, sums)

    @staticmethod
    def _moving(plan: Plan) -> list[Job]:
        return [job for job in plan.jobs if job.kind != "copy"]


def _check_same(plan: Plan) -> None:
    donor = plan.models[plan.donor]
    for name, spec in plan.specs.items():
        if name not in donor.entries or donor.entries[name].shape != tuple(spec.shape):
            raise InputError(
                f"search: {name!r} of the result is not as in {plan.donor}, whose network every merge is measured in: search with models "
                "of one shape, then stack layers or change the vocabulary"
            )
