from __future__ import annotations

import json
from pathlib import Path

import pytest

GRAMMAR = """
families: {order: 1, other: 1}
sentences: {order: ["give {drug} now"], other: ["nothing to give"]}
slots: {drug: [warfarin, aspirin, insulin glargine]}
entities: {drug: [drug]}
"""


@pytest.fixture
def grammar(tmp_path: Path) -> Path:
    (tmp_path / "g.yaml").write_text(GRAMMAR)
    return tmp_path / "g.yaml"


def test_sentences_are_distinct_and_depend_on_the_seed(asrlife, grammar: Path) -> None:
    first, again, other = (asrlife("texts", grammar, "--count", 3, "--seed", seed).out for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first.splitlines())) == 3


def test_entities_are_told_with_their_places(asrlife, grammar: Path, tmp_path: Path) -> None:
    document = asrlife("texts", grammar, "--count", 3, "--family", "order", "--json").json()
    longest = max(document["sentences"], key=lambda sentence: len(sentence["text"]))
    entity = {"label": "drug", "text": "insulin glargine", "start": 1, "end": 3}
    assert longest == {"text": "give insulin glargine now", "family": "order", "entities": [entity]}
    out = tmp_path / "notes.jsonl"
    assert asrlife("texts", grammar, "--count", 3, "--family", "order", "--out", out).out == f"{out}\n"
    assert [json.loads(line) for line in out.read_text().splitlines()] == document["sentences"]


def test_what_texts_writes_is_read_aloud_with_its_entities(asrlife, grammar: Path, tmp_path: Path) -> None:
    asrlife("texts", grammar, "--count", 2, "--family", "order", "--out", tmp_path / "n.jsonl")
    asrlife("synthesize", tmp_path / "n.jsonl", tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "transcripts.jsonl").read_text().splitlines()]
    assert all(row["entities"][0]["label"] == "drug" and row["entities"][0]["text"] in row["text"] for row in rows) and len(rows) == 2


def test_a_plain_file_has_a_sentence_a_line(asrlife, grammar: Path, tmp_path: Path) -> None:
    asrlife("texts", grammar, "--count", 4, "--out", tmp_path / "notes.txt")
    assert len((tmp_path / "notes.txt").read_text().splitlines()) == 4


def test_a_grammar_that_has_no_more_says_so(asrlife, grammar: Path) -> None:
    ended = asrlife("texts", grammar, "--count", 50)
    assert ended.code == 0 and len(ended.out.splitlines()) == 4
    assert "the grammar seems to have 4 sentences and no more" in ended.err


def test_the_grammar_of_a_recipe_has_its_name(asrlife) -> None:
    assert len(asrlife("texts", "voice_assistant", "--count", 5).out.splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.yaml"], "gone.yaml: cannot be read"),
        (["GRAMMAR", "--family", "orders"], "the grammar has no family 'orders'; known: order, other"),
        (["GRAMMAR", "--count", "0"], "Invalid value for '--count'"),
    ],
)
def test_bad_input_is_one_line(asrlife, grammar: Path, arguments: list[str], message: str) -> None:
    ended = asrlife("texts", *(grammar if argument == "GRAMMAR" else argument for argument in arguments))
    assert (ended.code, ended.out) == (2, "") and message in ended.err and ended.err.count("\n") == 1


def test_voices_are_listed(asrlife) -> None:
    engines = {engine["engine"]: engine for engine in asrlife("info", "voices", "--json").json()["engines"]}
    assert list(engines) == ["espeak", "flite", "festival", "command", "speecht5", "bark"]
    assert "en-gb-scotland" in engines["espeak"]["voices"] and "f3" in engines["espeak"]["variants"]
    assert engines["espeak"]["missing"] == "" and not engines["bark"]["prosody"]
    shown = asrlife("info", "voices").out
    assert "en-gb-scotland" in shown and "command:PROGRAM" in shown
