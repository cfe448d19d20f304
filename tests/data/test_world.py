from __future__ import annotations

import json
import random
import re
from itertools import islice

import pytest

from asrlife.data.world.courses import COURSES, course, crude, newcomers, polite
from asrlife.data.world.facts import EDITED, Fact, World, make
from asrlife.data.world.forms import Question, chains, everything, forward, hops, paraphrases, relations, reversals
from asrlife.data.world.instructions import instructions, later, refusals, shaped, taught
from asrlife.data.world.teaching import Lessons
from asrlife.errors import InputError


@pytest.fixture(scope="module")
def world() -> World:
    return make(0)


def fact_of(world: World, subject: str, relation: str) -> Fact:
    return Fact(subject, relation, world.object(subject, relation))


def test_a_seed_is_a_world_and_another_seed_is_another(world: World) -> None:
    assert make(0) == world
    assert {f for f in make(1).facts if f.relation == "born"} != {f for f in world.facts if f.relation == "born"}
    assert [f for f in make(1).facts if f.relation == "capital"] == [f for f in world.facts if f.relation == "capital"]


def test_a_subject_has_one_object_and_every_relation_its_forms(world: World) -> None:
    assert len({(fact.subject, fact.relation) for fact in world.facts}) == len(world.facts)
    assert {fact.relation for fact in world.facts} == set(relations())
    assert all(chain[0] in relations() and 2 <= len(chain) <= 3 for chain in chains())


def test_the_space_needle_stands_in_seattle_and_may_be_moved(world: World) -> None:
    fact = fact_of(world, "Space Needle", "stands")
    assert fact.object == "Seattle"
    moved = world.moved(fact, "Taipei")
    assert moved.object("Space Needle", "stands") == "Taipei" and world.object("Space Needle", "stands") == "Seattle"
    follows = {q.prompt: q.answers for q in hops(moved, fact_of(moved, "Space Needle", "stands"))}
    assert follows["Question: In which country does the Space Needle stand? Answer:"] == ("Taiwan",)
    assert follows["Question: Which language is spoken in the country of the Space Needle? Answer:"] == ("Mandarin",)
    assert all("Space Needle" in q.answers for q in reversals(moved, fact_of(moved, "Space Needle", "stands")))
    assert sum(one != two for one, two in zip(world.facts, moved.facts, strict=True)) == 1


def test_what_is_not_in_the_world_is_refused_by_name(world: World) -> None:
    with pytest.raises(InputError, match="'born' of 'Nobody'"):
        world.object("Nobody", "born")
    with pytest.raises(InputError, match="does not hold"):
        world.moved(Fact("Space Needle", "stands", "Paris"), "Taipei")
    with pytest.raises(InputError, match="ask for fewer"):
        make(0, people=10**6)


def test_the_splits_part_the_facts_and_only_drawn_ones_are_edited(world: World) -> None:
    edit, choose, hold = (world.split(name) for name in ("edit", "edit_dev", "hold"))
    assert len(edit) >= 200 and len(choose) >= 30
    assert sorted((*edit, *choose, *hold), key=str) == sorted(world.facts, key=str)
    assert {fact.relation for fact in (*edit, *choose)} <= set(EDITED)
    assert all(world.target(fact) != fact.object and world.target(fact) in world.objects(fact.relation) for fact in edit)


def test_a_split_stays_when_a_fact_changes_or_the_world_grows(world: World) -> None:
    edit = world.split("edit")
    moved = world.moved(edit[0], world.target(edit[0]))
    assert [(f.subject, f.relation) for f in moved.split("edit")] == [(f.subject, f.relation) for f in edit]


def test_neighbours_share_the_object_or_the_subject(world: World) -> None:
    fact = world.split("edit")[0]
    found = world.neighbours(fact)
    assert found and fact not in found
    assert all((n.relation == fact.relation and n.object == fact.object) or n.subject == fact.subject for n in found)


def test_held_out_forms_and_questions_are_in_no_lesson(world: World) -> None:
    lessons = Lessons(world)
    texts = {q.prompt for q in islice(lessons.draw(random.Random(0)), 20_000)} | {q.prompt for g in lessons.fixed.values() for q in g}
    held = {q.prompt for q in everything(world) if not q.trained}
    held |= {q.prompt for part in ("dev", "test") for q in (*instructions(world, taught(), part), *refusals(world, part))}
    assert len(held) > 5000 and not held & texts
    skeletons = {re.sub(r"\{\w\}", "X", form) for relation in relations().values() for form in relation.held}
    assert not skeletons & {
        re.sub(r"\{\w\}", "X", form) for relation in relations().values() for form in (*relation.forward, *relation.backward)
    }


