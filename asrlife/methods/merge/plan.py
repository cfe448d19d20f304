"""From a merge as text to jobs: one for each tensor of the result, checked against what the checkpoints really hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.roles import BUFFER, STATISTICS, chosen, place, weight_norms
from asrlife.delta.shards import Spec
from asrlife.errors import InputError
from asrlife.methods.merge.config import DTYPES, MergeConfig, Module
from asrlife.methods.merge.layout import Row, Source, rows
from asrlife.methods.merge.method import Method
from asrlife.methods.merge.registry import MERGEKIT, METHODS, make
from asrlife.methods.merge.values import Scope, resolved, written
from asrlife.methods.merge.vectors import TaskVectors
from asrlife.methods.settings import nearest, typed

Kind = Literal["merge", "copy", "pair", "average"]
SCALE = "lambda"
IDLE = ("int8_mask", "density", "rescale")
"""What mergekit reads and, where the method has no such setting, does nothing with."""


@dataclass(frozen=True, eq=False)
class Job:
    """What makes one tensor, or a weight-norm pair (its gain, then its direction), of the result.

    "merge" gives `method` the tensor of the base and of the experts; "pair" the weights that pairs make, and splits the result; "average"
    takes the mean of BatchNorm statistics by the counts of batches; "copy" copies the first of `experts`.
    """

    names: tuple[str, ...]
    kind: Kind
    base: Source | None
    experts: tuple[Source, ...]
    method: Method | None = None
    each: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Plan:
    """A merge whose every tensor is settled: `jobs` in the order of names, `specs` and `tied` of the result, `donor` of names and files.

    `beside` is where the merge was written, and files are looked for; `learnt` what a method has found out on data, None before.
    """

    config: MergeConfig
    models: Mapping[str, Checkpoint]
    donor: str
    rows: tuple[Row, ...]
    jobs: tuple[Job, ...]
    specs: Mapping[str, Spec]
    tied: Mapping[str, str]
    beside: Path = Path()
    learnt: Mapping[str, Any] | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many jobs there are of each kind."""
        return Counter(job.kind for job in self.jobs)


def plan(config: MergeConfig, models: Mapping[str, Checkpoint], beside: Path = Path()) -> Plan:
    """Settle what every tensor is made of; nothing is read but headers. `beside`: the folder of the file that asks for the merge.

    Raises InputError naming tensors that are missing, extra or of another shape, parameters that the method does not have, and a base
    that is missing or not wanted.
    """
    donor = config.base_model or config.references[0]
    found = rows(config, donor, models)
    _check_parameters(config)
    taken = {row.name for row in _merged(config, found, models)}
    _check_tensors(config, found, taken, donor, models)
    jobs = tuple(_jobs(config, found, taken, models))
    dtype = config.out_dtype or config.dtype
    specs = {name: _spec(source, models, dtype) for job in jobs for name, source in zip(job.names, _places(job), strict=True)}
    tied = {copy: first for copy, first in models[donor].tied.items() if first in specs}
    return Plan(config, models, donor, tuple(found), jobs, specs, tied, beside)


def _merged(config: MergeConfig, found: list[Row], models: Mapping[str, Checkpoint]) -> Iterator[Row]:
    """Rows that a method works on: selected, and no buffers."""
    select = config.select
    names = set(chosen([r.name for r in found], select.pattern, roles=select.roles, without=select.without, layers=select.layers))
    if not names:
        raise InputError(f"select: no tensor is {select.model_dump(exclude_defaults=True)}: all would be the base's")
    for row in found:
        entry = models[row.sources[0].model].stored.get(row.sources[0].name)
        numeric = entry is None or entry.dtype.is_floating_point
        if row.merged and row.name in names and numeric and BUFFER not in place(row.name).roles:
            yield row


