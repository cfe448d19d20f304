from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest

from asrlife.errors import InputError
from asrlife.evaluate.entities import entity_recall
from asrlife.text.entity import Entity
from asrlife.text.grammar import Grammar


def drug(text: str, start: int, end: int, label: str = "drug") -> Entity:
    return Entity(label, text, start, end)


SAID = [
    ("start warfarin five milligrams", [drug("warfarin", 1, 2), drug("five milligrams", 2, 4, "dose")]),
    ("stop insulin glargine and warfarin", [drug("insulin glargine", 1, 3), drug("warfarin", 4, 5)]),
    ("give insulin now", [drug("insulin", 1, 2)]),
    ("no drugs today", []),
]


def test_a_worked_example() -> None:
    heard = [
        "start warfarin 5 milligrams",  # both: "5" is "five"
        "stop insulin glorious and warfarin",  # warfarin alone; "insulin" was not said here: one false insertion
        "give insulin glargine now",  # the longer drug: insulin is missed, insulin glargine inserted
        "warfarin drugs today",  # one false insertion
    ]
    found = entity_recall(SAID, heard)
    assert (found.overall.said, found.overall.recalled, found.overall.false) == (5, 3, 3)
    assert found.overall.value == pytest.approx(3 / 5)
    assert {label: (one.said, one.recalled, one.false) for label, one in found.labels.items()} == {"dose": (1, 1, 0), "drug": (4, 2, 3)}
    assert found.missed == (("insulin", 1), ("insulin glargine", 1))
    assert found.inserted == (("insulin", 1), ("insulin glargine", 1), ("warfarin", 1))
    assert 0 <= found.overall.low <= found.overall.value <= found.overall.high <= 1
    assert found.to_json()["recall"] == pytest.approx(0.6) and found.to_json()["labels"]["dose"]["recall"] == 1


def test_words_said_are_all_recalled_and_nothing_is_recalled_from_silence() -> None:
    perfect = entity_recall(SAID, [text for text, _ in SAID])
    assert (perfect.overall.value, perfect.overall.false, perfect.overall.low, perfect.missed) == (1, 0, 1, ())
    silent = entity_recall(SAID, [""] * 4)
    assert (silent.overall.value, silent.overall.false, silent.overall.high) == (0, 0, 0)


def test_a_name_counts_as_often_as_it_is_said() -> None:
    said = [("call anna and anna", [drug("anna", 1, 2, "contact"), drug("anna", 3, 4, "contact")])]
    once, thrice = (entity_recall(said, [text]).overall for text in ("call anna", "anna anna call anna"))
    assert (once.recalled, once.false) == (1, 0) and (thrice.recalled, thrice.false) == (2, 1)


def test_a_phrase_that_was_said_but_not_marked_is_no_insertion() -> None:
    said = [("rest is not respect", [drug("respect", 3, 4, "song")]), ("play rest", [drug("rest", 1, 2, "song")])]
    found = entity_recall(said, ["rest is not respect", "play rest"])
    assert (found.overall.recalled, found.overall.false) == (2, 0)


def test_numbers_that_run_together_are_compared_as_words() -> None:
    said = [("take one five milligram tablet", [drug("five milligram", 2, 4, "dose")])]  # normalised: take 15 milligram
    assert entity_recall(said, ["take one five milligram tablet"]).overall.value == 1
    assert entity_recall(said, ["take one four milligram tablet"]).overall.value == 0


def test_case_and_punctuation_do_not_count() -> None:
    said = [("Give Warfarin, please.", [drug("Warfarin,", 1, 2)])]
    assert entity_recall(said, ["give warfarin please"]).overall.value == 1


def test_whatever_a_grammar_drafts_is_recalled_whole_from_itself_and_in_part_from_a_part() -> None:
    grammar = Grammar.read(Path(__file__).parents[2] / "recipes" / "medical_dictation" / "grammar.yaml")
    drafts = list(islice(grammar.drafts(3), 150))
    said = [(draft.text, draft.entities) for draft in drafts]
    assert entity_recall(said, [draft.text for draft in drafts]).overall.value == 1
    rng = random.Random(0)
    spoilt = [" ".join(word if rng.random() < 0.7 else "mm" for word in draft.text.split()) for draft in drafts]
    partly = entity_recall(said, spoilt).overall
    assert 0.3 < partly.value < 0.9 and partly.low < partly.value < partly.high


@pytest.mark.parametrize(
    ("said", "heard", "message"),
    [
        (SAID, ["a"], "4 references and 1 hypotheses"),
        ([("nothing marked", [])], ["x"], "mark no entities"),
        ([("a b", [drug("b", 1, 3)])], ["x"], "entity 'b' is words 1 to 3 of 2"),
        ([("a b", [drug("b", 2, 2)])], ["x"], "entity 'b' is words 2 to 2 of 2"),
        ([("a ... b", [drug("...", 1, 2)])], ["x"], "has no words once normalised"),
    ],
)
def test_marks_that_cannot_be_scored_are_refused(said: list[tuple[str, list[Entity]]], heard: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        entity_recall(said, heard)


def test_the_interval_draws_utterances() -> None:
    said = [("call anna", [drug("anna", 1, 2)])] * 100
    found = entity_recall(said, ["call anna", "call hannah"] * 50, samples=2000).overall
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02) and found.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
