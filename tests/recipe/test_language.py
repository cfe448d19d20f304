from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from asrlife.delta import file
from asrlife.errors import InputError
from asrlife.evaluate.text import Answer, Outcome, Probe, Verdict
from asrlife.models.text import load_text
from asrlife.recipe.compare import Compare, best
from asrlife.recipe.embedded.lm import EmbeddedLm
from asrlife.recipe.recipe import find, only, read
from asrlife.recipe.registry import Place
from asrlife.recipe.teach import Teach


@contextmanager
def bar(task: str, total: int | None) -> Iterator[Callable[[], None]]:
    yield lambda: None


def place(folder: Path) -> Place:
    return Place(folder, folder, bar)


def teach(lm_folder: Path, **settings: Any) -> Teach:
    return Teach(
        **{"kind": "teach", "file": "d.safetensors", "lessons": {"german": 1.0}, "model": str(lm_folder), "steps": 3, "batch": 4} | settings
    )


def test_teaching_gives_a_delta_that_lowers_the_loss_and_leaves_the_model(lm_folder: Path, tmp_path: Path) -> None:
    from asrlife.data.world.courses import course
    from asrlife.data.world.facts import make
    from asrlife.delta.weights import applied

    model = load_text(lm_folder)
    before = model.fingerprint()
    found = teach(lm_folder, steps=30, batch=8, peak=5e-3).run(place(tmp_path))
    delta = file.load(Path(found["delta"]))
    assert delta.base == before == load_text(lm_folder).fingerprint() and delta.norm() > 0
    texts = [question.text for question in course("german", make(0), "dev")][:40]
    plain = model.perplexity(texts)
    with applied(model.module, delta):
        assert model.perplexity(texts) < 0.9 * plain
    assert model.fingerprint() == before


def test_a_second_run_keeps_what_the_first_wrote_until_a_setting_changes(lm_folder: Path, tmp_path: Path) -> None:
    teach(lm_folder).run(place(tmp_path))
    path = tmp_path / "d.safetensors"
    first = path.stat().st_mtime_ns
    teach(lm_folder).run(place(tmp_path))
    assert path.stat().st_mtime_ns == first
    teach(lm_folder, seed=2).run(place(tmp_path))
    assert path.stat().st_mtime_ns != first


def test_equal_seeds_teach_equal_numbers_and_more_goes_onto_a_delta(lm_folder: Path, tmp_path: Path) -> None:
    one, two = (teach(lm_folder, file=f"{name}.safetensors").run(place(tmp_path)) for name in "ab")
    a, b = (file.load(Path(found["delta"])) for found in (one, two))
    assert all(torch.equal(change.dense(), b.tensors[name].dense()) for name, change in a.tensors.items())
    further = teach(lm_folder, file="c.safetensors", onto="out:a.safetensors", peak=1e-9).run(place(tmp_path))
    c = file.load(Path(further["delta"]))
    assert (c - a).norm() < 1e-3 * a.norm()


def compare(lm_folder: Path, **settings: Any) -> Compare:
    given = {
        "kind": "compare", "model": str(lm_folder), "deltas": {"d": "out:d.safetensors", "twice": {"d": 2.0}},
        "subjects": {"before": {}, "after": {"d": "scale"}, "double": {"twice": 1}}, "scales": [0.5, 1.0], "texts": 3,
        "probes": [{"axis": "reliability", "course": "german", "most": 4}, {"axis": "locality", "course": "facts", "most": 4}],
    }  # fmt: skip
    return Compare.model_validate(given | settings)


