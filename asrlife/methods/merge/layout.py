"""What every tensor of the result is made of: the same tensor of whole models, or of layers that are stacked anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.roles import CONV, EMBEDDING, HEAD, NORM, OTHER, depths, place, renumbered
from asrlife.errors import InputError
from asrlife.methods.merge.config import MergeConfig, Model, Module, Slice
from asrlife.methods.merge.values import Scope
from asrlife.methods.settings import nearest


@dataclass(frozen=True)
class Source:
    """A tensor of one model, with the parameters that are this source's own, and the file of evidence about the model."""

    model: str
    name: str
    parameters: Scope = None
    evidence: str | None = None


@dataclass(frozen=True)
class Row:
    """A tensor of the result: from what, under which parameters (the nearest first), how deep from first (0) to last layer (1)."""

    name: str
    sources: tuple[Source, ...]
    base: str | None
    scopes: tuple[Scope, ...]
    depth: float
    merged: bool = True


def rows(config: MergeConfig, donor: str, models: Mapping[str, Checkpoint]) -> list[Row]:
    """A row for each tensor of the result, by the names that the checkpoints themselves have.

    Names, and what is in no module, are those of `donor`. Of stacks of layers, each counts its depth by itself; outside layers the depth
    is 0, and a head and a last norm belong to the last slice, all else to the first, as in mergekit. Raises InputError for modules
    that the model has not, and for layers beyond a source's last.
    """
    stacks = depths(models[donor])
    main = [part for part in stacks if part != CONV] or list(stacks)
    modules = _modules(config, main, stacks)
    found: list[Row] = []
    for part, module in modules.items():
        names = [name for name in models[donor] if part in {None, place(name).part}]
        scopes = (module.parameters, config.parameters) if config.modules else (config.parameters,)
        if module.models:
            found += _whole(names, module.models, config.base_model, scopes, stacks)
        elif module.slices:
            found += _stacked(part or main[0], names, module.slices, config.base_model, scopes, models)
    if None not in modules:
        left = [name for name in models[donor] if place(name).part not in modules]
        found += [Row(name, (Source(donor, name),), None, (), 0.0, merged=False) for name in left]
    return sorted(found, key=lambda row: row.name)


def layers(found: Iterable[Row]) -> dict[str, list[tuple[str, int]]]:
    """For each stack, the model and layer that each layer of the result comes from first."""
    stacks: dict[str, dict[int, tuple[str, int]]] = {}
    for row in found:
        here, there = place(row.name), place(row.sources[0].name)
        if here.layer is not None and there.layer is not None:
            stacks.setdefault(here.part, {}).setdefault(here.layer, (row.sources[0].model, there.layer))
    return {part: [origin for _, origin in sorted(table.items())] for part, table in stacks.items()}


def _modules(config: MergeConfig, main: Sequence[str], stacks: Mapping[str, int]) -> dict[str | None, Module]:
    """By the name of the part that it makes; None makes all."""
    if not config.modules:
        if config.slices and len(main) != 1:
            raise InputError(f"slices of a model with the stacks {', '.join(main) or 'none'}: say which by modules: {{NAME: {{slices}}}}")
        return {None: Module(models=config.models, slices=config.slices)}
    if list(config.modules) == ["default"] and len(main) == 1:  # mergekit's name where there is only one
        return {None: config.modules["default"]}
    known = {**stacks, OTHER: 0}
    for name in config.modules:
        if name not in known:
            raise InputError(f"the model has no module {name!r}; {nearest(name, known)}")
    return {name: module for name, module in config.modules.items()}


def _whole(
    names: Iterable[str], models: Sequence[Model], base: str | None, scopes: tuple[Scope, ...], stacks: Mapping[str, int]
) -> Iterator[Row]:
    for name in names:
        where = place(name)
        depth = 0.0 if where.layer is None else _depth(where.layer, stacks[where.part])
        yield Row(name, tuple(Source(entry.model, name, entry.parameters, entry.evidence) for entry in models), base, scopes, depth)


def _stacked(
    part: str, names: Iterable[str], slices: Sequence[Slice], base: str | None, scopes: tuple[Scope, ...], models: Mapping[str, Checkpoint]
) -> Iterator[Row]:
    for name in names:
        where = place(name)
        if where.part != part or where.layer is None:
            last = HEAD in where.roles or (NORM in where.roles and EMBEDDING not in where.roles and where.layer is None)
            one = slices[-1 if last else 0]
            sources = tuple(Source(source.model, name, source.parameters, source.evidence) for source in one.sources)
            yield Row(name, sources, one.base_model or base, (one.parameters, *scopes), 0.0)
    offset = 0
    for one in slices:
        count = one.sources[0].layer_range[1] - one.sources[0].layer_range[0]
        for step in range(count):
            for sources in _layer(part, one, step, models):
                name = renumbered(sources[0].name, offset + step)
                yield Row(name, sources, one.base_model or base, (one.parameters, *scopes), _depth(step, count))
        offset += count


def _layer(part: str, one: Slice, step: int, models: Mapping[str, Checkpoint]) -> Iterator[tuple[Source, ...]]:
    for source in one.sources:
        has = depths(models[source.model]).get(part, 0)
        if source.layer_range[1] > has:
            raise InputError(f"layer_range {list(source.layer_range)} of {source.model}: its {part} has {has} layers")
    first = one.sources[0].layer_range[0] + step
    for name in models[one.sources[0].model]:
        where = place(name)
        if where.part == part and where.layer == first:
            yield tuple(
                Source(source.model, renumbered(name, source.layer_range[0] + step), source.parameters, source.evidence)
                for source in one.sources
            )


def _depth(layer: int, count: int) -> float:
    return layer / (count - 1) if count > 1 else 1.0
