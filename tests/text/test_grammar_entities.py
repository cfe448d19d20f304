from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from asrlife.errors import InputError
from asrlife.text.entity import Entity
from asrlife.text.grammar import Drafted, Grammar

GRAMMAR = """
families: {order: 1}
sentences: {order: ["{polite}give {drug} {dose}", "{drug}'s effect"]}
slots: {polite: ["please "], drug: ["insulin {kind}"], kind: [glargine], dose: ["{n} units"], n: [six]}
entities: {drug: [drug, kind], dose: [dose]}
"""
RECIPES = Path(__file__).parents[2] / "recipes"


def read(folder: Path, text: str) -> Grammar:
    (folder / "g.yaml").write_text(text)
    return Grammar.read(folder / "g.yaml")


def test_the_words_of_a_slot_are_an_entity_and_the_outermost_slot_counts(tmp_path: Path) -> None:
    drafts = {draft.text: draft for draft in read(tmp_path, GRAMMAR).drafts(0)}
    assert drafts["please give insulin glargine six units"] == Drafted(
        "please give insulin glargine six units", "order", (Entity("drug", "insulin glargine", 2, 4), Entity("dose", "six units", 4, 6))
    )
    assert drafts["insulin glargine's effect"].entities == (Entity("drug", "insulin glargine", 0, 2),)  # its last word has more to it


@pytest.mark.parametrize("name", ["medical_dictation", "voice_assistant"])
def test_the_worked_grammars_say_2000_sentences_with_entities_where_they_are_marked(name: str) -> None:
    grammar = Grammar.read(RECIPES / name / "grammar.yaml")
    drafts = list(islice(grammar.drafts(0), 2000))
    assert len({draft.text for draft in drafts}) == 2000
    assert drafts == list(islice(grammar.drafts(0), 2000)) and drafts != list(islice(grammar.drafts(1), 2000))
    marked = [(draft, entity) for draft in drafts for entity in draft.entities]
    assert {entity.label for _, entity in marked} == set(grammar.entities)
    assert all(" ".join(draft.text.split()[entity.start : entity.end]) == entity.text for draft, entity in marked)
    assert sum(bool(draft.entities) for draft in drafts) > 1500
    assert max(len(draft.text) for draft in drafts) <= 120
    assert set("".join(draft.text for draft in drafts).lower()) <= set("abcdefghijklmnopqrstuvwxyz' ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{drug} {dose}", "{drgu} {dose}"), r"'order' uses the slot \{drgu\}, which is not there"),
        (("kind: [glargine]", "kind: ['{drug}']"), "the slot 'drug' holds itself .drug > kind > drug."),
        (("kind: [glargine]", "kind: []"), "'kind' is an empty list"),
        (("order: 1}", "order: 0}"), "the share of the family 'order' is 0.0, it must be above 0"),
        (("order: 1}", "order: 1, digits: 1}"), "the family 'digits' has nothing to say"),
        (("families: {order: 1}", "families: {}"), "there are no families"),
        (("drug: [drug, kind]", "drug: [drugs]"), "entity 'drug' names the slot 'drugs', which is not there"),
        (("n: [six]", "n: [on, 6]"), "slots.n.0 is True, not text: YAML reads on, off, yes, no and numbers so; put it in quotes"),
        (("families", "familes"), "unknown key 'familes'; known: families, sentences"),
        ((GRAMMAR, "just text"), "g.yaml: "),
        ((GRAMMAR, "a: [b"), "not YAML"),
    ],
)
def test_a_grammar_that_cannot_work_says_where(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, GRAMMAR.replace(*change))


def test_a_family_or_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the grammar has no family 'orders'; known: order"):
        next(read(tmp_path, GRAMMAR).drafts(0, "orders"))
    with pytest.raises(InputError, match="cannot be read"):
        Grammar.read(tmp_path / "gone.yaml")
