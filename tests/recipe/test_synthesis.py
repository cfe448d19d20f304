from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from asrlife.errors import InputError
from asrlife.recipe.registry import Place
from asrlife.recipe.schema import parse
from asrlife.recipe.synthesis import Synthesize

GRAMMAR = "families: {a: 1}\nsentences: {a: ['give {drug} now']}\nslots: {drug: [aspirin, warfarin]}\nentities: {drug: [drug]}\n"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "g.yaml").write_text(GRAMMAR)
    (tmp_path / "t.txt").write_text("take 5 mg\n\ntake 5 mg\nlie down\n")
    return Place(tmp_path, tmp_path / "out", lambda _, __: nullcontext(lambda: None))


def step(**settings: object) -> Synthesize:
    return parse(Synthesize, {"kind": "synthesize", **settings}, "recipe.yaml")


def test_a_grammar_is_read_aloud_with_its_entities(place: Place) -> None:
    found = step(grammar="recipe:g.yaml", sentences=2, clips=2, voices=["en-us+f[12]"]).run(place)
    rows = [json.loads(line) for line in Path(found["manifest"]).read_text().splitlines()]
    assert found["utterances"] == 4 and {row["speaker"] for row in rows} == {"en-us+f1", "en-us+f2"}
    assert all(row["entities"][0]["text"] in ("aspirin", "warfarin") for row in rows)


def test_a_text_is_prepared_and_accounted_for(place: Place) -> None:
    found = step(text="recipe:t.txt", sentences=5).run(place)
    assert found["text"] == {"lines": 4, "used": 1, "changed": 1, "left out": 2, "sentences": 2} and found["utterances"] == 2
    assert (place.out / "speech" / "lines.json").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "t", "voices": ["command:rm {out}"]}, "a recipe starts no programs"),
        ({"text": "t", "grammar": "g"}, "give either grammar: FILE or text: FILE"),
        ({"text": "t", "family": "a"}, "family belongs to a grammar"),
        ({"text": "t", "clip": 2}, "unknown key 'clip'; did you mean 'clips'"),
        ({"text": "t", "clips": 0}, "clips"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        step(**settings)


def test_a_family_that_is_not_there(place: Place) -> None:
    with pytest.raises(InputError, match="the grammar has no family 'b'; known: a"):
        step(grammar="recipe:g.yaml", family="b").run(place)