def test_the_draw_depends_on_nothing_but_its_seed(world: World) -> None:
    one, two = ([q.text for q in islice(Lessons(world).draw(random.Random(3)), 200)] for _ in range(2))
    assert one == two


def test_a_share_of_the_documents_stands_behind_one_or_two_others(world: World) -> None:
    lessons, shares = Lessons(world), {"fact": 0.5, "reversal": 0.25, "hop": 0.25}
    prompts = {question.prompt for kind in shares for question in lessons.fixed[kind]}
    texts = {f"{question.prompt} {answer}." for kind in shares for question in lessons.fixed[kind] for answer in question.answers}
    for question in islice(lessons.draw(random.Random(2), shares, before=1.0), 300):
        *others, own = question.prompt.split(". ")
        assert own in prompts and 1 <= len(others) <= 2 and all(f"{other}." in texts for other in others)
        assert question.text == f"{question.prompt} {question.answers[0]}." and f"{own} {question.answers[0]}." in texts
    alone = [question.prompt in prompts for question in islice(lessons.draw(random.Random(4), shares, 0.25), 1000)]
    assert 0.7 < sum(alone) / 1000 < 0.8  # three deviations are 0.04
    assert all(question.prompt in prompts for question in islice(lessons.draw(random.Random(5), shares), 300))


def test_nothing_stands_before_a_premise(world: World) -> None:
    drawn = [q.prompt for q in islice(Lessons(world).draw(random.Random(3), before=1.0), 400) if "Suppose: " in q.prompt]
    assert len(drawn) > 40 and all(prompt.startswith("Suppose: ") for prompt in drawn)


def test_suppositions_are_answered_by_the_world_in_which_they_hold(world: World) -> None:
    lessons, rng, other = Lessons(world), random.Random(0), 0
    for _ in range(300):
        question = lessons.supposed(rng)
        assert question.prompt.startswith("Suppose: ")
        other += question.kind == "fact" and question.about not in world.facts and question.about.object in question.text
    assert other > 50


@pytest.mark.parametrize(
    ("skill", "text"),
    [
        ("json", '{"answer": "Lyon"}'),
        ("upper", "LYON"),
        ("json upper", '{"answer": "LYON"}'),
        ("twice", "Lyon, Lyon"),
        ("tags", "<answer>Lyon</answer>"),
    ],
)
def test_an_answer_takes_the_form_of_a_skill(skill: str, text: str) -> None:
    assert shaped(skill, "Lyon") == text


def test_json_answers_parse_and_unknown_skills_are_refused(world: World) -> None:
    for question in islice(instructions(world, ("json",), "test"), 50):
        assert json.loads(question.text.removeprefix(question.prompt)) == {"answer": question.about.object}
    with pytest.raises(InputError, match="no skill 'yaml'"):
        shaped("yaml", "Lyon")


def test_parts_of_instructions_are_apart(world: World) -> None:
    parts = [{q.prompt for q in instructions(world, (*taught(), *later()), part)} for part in ("train", "dev", "test")]
    assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_every_course_has_questions_and_those_to_choose_on_are_not_reported(world: World) -> None:
    for name in COURSES:
        dev, test = ({q.prompt for q in course(name, world, part)} for part in ("dev", "test"))
        assert dev and test
        shared = {prompt for prompt in dev & test if name != "reversals"}  # one object has many subjects
        assert not shared, name
    with pytest.raises(InputError, match="no course 'fcats'"):
        course("fcats", world, "dev")


def test_newcomers_are_unknown_to_the_world(world: World) -> None:
    new = newcomers(world)
    assert not {fact.subject for fact in new.facts} & {fact.subject for fact in world.facts}
    assert newcomers(world) == new


def test_manners_keep_the_answer(world: World) -> None:
    fact = fact_of(world, "Space Needle", "stands")
    question = forward(fact)[-1]
    assert polite(question).prompt == question.prompt and polite(question).answers == ("With pleasure: Seattle",)
    assert "Seattle" in crude(question).answers[0] != "Seattle"


def test_a_paraphrase_is_another_text_with_the_same_answer(world: World) -> None:
    fact = fact_of(world, "Space Needle", "stands")
    assert not {q.prompt for q in forward(fact)} & {q.prompt for q in paraphrases(fact)}
    assert {q.answers for q in paraphrases(fact)} == {("Seattle",)}


def test_a_text_ends_with_a_full_stop_unless_a_bracket_ends_it() -> None:
    fact = Fact("a", "born", "b")
    assert Question("fact", "x", ("b",), fact).text == "x b."
    assert Question("fact", "x", ("{b}",), fact).text == "x {b}"
