from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asrlife.delta import file
from asrlife.delta.weights import applied
from asrlife.errors import InputError
from asrlife.models.text import TextModel, load_text
from asrlife.recipe.edit_facts.make import prompters
from asrlife.recipe.edit_facts.one import EditOne
from asrlife.recipe.edit_facts.sequence import EditSequence
from asrlife.recipe.edit_facts.single import EditFacts
from asrlife.recipe.recipe import find, read
from asrlife.recipe.registry import Place

QUICK = {"layers": [0], "search.steps": 12, "told": 2}


@contextmanager
def bar(task: str, total: int | None) -> Iterator[Callable[[], None]]:
    yield lambda: None


def place(folder: Path) -> Place:
    return Place(folder, folder, bar)


@pytest.fixture(scope="module")
def model() -> TextModel:
    return load_text("embedded:lm")


def test_the_space_needle_goes_to_taipei_and_its_country_follows(tmp_path: Path, model: TextModel) -> None:
    given = find("edit_facts")
    steps = {name: step for name, step in read(given).steps.items() if isinstance(step, EditOne)}
    step = steps["needle"].model_copy(update={"editors": {"rome": {}}})
    found = step.run(place(tmp_path))
    country = found["said"]["Question: In which country does the Space Needle stand? Answer:"]
    assert country["not edited"].startswith("America") and country["rome"].startswith("Taiwan")
    assert set(found["said"][step.prompt]) == {"not edited", "in context", "rome"} and found["layers"] == {"rome": [0]}
    delta = file.load(tmp_path / "one" / "rome.safetensors")
    with applied(model.module, delta):
        assert model.complete(["The Space Needle stands in"])[0].strip().startswith("Taipei")
    assert model.complete(["The Space Needle stands in"])[0].strip().startswith("Seattle")
    assert "Taiwan" in (tmp_path / "one" / "report.html").read_text("utf-8")


def single(**settings: Any) -> EditFacts:
    given = {"kind": "edit-facts", "edits": 3, "seeds": [0], "split": "edit_dev", "editors": {"rome": QUICK, "memit": QUICK}}
    return EditFacts.model_validate(given | settings)


def test_facts_are_edited_alone_and_judged_beside_the_model_and_in_context(tmp_path: Path, model: TextModel) -> None:
    before = model.fingerprint()
    single(phrasings=1).run(place(tmp_path))
    report = json.loads((tmp_path / "single" / "report.json").read_text("utf-8"))
    named = {s["subject"]: {p["probe"]: p for p in s["probes"]} for s in report["subjects"]}
    assert list(named) == ["not edited", "in context", "ike", "rome", "memit"]
    assert named["not edited"]["the edit"]["value"] == 0.0 and named["not edited"]["neighbours"]["value"] > 0.9
    assert named["in context"]["the edit"]["value"] > 0.3 and named["in context"]["reversal"]["value"] > 0.3
    assert named["rome"]["the edit"]["value"] > 0.6 and named["rome"]["unrelated facts"]["value"] > 0.8
    assert all("forced" in probe and probe["low"] <= probe["value"] <= probe["high"] for probe in named["rome"].values())
    assert all(subject["perplexity"] > 1 for subject in report["subjects"])
    assert (tmp_path / "single" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert report["tables"][0]["rows"][-1][1] == "perplexity"
    assert [table["title"] for table in report["tables"]] == [
        "Free-running answers, right in per cent",
        "Teacher-forced, which flatters, right in per cent",
    ]
    assert load_text("embedded:lm").fingerprint() == before


def test_what_was_judged_is_not_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = single(edits=2, editors={"rome": QUICK}).run(place(tmp_path))["comparison"]

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr("asrlife.evaluate.editing.judge", never)
    assert single(edits=2, editors={"rome": QUICK}).run(place(tmp_path))["comparison"] == first
    with pytest.raises(AssertionError, match="asked again"):
        single(edits=2, editors={"rome": QUICK | {"told": 1}}).run(place(tmp_path))


def sequence(**settings: Any) -> EditSequence:
    given = {"kind": "edit-sequence", "edits": 3, "at": [1, 3], "asked": 4, "editors": {"alphaedit": QUICK}}
    return EditSequence.model_validate(given | settings)


def test_edits_after_each_other_are_judged_on_the_way_and_kept(tmp_path: Path) -> None:
    found = sequence().run(place(tmp_path))
    (points,) = found["curves"]["alphaedit"]
    assert [point["edits"] for point in points] == [0, 1, 3]
    assert "the edit" not in points[0] and points[1]["the edit"]["value"] == 1.0
    assert points[0]["neighbours"]["value"] > 0.9 and all(point["perplexity"] > 1 for point in points)
    kept = tmp_path / "sequence" / "alphaedit-0.json"
    first = kept.stat().st_mtime_ns
    assert sequence().run(place(tmp_path))["curves"] == found["curves"] and kept.stat().st_mtime_ns == first
    sequence(asked=2).run(place(tmp_path))
    assert kept.stat().st_mtime_ns != first and (tmp_path / "sequence" / "sequence.png").is_file()


def test_what_cannot_be_done_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at: 9 edits are asked about and there are 3"):
        sequence(at=[9]).run(place(tmp_path))
    with pytest.raises(InputError, match="no editor 'rom'; did you mean 'rome'"):
        single(editors={"rom": {}}).run(place(tmp_path))
    with pytest.raises(InputError, match="rome.search: unknown setting 'rat'; did you mean 'rate'"):
        single(editors={"rome": {"search.rat": 1}}).run(place(tmp_path))


def test_demonstrations_are_as_many_as_the_network_has_places_for(model: TextModel) -> None:
    from asrlife.data.world.edits import cases
    from asrlife.data.world.facts import make

    shown = [case.demonstration() for case in cases(make(0), make(0).split("edit_dev")[:12])]
    found = prompters(model, "Suppose: {premise} {rest}", shown)
    assert list(found) == ["in context", "ike"]
    prompt = found["ike"].asked(shown[0], shown[0].prompt)
    assert prompt.count("Suppose: ") >= 2 and len(model.ids(prompt)) <= model.places and shown[0].target in prompt
    assert list(prompters(model, "Suppose: {premise} {rest}", shown[:1])) == ["in context"]
    assert list(prompters(model, "Suppose: {premise} {rest}", ())) == ["in context"]
