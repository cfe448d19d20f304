"""Cases of edits: what is asked about a fact that has moved, and what is not."""

from __future__ import annotations

from itertools import chain

import pytest

from asrlife.data.world.edits import ALIKE, OWN, TOLD, UNRELATED, Case, cases
from asrlife.data.world.facts import Fact, World, make
from asrlife.data.world.forms import forward, hops, paraphrases

WORLD = make(0)
FACTS = WORLD.split("edit_dev")
CASES = cases(WORLD, FACTS)
PAIRS = list(zip(FACTS, CASES, strict=True))


def moved(fact: Fact, case: Case) -> tuple[World, Fact]:
    """The world after the edit, and the new fact."""
    return WORLD.moved(fact, case.request.target), Fact(fact.subject, fact.relation, case.request.target)


def told(case: Case) -> tuple[object, ...]:
    return (case.request, *case.asked.items())


def test_a_request_gives_a_fact_another_object_in_a_form_that_training_saw() -> None:
    for fact, case in PAIRS:
        new = moved(fact, case)[1]
        assert (case.request.subject, case.request.truth) == (fact.subject, fact.object) and new.object != fact.object
        assert case.request.prompt in {question.prompt for question in forward(new)} and case.request.phrasings == ()
        assert [(q.prompt, q.answers) for q in case.asked["the edit"]] == [(case.request.prompt, (new.object,))]
    assert len({case.request.prompt.replace(case.request.subject, "") for case in CASES}) > 20  # 41 facts, in forms of their own


@pytest.mark.parametrize("phrasings", [0, 2, 99])
def test_no_edit_is_made_from_a_form_that_is_asked_of_it_as_another(phrasings: int) -> None:
    for fact, case in zip(FACTS, cases(WORLD, FACTS, phrasings), strict=True):
        every = {question.prompt for question in forward(fact)}
        assert len(set(case.request.prompts)) == min(phrasings + 1, len(every)) and set(case.request.prompts) <= every
        asked = [question.prompt for name in ("other forms", "paraphrases") for question in case.asked.get(name, ())]
        assert not set(asked) & set(case.request.prompts) and ("other forms" in case.asked) == (phrasings < len(every) - 1)
        assert [q.prompt for q in case.asked["paraphrases"]] == [q.prompt for q in paraphrases(fact)]
        assert not every & {question.prompt for question in case.asked["paraphrases"]}


def test_of_hops_only_those_that_change_are_asked_with_answers_of_the_moved_world() -> None:
    unchanged = 0
    for fact, case in PAIRS:
        world, new = moved(fact, case)
        asked = {q.prompt: q.answers for name in ("one hop", "two hops") for q in case.asked.get(name, ())}
        before, after = ({q.prompt: q.answers for q in hops(of, which)} for of, which in ((WORLD, fact), (world, new)))
        assert asked == {prompt: answers for prompt, answers in after.items() if before[prompt] != answers}
        unchanged += len(after) - len(asked)
        assert {q.kind for q in case.asked.get("one hop", ())} <= {"one_hop"}
        assert {q.kind for q in case.asked.get("two hops", ())} <= {"two_hop"}
    assert unchanged > 0 and sum("one hop" in case.asked for case in CASES) > 10


def test_a_reversal_asks_for_the_subject_by_its_new_object() -> None:
    for fact, case in PAIRS:
        assert len(case.asked["reversal"]) == 2
        for question in case.asked["reversal"]:
            assert question.answers == (fact.subject,) and fact.subject not in question.prompt
            assert case.request.target in question.prompt


def test_what_should_stay_is_asked_of_other_facts_with_answers_of_this_world() -> None:
    for fact, case in PAIRS:
        world, _ = moved(fact, case)
        stays = ("neighbours", "the subject's other facts", "unrelated facts")
        for question in chain.from_iterable(case.asked.get(name, ()) for name in stays):
            about = question.about
            assert about != fact and question.answers == (WORLD.object(about.subject, about.relation),)
            assert world.object(about.subject, about.relation) == about.object
        assert {q.about.relation for q in case.asked["neighbours"]} == {fact.relation}
        assert all(q.about.subject == fact.subject for q in case.asked["the subject's other facts"])
        assert all(fact.subject != q.about.subject and fact.object != q.about.object for q in case.asked["unrelated facts"])
        assert all(q.about.subject != fact.subject for name in ("instructions", "refusals") for q in case.asked[name])
        wanted = {"the subject's other facts": OWN, "unrelated facts": UNRELATED, "instructions": TOLD, "refusals": TOLD}
        assert all(len(case.asked[name]) == count for name, count in wanted.items()) and 1 <= len(case.asked["neighbours"]) <= ALIKE


def test_neighbours_have_the_old_object_where_others_have_it() -> None:
    alike = [(fact, case) for fact, case in PAIRS if len(WORLD.subjects(fact.relation, fact.object)) > 1]
    assert alike and all({q.about.object for q in case.asked["neighbours"]} == {fact.object} for fact, case in alike)


def test_cases_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert [told(case) for case in cases(make(0), FACTS)] == [told(case) for case in CASES]
    assert [told(case) for case in cases(WORLD, FACTS[3:5])] == [told(case) for case in CASES[3:5]]  # whichever others there are
    other = cases(WORLD, FACTS, seed=1)
    assert sum(one.request.target != two.request.target for one, two in zip(CASES, other, strict=True)) > len(CASES) / 2
    assert sum(one.request.prompt != two.request.prompt for one, two in zip(CASES, other, strict=True)) > len(CASES) / 2
    assert all(one.asked["unrelated facts"] != two.asked["unrelated facts"] for one, two in zip(CASES, other, strict=True))


def test_a_case_has_no_empty_group() -> None:
    assert list(Case(CASES[0].request, {"the edit": CASES[0].asked["the edit"], "one hop": ()}).asked) == ["the edit"]
    assert all(questions for case in CASES for questions in case.asked.values())


def test_a_case_keeps_the_questions_that_are_wanted_and_shows_how_it_is_done() -> None:
    (case,) = cases(WORLD, WORLD.split("edit_dev")[:1])
    kept = case.only(lambda name, about: name == "neighbours" and about.subject != case.request.subject)
    assert set(kept.asked) == {"neighbours"} and kept.asked["neighbours"] == case.asked["neighbours"] and kept.request == case.request
    assert not case.only(lambda *_: False).asked
    shown = case.demonstration()
    assert shown.paraphrases == tuple((question.prompt, case.request.target) for question in case.asked["paraphrases"])
    assert len(shown.neighbours) == len(case.asked["neighbours"]) and shown.prompt == case.request.prompt