def test_a_comparison_writes_its_report_and_picture(lm_folder: Path, tmp_path: Path) -> None:
    teach(lm_folder).run(place(tmp_path))
    before = load_text(lm_folder).fingerprint()
    found = compare(lm_folder).run(place(tmp_path))
    assert set(found["chosen scales"]) == {"after"} and found["chosen scales"]["after"] in {0.5, 1.0}
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [subject["subject"] for subject in report["subjects"]] == ["before", "after", "double"]
    assert len(report["curves"][0]["series"]["locality"]) == 3
    assert (tmp_path / "report" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert load_text(lm_folder).fingerprint() == before


def test_a_folder_of_a_tuned_model_is_a_delta_too(lm_folder: Path, tmp_path: Path) -> None:
    model = load_text(lm_folder)
    with torch.no_grad():
        model.module.lm_head.weight.add_(0.01)
    model.save(tmp_path / "tuned")
    found = compare(lm_folder, deltas={"d": "out:tuned"}, subjects={"before": {}, "after": {"d": 1}}).run(place(tmp_path))
    assert found["chosen scales"] == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subjects": {"a": {"x": 1}}}, "names the delta 'x'"),
        ({"subjects": {"a": {"d": "scale"}}}, "has no scale to search"),
        ({"subjects": {"a": {}, "b": {"d": "big"}}}, "scale"),
    ],
)
def test_a_wrong_comparison_is_refused(lm_folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(lm_folder, **settings)


def test_a_sum_names_deltas_that_stand_before_it(lm_folder: Path, tmp_path: Path) -> None:
    teach(lm_folder).run(place(tmp_path))
    with pytest.raises(InputError, match="'later', which does not stand before it"):
        compare(lm_folder, deltas={"d": {"later": 1.0}, "twice": {"d": 1.0}, "later": "out:d.safetensors"}).run(place(tmp_path))


def verdict(reliability: float, locality: float) -> Verdict:
    def outcome(axis: Any, share: float) -> Outcome:
        answers = tuple(Answer(None, "", number < round(100 * share)) for number in range(100))  # type: ignore[arg-type]
        return Outcome(Probe(axis, axis, ()), answers)

    return Verdict("", (outcome("reliability", reliability), outcome("locality", locality)), None)


def test_the_best_scale_keeps_locality() -> None:
    trials = {0.0: verdict(0.0, 1.0), 0.5: verdict(0.5, 0.99), 1.0: verdict(0.9, 0.96), 1.5: verdict(1.0, 0.5)}
    assert best(trials, 0.95) == 1.0
    assert best(trials, 0.98) == 0.5
    assert best(trials, 0.0) == 1.5
    assert best({0.0: verdict(0.0, 1.0), 1.0: verdict(1.0, 0.2), 2.0: verdict(1.0, 0.1)}, 0.95) == 1.0


def test_the_language_model_is_taught_resumed_and_written(tmp_path: Path) -> None:
    small = {
        "people": 4,
        "landmarks": 3,
        "vocabulary": 400,
        "batch": 4,
        "most": 4,
        "size": {"width": 16, "layers": 1, "inner": 16, "heads": 2},
    }
    EmbeddedLm(kind="embedded-lm", steps=2, **small).run(place(tmp_path))
    found = EmbeddedLm(kind="embedded-lm", steps=4, **small).run(place(tmp_path))
    model = load_text(found["folder"])
    assert model.complete(["Question: Where"], 3) is not None
    assert {"facts", "paraphrases", "reversals", "instructions"} <= {row["set"] for row in model.card["scores"]}


def test_one_step_of_a_recipe() -> None:
    recipe = read(find("embedded"), tiny=True)
    assert list(only(recipe, ("lm",)).steps) == ["lm"] and only(recipe, ()) is recipe
    with pytest.raises(InputError, match="no step 'lmm'; did you mean 'lm'"):
        only(recipe, ("lmm",))


@pytest.mark.parametrize("name", ["chat_vector", "task_analogy", "unlearn_by_negation"])
def test_the_recipes_of_deltas_run(name: str, lm_folder: Path, tmp_path: Path) -> None:
    from asrlife.recipe.run import run

    recipe = read(find(name), tiny=True, changes=[f"model={lm_folder}"])
    steps = run(recipe, tmp_path, bar)["steps"]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    compare = recipe.steps["compare"]
    assert isinstance(compare, Compare) and [subject["subject"] for subject in report["subjects"]] == list(compare.subjects)
    assert {row["axis"] for row in report["subjects"][0]["probes"]} >= {"reliability", "locality"}
    assert (tmp_path / "report" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert set(steps["compare"]["chosen scales"]) == {
        label for label, terms in compare.subjects.items() if {*terms.values()} & {"scale", "-scale"}
    }
    assert all(steps[step]["norm"] > 0 for step in recipe.steps if step != "compare")
