from __future__ import annotations

import random
from pathlib import Path

import pytest

from asrlife.errors import InputError
from asrlife.text.grammar import Grammar

GRAMMAR = """
families: {command: 3, digits: 1, invented: 1}
sentences: {command: ["turn {place} light {state}", "is the {place} light {state}"]}
slots: {place: [kitchen, hall], state: ["on", "off"], digit: [zero, one]}
words: apple pear
"""


@pytest.fixture
def grammar(tmp_path: Path) -> Grammar:
    (tmp_path / "g.yaml").write_text(GRAMMAR)
    return Grammar.read(tmp_path / "g.yaml")


def test_a_family_is_exhausted_without_repeats(grammar: Grammar) -> None:
    sentences = list(grammar.stream(0, "command"))
    assert len(sentences) == len(set(sentences)) == 8
    assert "turn kitchen light off" in sentences


def test_samples_depend_on_the_seed_alone_and_fill_every_slot(grammar: Grammar) -> None:
    rows = [[grammar.sample(rng) for _ in range(50)] for rng in (random.Random(4), random.Random(4))]
    assert rows[0] == rows[1]
    assert not any("{" in sentence for sentence in rows[0])


def test_the_vocabulary_is_what_it_can_say(grammar: Grammar) -> None:
    words = {w for s in grammar.stream(1, "command") for w in s.split()}
    assert words < grammar.vocabulary()
    assert {"apple", "zero"} < grammar.vocabulary()


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRAMMAR + "familes: {}\n")
    with pytest.raises(InputError, match="familes"):
        Grammar.read(tmp_path / "g.yaml")
