"""The steps "tune" and "forgetting"."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asrlife.delta import file
from asrlife.errors import InputError
from asrlife.evaluate.forgetting import Point, counts, write
from asrlife.evaluate.wer import Counts
from asrlife.recipe.forgetting import Forgetting
from asrlife.recipe.recipe import find, read
from asrlife.recipe.registry import Place
from asrlife.recipe.speech import read_aloud, readings
from asrlife.recipe.tuning import Tune, opened


@contextmanager
def no_bar(task: str, total: int | None) -> Iterator[Callable[[], None]]:
    yield lambda: None


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    texts = {"new": ["go on", "stop", "turn left"], "test": ["turn right", "go now"], "old": ["hello", "good night"]}
    folder = tmp_path_factory.mktemp("spoken")
    made = {name: read_aloud(readings(lines, ["en-us+f3"], seed=1), folder / name) for name, lines in texts.items()}
    return {name: str(path) for name, path in made.items()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, tmp_path / "out", no_bar)


QUICK = {"steps": 2, "batch_seconds": 4, "rate": 1e-3}


def test_the_step_tunes_once_and_anew_when_something_changes(place: Place, spoken: dict[str, str], ctc_folder: Callable[..., Path]) -> None:
    told: dict[str, Any] = {
        "kind": "tune",
        "file": "d.safetensors",
        "train": spoken["new"],
        "test": spoken["test"],
        "model": str(ctc_folder()),
    }
    first = Tune(**told, tune=QUICK, keep=(f"replay:0.3;data={spoken['old']}",)).run(place)
    assert not first["kept"] and first["test"]["n"] == 2 and Path(first["delta"]).is_file()
    again = Tune(**told, tune=QUICK, keep=(f"replay:0.3;data={spoken['old']}",)).run(place)
    assert again["kept"] and again["norm"] == pytest.approx(first["norm"])
    assert {**again, "kept": False, "norm": first["norm"]} == first
    with pytest.raises(InputError, match="is there already, made otherwise"):
        Tune(**told, tune={**QUICK, "rate": 2e-3}).run(place)
    with pytest.raises(InputError, match="tune: unknown setting 'stps'; did you mean 'steps'"):
        Tune(**told, tune={"stps": 1}).run(place)


def test_the_plot_has_a_point_for_each_way_and_figures_beside_it(
    place: Place, spoken: dict[str, str], ctc_folder: Callable[..., Path]
) -> None:
    ways = {"full": {}, "lora": {"tune": {"scope": "lora", "rank": 2}}, "lwf": {"keep": ["lwf:1"]}}
    step = Forgetting.model_validate({
        "kind": "forgetting", "model": str(ctc_folder()), "train": {"manifest": spoken["new"]}, "new": {"manifest": spoken["test"]},
        "old": {"manifest": spoken["old"]}, "tune": QUICK, "ways": ways,
    })  # fmt: skip
    found = step.run(place)
    assert list(found["points"]) == ["base", "full", "lora", "lwf"] and Path(found["picture"]).read_bytes()[:4] == b"\x89PNG"
    told = json.loads(Path(found["json"]).read_text())
    assert [point["label"] for point in told["points"]] == ["base", *ways]
    base, full = told["points"][:2]
    assert base["learnt"] == {"value": 0.0, "low": 0.0, "high": 0.0} and base["new"]["n"] == 2
    assert full["learnt"]["value"] == pytest.approx(full["new"]["value"] - base["new"]["value"])
    delta = file.load(place.out / "forgetting" / "lora.safetensors")
    assert delta.note["settings"]["scope"] == "lora" and delta.note["settings"]["steps"] == 2
    assert step.run(place)["points"] == found["points"]


def test_a_point_by_hand() -> None:
    """Of 4 words 2 and then 1 wrong: 50 and 25 %, 25 points better."""
    before, after = [Counts(hits=1, substitutions=1), Counts(hits=1, deletions=1)], [Counts(hits=2), Counts(hits=1, deletions=1)]
    point = Point.of("x", (before, after), (after, before))
    assert (point.new.value, point.old.value) == (0.25, 0.5)
    assert (point.learnt.value, point.forgotten.value) == (-0.25, 0.25)
    assert point.learnt.low <= -0.25 <= point.learnt.high


def test_a_picture_of_the_base_alone(tmp_path: Path) -> None:
    some = [Counts(hits=1, substitutions=1)]
    base = Point.of("base", (some, some), (some, some), seconds=1.0)
    assert write([base], tmp_path, "alone", {"model": "x"}).is_file()
    assert json.loads((tmp_path / "forgetting.json").read_text())["points"][0]["detail"] == {"seconds": 1.0}


def test_counts_are_in_order_and_one_for_each(ctc_folder: Callable[..., Path], spoken: dict[str, str]) -> None:
    from asrlife.data.corpus import Corpus

    model, told = opened(str(ctc_folder())), []
    utterances = Corpus.read(spoken["new"]).utterances
    found = counts(model, utterances, lambda: told.append(1), batch=2)  # type: ignore[arg-type]
    assert [each.words for each in found] == [2, 1, 2] and len(told) == 3


def test_a_label_that_is_no_file_name_is_refused(place: Place, spoken: dict[str, str], ctc_folder: Callable[..., Path]) -> None:
    told = {"kind": "forgetting", "model": str(ctc_folder()), "train": {"manifest": spoken["new"]}, "tune": QUICK}
    told |= {name: {"manifest": spoken["old"]} for name in ("new", "old")}
    for label in ("../x", "base"):
        with pytest.raises(InputError, match="ways: .* names a file"):
            Forgetting.model_validate({**told, "ways": {label: {}}}).run(place)


def test_names_lead_to_a_recogniser_or_a_language_model(ctc_folder: Callable[..., Path], lm_folder: Path) -> None:
    assert hasattr(opened(str(lm_folder)), "speller") and not hasattr(opened(str(ctc_folder())), "speller")


def test_the_recipe_reads() -> None:
    recipe = read(find("forgetting"))
    assert {"full", "lora", "norms", "l2sp", "ewc", "mas", "replay", "lwf"} == set(recipe.steps["plot"].ways)  # type: ignore[attr-defined]
    real = read(find(str(find("forgetting").parent / "real.yaml")))
    assert list(real.steps) == ["memory", "old", "plot"]
