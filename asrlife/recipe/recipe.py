"""A recipe: a name, a description and steps, read from recipe.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

import asrlife
from asrlife.errors import InputError
from asrlife.recipe.names import nearest
from asrlife.recipe.registry import Step, step_of
from asrlife.recipe.schema import Settings, merged, parse, read_yaml


class _Page(Settings):
    """What recipe.yaml holds; `tiny` is merged over the rest for a run of a minute."""

    name: str
    description: str
    steps: dict[str, dict[str, Any]] = Field(min_length=1)
    tiny: dict[str, Any] = {}


@dataclass(frozen=True)
class Recipe:
    """Steps in order, by name; `folder` is where recipe.yaml lies."""

    name: str
    description: str
    steps: Mapping[str, Step]
    folder: Path


def read(path: Path, tiny: bool = False, changes: Sequence[str] = ()) -> Recipe:
    """Read recipe.yaml, with its `tiny` values where wanted and with changes "key=value" or "step.key=value".

    An unknown key, kind or type raises InputError naming the file, the place and the nearest known name.
    """
    data = read_yaml(path)
    page = parse(_Page, data, str(path))
    if tiny:
        page = parse(_Page, merged(data, page.tiny), f"{path}: tiny")
    kinds = {name: step_of(str(step.get("kind", "")), f"{path}: steps.{name}") for name, step in page.steps.items()}
    steps = page.steps
    for change in changes:
        steps = _changed(steps, kinds, change)
    found = {name: parse(kinds[name], step, f"{path}: steps.{name}") for name, step in steps.items()}
    return Recipe(page.name, page.description, found, path.parent)


def only(recipe: Recipe, steps: Sequence[str]) -> Recipe:
    """The recipe with the named steps alone, in its own order; all of them where none is named, and an unknown one raises InputError."""
    for name in steps:
        if name not in recipe.steps:
            raise InputError(f"{recipe.name} has no step {name!r}; {nearest(name, recipe.steps)}")
    return recipe if not steps else replace(recipe, steps={name: step for name, step in recipe.steps.items() if name in steps})


def folder() -> Path:
    """Where the recipes lie: in the installed package, or beside it in the source tree."""
    package = Path(asrlife.__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def available() -> dict[str, Path]:
    """The recipes that come with asrlife: folder name -> recipe.yaml."""
    return {path.parent.name: path for path in sorted(folder().glob("*/recipe.yaml"))}


def find(name: str) -> Path:
    """The recipe.yaml of a name, a folder or a file; an unknown one raises InputError naming the nearest."""
    recipes = available()
    if name in recipes:
        return recipes[name]
    path = Path(name)
    path = path / "recipe.yaml" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"no recipe {name!r}; {nearest(name, recipes)}")
    return path


def _changed(steps: Mapping[str, dict[str, Any]], kinds: Mapping[str, type[Step]], change: str) -> dict[str, dict[str, Any]]:
    target, equals, text = change.partition("=")
    step, dot, key = target.strip().rpartition(".")
    if not equals or not key:
        raise InputError(f"--set {change}: should be key=value or step.key=value")
    if dot and step not in steps:
        raise InputError(f"--set {change}: no step {step!r}; {nearest(step, steps)}")
    within = [step] if dot else list(steps)
    hits = [name for name in within if key in kinds[name].model_fields and key != "kind"]
    if not hits:
        known = {field for name in within for field in kinds[name].model_fields} - {"kind"}
        raise InputError(f"--set {change}: unknown key {key!r}; {nearest(key, known)}")
    value = _value(text, change)
    return {name: {**settings, key: value} if name in hits else settings for name, settings in steps.items()}


def _value(text: str, change: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set {change}: the value is not YAML") from None
