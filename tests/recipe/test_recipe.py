from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from asrlife.errors import InputError
from asrlife.recipe import registry
from asrlife.recipe.recipe import available, find, read
from asrlife.recipe.registry import Place, Step
from asrlife.recipe.run import run

PAGE = """
name: sums
description: Adds and adds.
steps:
  first: {kind: add, a: 1, b: 2}
  second: {kind: add, a: 10, b: 20, note: long}
tiny:
  steps:
    second: {a: 0}
"""


class Add(Step):
    kind: Literal["add"]
    a: int
    b: int
    note: str | None = None

    def run(self, place: Place) -> Mapping[str, Any]:
        with place.bar("adding", 1) as advance:
            advance()
        return {"sum": self.a + self.b}


@contextmanager
def no_bar(task: str, total: int | None) -> Iterator[Callable[[], None]]:
    yield lambda: None


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(registry.KINDS, "add", f"{__name__}:Add")
    path = tmp_path / "recipe.yaml"
    path.write_text(PAGE)
    return path


def test_steps_run_in_order_and_are_kept(page: Path, tmp_path: Path) -> None:
    results = run(read(page), tmp_path / "out", no_bar)
    assert list(results["steps"].items()) == [("first", {"sum": 3}), ("second", {"sum": 30})]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results


def test_tiny_is_merged_key_by_key(page: Path) -> None:
    steps = read(page, tiny=True).steps
    assert steps["second"] == Add(kind="add", a=0, b=20, note="long")
    assert steps["first"] == read(page).steps["first"]


def test_a_change_reaches_every_step_with_the_key_or_one(page: Path) -> None:
    everywhere, one = read(page, changes=["b=5"]).steps, read(page, changes=["second.b=5", "note=x=y"]).steps
    assert [s.b for s in everywhere.values()] == [5, 5]  # type: ignore[attr-defined]
    assert [s.b for s in one.values()] == [2, 5]  # type: ignore[attr-defined]
    assert [s.note for s in one.values()] == ["x=y", "x=y"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("bb=1", "unknown key 'bb'"),
        ("secnd.a=1", "no step 'secnd'; did you mean 'second'"),
        ("a", "should be key=value"),
        ("a=[1", "is not YAML"),
        ("a=many", r"steps.first: a: .*\(it is 'many'\)"),
        ("kind=add", "unknown key 'kind'"),
        ("first.nota=1", "unknown key 'nota'; did you mean 'note'"),
    ],
)
def test_a_wrong_change_is_named(page: Path, change: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(page, changes=[change])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: add, a: 1", "kind: ad, a: 1", r"recipe.yaml: steps.first: unknown kind 'ad'; did you mean 'add'\?"),
        ("note: long", "nte: long", r"recipe.yaml: steps.second: unknown key 'nte'; did you mean 'note'\?"),
        ("description", "descriptin", "unknown key 'descriptin'; did you mean 'description'"),
        ("tiny:\n  steps:\n    second: {a: 0}", "tiny: 3", "tiny: .*dictionary"),
    ],
)
def test_a_broken_recipe_is_one_line(page: Path, old: str, new: str, message: str) -> None:
    page.write_text(PAGE.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        read(page)
    assert "\n" not in str(error.value)


def test_recipes_come_with_the_package() -> None:
    assert "noisy_stream" in available()
    assert find("noisy_stream") == available()["noisy_stream"]
    with pytest.raises(InputError, match="no recipe 'noisy_steam'; did you mean 'noisy_stream'"):
        find("noisy_steam")


def test_every_recipe_reads_whole_and_tiny() -> None:
    for path in available().values():
        whole, tiny = read(path), read(path, tiny=True)
        assert whole.name == path.parent.name and list(whole.steps) == list(tiny.steps)
        assert (path.parent / "README.md").is_file()


def test_places_resolve_and_missing_ones_are_named(tmp_path: Path) -> None:
    place = Place(tmp_path / "recipe", tmp_path / "out", no_bar)
    for folder in ("recipe", "out"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").touch()
    assert place.path("out:x") == tmp_path / "out" / "x"
    assert place.path("recipe:x") == tmp_path / "recipe" / "x"
    assert place.path(str(tmp_path / "out")) == tmp_path / "out"
    with pytest.raises(InputError, match="no such file"):
        place.path("out:y")


def test_results_are_strict_json(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Add, "run", lambda self, place: {"sum": math.nan})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run(read(page), tmp_path / "out", no_bar)
    assert not (tmp_path / "out" / "results.json").exists()