def _jobs(config: MergeConfig, found: list[Row], taken: set[str], models: Mapping[str, Checkpoint]) -> Iterator[Job]:
    resolve = _Resolver(config)
    pairs = {gain: direction for gain, direction in weight_norms(taken).values()}
    directions = set(pairs.values())
    for row in found:
        if row.name in directions:
            continue
        base, experts = _divided(config, row)
        if row.name not in taken or not experts:
            kept = next((source for source in row.sources if source.model == row.base), base or row.sources[0])
            yield Job((row.name,), "copy", None, (kept,))
            continue
        each, method = resolve.each(row, experts), resolve.method(row)
        if STATISTICS in place(row.name).roles:
            yield Job((row.name,), "average", base, experts, method, each)
        else:
            names = (row.name, pairs[row.name]) if row.name in pairs else (row.name,)
            yield Job(names, "pair" if row.name in pairs else "merge", base, experts, method, each)


def _divided(config: MergeConfig, row: Row) -> tuple[Source | None, tuple[Source, ...]]:
    """The base's tensor and the experts', as the method sees them."""
    if METHODS[config.merge_method].base == "unused" or row.base is None:
        return None, row.sources
    own = next((source for source in row.sources if source.model == row.base), Source(row.base, row.name))
    return own, tuple(source for source in row.sources if source.model != row.base)


class _Resolver:
    """Settings of every tensor: what the file says, else mergekit's default, else the paper's; the passing of equals is remembered."""

    def __init__(self, config: MergeConfig) -> None:
        self.name, self.kind = config.merge_method, METHODS[config.merge_method]
        self._defaults = MERGEKIT.get(self.name, {})
        self._fields = {entry.name: str(entry.type) for entry in fields(self.kind)}  # type: ignore[arg-type]
        self._made: dict[tuple[Any, ...], Method] = {}

    def each(self, row: Row, experts: tuple[Source, ...]) -> dict[str, tuple[float, ...]]:
        return {key: tuple(self._own(key, row, source) for source in experts) for key in self.kind.per_model}

    def _own(self, key: str, row: Row, source: Source) -> float:
        found = resolved((source.parameters, *row.scopes), key, source.name, row.depth, lambda value: _number(self.name, key, value))
        return float(self._defaults.get(key, self.kind.per_model[key]) if found is None else found)

    def method(self, row: Row) -> Method:
        settings = {key: value for key, value in self._defaults.items() if key in self._fields}
        for key in self._fields:
            found = self._shared(key, row)
            if found is not None:
                settings[key] = found
        known = tuple(sorted(settings.items()))
        if known not in self._made:
            self._made[known] = make(self.name, settings)
        return self._made[known]

    def _shared(self, key: str, row: Row) -> Any:
        def cast(value: Any) -> Any:
            return typed(self.kind, {key: value}, self.name)[key]

        if self._fields[key].startswith("tuple"):  # a list is the value itself
            return next((cast(scope[key]) for scope in row.scopes if scope and key in scope), None)
        other = SCALE if key == "scale" else key
        scopes = [{key: scope[key if key in scope else other]} if {key, other} & set(scope) else {} for scope in row.scopes if scope]
        return resolved(scopes, key, row.name, row.depth, cast)


