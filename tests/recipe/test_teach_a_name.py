from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrlife.audio.speak import speak
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.models.load import load
from asrlife.recipe.recipe import find, read
from asrlife.recipe.registry import Place
from asrlife.recipe.schema import parse
from asrlife.recipe.teach_a_name.cast import Cast, Trial, trial
from asrlife.recipe.teach_a_name.ears import closeness, heard, prepared, written
from asrlife.recipe.teach_a_name.judge import Outcome, Verdict, best, cost, gain
from asrlife.recipe.teach_a_name.said import everyday, spoken
from asrlife.recipe.teach_a_name.step import TeachAName
from asrlife.recipe.teach_a_name.ways import Way

CAST = {
    "names": {"zoe": ["zone"], "phoebe": ["fever"]}, "dev": ["zoe"], "taught": ["call {name}", "ask {name}"], "other": ["{name} is here"],
    "voices": ["en-us+f3", "en-us+m3", "en-gb-x-rp+f2"], "tests": ["en-us+f4", "en-us+m7"], "takes": 2,
}  # fmt: skip


def cast(**changes: Any) -> Cast:
    return Cast(**(CAST | changes))


@pytest.mark.parametrize(
    ("name", "text", "found", "near"),
    [
        ("phoebe", "call phoebe now", True, 1.0),
        ("phoebe", "call phoebes now", False, 1.0),
        ("phoebe", "call feebe now", False, 1 / 2),
        ("zoe", "", False, 0.0),
    ],
)
def test_a_name_is_written_or_nearly_so(name: str, text: str, found: bool, near: float) -> None:
    assert written(name, text) == found and closeness(name, text) == pytest.approx(near)


def sound(one: Trial) -> np.ndarray:
    return np.concatenate([each.waveform().samples for each in one.taught])


def test_a_trial_is_the_same_for_one_seed_and_shares_no_voice_or_sentence_with_its_test() -> None:
    one, same, other = (trial(cast(), "zoe", seed) for seed in (1, 1, 2))
    assert np.array_equal(sound(one), sound(same)) and not np.array_equal(sound(one), sound(other))
    assert len(one.taught) == 2 and len({u.speaker for u in one.taught}) == 2 and len({u.text for u in one.taught}) == 2
    assert {u.text for u in one.other} == {"zoe is here"} and {u.text for u in one.alike} == {"zone is here"}
    assert not {u.speaker for u in one.taught} & {u.speaker for u in (*one.other, *one.alike)}


def test_what_a_voice_reads_may_differ_from_what_is_written() -> None:
    (plain,), (said,) = spoken(["call zoe"], ["en-us+f3"]), spoken(["call zoe"], ["en-us+f3"], "zoe", "zoo")
    assert plain.text == said.text == "call zoe" and not np.array_equal(plain.waveform().samples, said.waveform().samples)


@pytest.mark.parametrize("kind", ["ctc", "whisper"])
def test_what_is_kept_of_the_sound_changes_nothing(kind: str, ctc_folder: Callable[..., Path], whisper_folder: Path) -> None:
    model = load(ctc_folder() if kind == "ctc" else whisper_folder)
    some = [Utterance(text, speak(text, "en-us+f3"), text) for text in ("a bed", "call me", "now", "a cab")]
    assert heard(model, prepared(model, some, ["lm_head.weight"])) == [one.text for one in model.transcribe([u.waveform() for u in some])]


def outcome(name: str, taught: str, other: str, rest: str) -> Outcome:
    def said(text: str) -> tuple[Utterance, ...]:
        return (Utterance(text, speak("a", "en-us"), text),)

    one = Trial(name, 1, said(f"call {name}"), said(f"{name} is here"), said("zone is here"))
    return Outcome(one, {"taught": [taught], "other": [other], "alike": ["zoe is here"], "rest": [rest]}, ["turn on the light"])