def _number(method: str, key: str, value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{method}: {key} is {value!r}: give a number") from None


def _check_parameters(config: MergeConfig) -> None:
    """Every key must mean something to the method, also where its filter fits no tensor."""
    kind = METHODS[config.merge_method]
    known = {entry.name for entry in fields(kind)} | set(kind.per_model)  # type: ignore[arg-type]
    known |= {SCALE} if "scale" in {entry.name for entry in fields(kind)} else set()  # type: ignore[arg-type]
    idle = IDLE if issubclass(kind, TaskVectors) else IDLE[:1]
    for scope, per_source in _scopes(config):
        for key, setting in (scope or {}).items():
            if key not in known and key not in idle:
                raise InputError(f"{config.merge_method}: unknown parameter {key!r}; {nearest(key, dict.fromkeys({*known, *idle}))}")
            if per_source and key in known and key not in kind.per_model:
                raise InputError(f"{config.merge_method}: no model has a {key!r} of its own: put it under the merge's own parameters")
            for value in written(setting) if key in kind.per_model else ():
                _number(config.merge_method, key, value)


def _scopes(config: MergeConfig) -> Iterator[tuple[Scope, bool]]:
    groups: list[MergeConfig | Module] = [config, *(config.modules or {}).values()]
    for group in groups:
        yield group.parameters, False
        yield from ((entry.parameters, True) for entry in group.models or ())
        for part in group.slices or ():
            yield part.parameters, False
            yield from ((source.parameters, True) for source in part.sources)


def _check_tensors(config: MergeConfig, found: list[Row], taken: set[str], donor: str, models: Mapping[str, Checkpoint]) -> None:
    _check_base(config, found)
    missing: dict[str, list[str]] = {}
    shapes, extra = [], []
    for row in (row for row in found if row.name in taken):
        base, experts = _divided(config, row)
        sources = (*([base] if base else []), *experts)
        there = [source for source in sources if source.name in models[source.model].stored]
        for source in set(map(_bare, sources)) - set(map(_bare, there)):
            missing.setdefault(source.model, []).append(source.name)
        sizes = {models[source.model].stored[source.name].shape: source for source in there}
        if len(sizes) > 1:
            shapes.append(f"{row.name!r} is " + " and ".join(f"{list(shape)} in {source.model}" for shape, source in sizes.items()))
    if config.models and not config.select.model_fields_set:
        extra = [f"{model} has {_some(more)} that {donor} lacks" for model in models if (more := _extra(models[donor], models[model]))]
    faults = [f"{model} lacks {_some(names)}" for model, names in sorted(missing.items())] + extra
    faults += [f"shapes differ: {'; '.join(shapes[:3])}{f' and {len(shapes) - 3} more' if len(shapes) > 3 else ''}"] if shapes else []
    if faults:
        raise InputError(f"{'. '.join(faults)}: give checkpoints of one architecture and size, or leave these tensors out with `select`")


def _check_base(config: MergeConfig, found: list[Row]) -> None:
    kind = METHODS[config.merge_method]
    for row in (row for row in found if row.merged):
        listed = {source.model for source in row.sources}
        if row.base is None and kind.base == "needed":
            raise InputError(f"{config.merge_method} needs base_model: name the model that the others were tuned from")
        if row.base is not None and row.base not in listed and kind.base == "unused":
            raise InputError(f"{config.merge_method} merges models without a base: list {row.base} among them, or leave base_model out")
        if row.base is not None and row.base not in listed and row.sources[0].name != row.name:
            raise InputError(f"slices that move layers need the base's own: list {row.base} among their sources, with its layer_range")


def _bare(source: Source) -> Source:
    return Source(source.model, source.name)


def _extra(donor: Checkpoint, other: Checkpoint) -> list[str]:
    """What only the other has, or has untied; buffers do not matter."""
    return [
        name for name in other if (name not in donor.stored or name in donor.tied and name not in other.tied)
        and BUFFER not in place(name, other.stored[name].dtype).roles
    ]  # fmt: skip


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return f"{len(names)} tensors such as {shown}" if len(names) > 3 else shown


def _places(job: Job) -> Iterator[Source]:
    """The source whose shape and dtype each tensor of a job has."""
    first = job.base or job.experts[0]
    ending = job.names[0]
    for name in job.names:
        yield first if name == ending else Source(first.model, partner(first.name, ending, name))


def partner(name: str, gain: str, direction: str) -> str:
    """The name of the direction that belongs to the gain `name` of another model, as `direction` does to `gain`."""
    for one, other in (("parametrizations.weight.original0", "parametrizations.weight.original1"), ("weight_g", "weight_v")):
        if gain.endswith(one) and direction.endswith(other):
            return name.removesuffix(one) + other
    raise AssertionError((name, gain, direction))


def _spec(source: Source, models: Mapping[str, Checkpoint], dtype: str | None) -> Spec:
    entry = models[source.model].stored[source.name]
    wanted: torch.dtype = DTYPES[dtype] if dtype and entry.dtype.is_floating_point else entry.dtype
    return Spec(wanted, entry.shape)