BEFORE = outcome("zoe", "call soy", "soy is here", "turn on the light")
GOOD = outcome("zoe", "call zoe", "zoe is here", "turn on the light")
HARMFUL = outcome("zoe", "call zoe", "zoe is here", "zoe on the light")
TIMID = outcome("zoe", "call soe", "soy is here", "turn on the light")


def test_figures_count_what_was_written_and_what_should_not_have_been() -> None:
    found = Verdict("x", (GOOD, HARMFUL), (BEFORE, BEFORE)).figures()
    assert found["taught: name written"].value == 1.0 and found["taught: name written"].n == 2
    assert found["rest: false insertions"].value == 0.5 and found["alike: false insertions"].value == 1.0
    assert found["rest: WER"].value == 1 / 8 and found["rest: WER"].n == 8 and found["rest: WER"].change == (1 / 8, 0.0, 1 / 4)
    assert found["other: name written"].change == (1.0, 1.0, 1.0)


def test_settings_are_those_that_gain_most_of_those_that_cost_little() -> None:
    tried = [Verdict("x", (one,), (BEFORE,)) for one in (TIMID, HARMFUL, GOOD)]
    assert [cost(verdict) for verdict in tried] == [0.0, 0.25, 0.0] and gain(tried[2]) == gain(tried[1]) == 1.0 > gain(tried[0])
    assert best(tried, 0.02) == 2 and best(tried[:2], 0.02) == 0 and best(tried[1:2], 0.02) == 0
    with pytest.raises(InputError, match="x: 0 trials beside 1"):
        Verdict("x", (), (BEFORE,))


def test_a_way_is_an_edit_or_fine_tuning() -> None:
    assert list(Way(edit={"where": "mlp"}, search={"ridge": (1, 2)}).candidates()) == [
        {"where": "mlp", "ridge": 1},
        {"where": "mlp", "ridge": 2},
    ]
    with pytest.raises(InputError, match="w: give either edit: or tune:"):
        parse(Way, {"edit": {}, "tune": {}}, "w")


def test_everyday_sentences_share_families() -> None:
    assert len(everyday(3)) == 3 and len({one.text for one in everyday(4)}) == 4


@contextmanager
def bar(task: str, total: int | None) -> Iterator[Callable[[], None]]:
    yield lambda: None


def test_the_step_writes_figures_and_a_picture(ctc_folder: Callable[..., Path], tmp_path: Path) -> None:
    model = ctc_folder()
    before = load(model).fingerprint()
    ways = {"edit": Way(edit={"ridge": 1.0}), "tune": Way(tune={"steps": 1, "batch_seconds": 8})}
    step = TeachAName(kind="teach-a-name", cast=cast(), ways=ways, model=str(model), seeds=(1, 2), speech=4, rest=2)
    found = step.run(Place(tmp_path, tmp_path, bar))
    report = json.loads(Path(found["report"]).read_text("utf-8"))
    assert [way["way"] for way in report["ways"]] == ["unedited", "edit", "tune"] and report["ways"][1]["edits"] == 2
    assert {row["name"] for row in report["ways"][1]["trials"]} == {"phoebe"} and report["chosen"]["edit"] == {"ridge": 1.0}
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG") and load(model).fingerprint() == before


def test_the_recipe_keeps_names_that_are_reported_from_those_that_choose() -> None:
    for step in read(find("teach_a_name")).steps.values():
        assert isinstance(step, TeachAName)
        assert len(step.cast.reported()) >= 5 and not set(step.cast.reported()) & set(step.cast.dev)
        assert not set(step.cast.voices) & set(step.cast.tests) and not set(step.cast.taught) & set(step.cast.other)


def test_a_development_name_is_one_of_the_names() -> None:
    with pytest.raises(InputError, match="the development name 'eve' is not among the names"):
        parse(TeachAName, {"kind": "teach-a-name", "cast": CAST | {"dev": ["eve"]}, "ways": {"e": {"edit": {}}}}, "s")
