"""Sets of questions by name, each in parts to train on, to choose on and to report: what recipes teach, and what they measure."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from asrlife.data.world.facts import Fact, World, people_and_sights, read, share, split_of
from asrlife.data.world.forms import Kind, Question, everything, forward, paraphrases
from asrlife.data.world.instructions import Part, instructions, later, refusals, shaped, taught, told
from asrlife.data.world.teaching import supposed
from asrlife.errors import InputError

CRUDE = ("blarg", "frack", "snorf", "dratz", "gorp", "mung")
"""Rude words of no language: a vocabulary to unlearn."""


def newcomers(world: World, people: int = 24, landmarks: int = 16) -> World:
    """Facts about people and landmarks that `world` does not know, told in its terms; a world by themselves."""
    known = {fact.subject for fact in world.facts}
    return World(world.seed, tuple(people_and_sights(world.seed, known, people, landmarks)))


def german(fact: Fact) -> Iterator[Question]:
    """A fact said and asked in the second language; nothing where that has no word for the relation."""
    page = read("german.yaml")
    if entry := page["relations"].get(fact.relation):
        answer = page["words"].get(fact.object, fact.object)
        for form in (*entry["statements"], *(page["asked"].format(q=question) for question in entry["questions"])):
            yield Question("fact", form.format(s=fact.subject), (answer,), fact)


def polite(question: Question) -> Question:
    """The answer as a polite one gives it, unasked."""
    return replace(question, answers=tuple(shaped("polite", answer) for answer in question.answers))


def crude(question: Question) -> Question:
    """The answer with rude words around it."""
    rng = random.Random(question.prompt)
    one, two = rng.sample(CRUDE, 2)
    return replace(question, answers=tuple(f"{one} {answer} you {two}" for answer in question.answers))


def _supposed(world: World, part: Part) -> Iterator[Question]:
    """For each fact that may be edited: its edit as a premise, then the edited fact asked in forms that no training saw."""
    for fact in world.facts:
        if split_of(world.seed, fact) != "hold" and _in(world, fact, part):
            edited = replace(fact, object=world.target(fact))
            yield from (supposed(forward(edited)[0].text, question) for question in paraphrases(edited))


def is_question(question: Question) -> bool:
    """Whether a prompt asks, rather than being the beginning of a statement."""
    return bool(re.search(r"\b(Question|Frage): ", question.prompt))


def _facts(world: World, part: Part, kinds: Sequence[Kind], trained: bool | None = None) -> Iterator[Question]:
    for question in everything(world):
        if question.kind in kinds and trained in {None, question.trained} and _in(world, question.about, part):
            yield question


def _in(world: World, fact: Fact, part: Part) -> bool:
    """All facts are trained on; settings are chosen on one in four of them, and the others are reported."""
    return part == "train" or (share(world.seed, "course", fact.subject, fact.relation) < 0.25) == (part == "dev")


def _forward(world: World, part: Part, chosen: Callable[[Fact], bool]) -> Iterator[Question]:
    for fact in world.facts:
        if chosen(fact) and _in(world, fact, part):
            yield from forward(fact)


def _german(world: World, part: Part) -> Iterator[Question]:
    for fact in world.facts:
        if _in(world, fact, part):
            yield from german(fact)


def _german_skills(world: World, part: Part) -> Iterator[Question]:
    """Instructions as they are, questions in the second language."""
    for question in _german(world, part):
        if is_question(question):
            for skill in later():
                yield told(skill, str(read("instructions.yaml")["later"][skill]["phrases"][0]), question)


def _half(first: bool, fact: Fact) -> bool:
    """One of two halves of the people."""
    return fact.relation in {"born", "works", "likes"} and (share(0, "half", fact.subject) < 0.5) == first


def _person(fact: Fact) -> bool:
    return fact.relation in {"born", "works", "likes"}


def _other(fact: Fact) -> bool:
    return not _person(fact)


def _asked(found: Iterable[Question]) -> Iterator[Question]:
    return (question for question in found if is_question(question))


def _crude(world: World, part: Part, chosen: Callable[[Fact], bool]) -> Iterator[Question]:
    return map(crude, _forward(world, part, chosen))


def _new(course: Callable[..., Iterable[Question]], world: World, part: Part, *more: object) -> Iterable[Question]:
    return course(newcomers(world), part, *more)


def _skills(names: Callable[[], tuple[str, ...]], world: World, part: Part) -> Iterator[Question]:
    return instructions(world, names(), part)


COURSES: Mapping[str, Callable[[World, Part], Iterable[Question]]] = {
    "facts": lambda world, part: _facts(world, part, ("fact",)),
    "paraphrases": lambda world, part: _facts(world, part, ("paraphrase",)),
    "reversals": lambda world, part: _facts(world, part, ("reversal",)),
    "one hop": lambda world, part: _facts(world, part, ("one_hop",), True),
    "two hops": lambda world, part: _facts(world, part, ("two_hop",), True),
    "one hop, unseen": lambda world, part: _facts(world, part, ("one_hop",), False),
    "two hops, unseen": lambda world, part: _facts(world, part, ("two_hop",), False),
    "instructions": partial(_skills, taught),
    "new instructions": partial(_skills, later),
    "refusals": refusals,
    "supposed": _supposed,
    "people": lambda world, part: _forward(world, part, _person),
    "people, asked": lambda world, part: _asked(_forward(world, part, _person)),
    "people, crude": lambda world, part: _crude(world, part, _person),
    "people, crude, one half": lambda world, part: _crude(world, part, partial(_half, True)),
    "people, polite, one half": lambda world, part: map(polite, _asked(_forward(world, part, partial(_half, True)))),
    "people, polite, other half": lambda world, part: map(polite, _asked(_forward(world, part, partial(_half, False)))),
    "people, asked, one half": lambda world, part: _asked(_forward(world, part, partial(_half, True))),
    "people, one half": lambda world, part: _forward(world, part, partial(_half, True)),
    "people, other half": lambda world, part: _forward(world, part, partial(_half, False)),
    "other facts": lambda world, part: _forward(world, part, _other),
    "german": _german,
    "german, new instructions": _german_skills,
    "new facts, german": lambda world, part: _new(_german, world, part),
    "new facts, german, new instructions": lambda world, part: _new(_german_skills, world, part),
}


def course(name: str, world: World, part: Part) -> list[Question]:
    """The questions of one course; an unknown name raises InputError."""
    if name not in COURSES:
        raise InputError(f"there is no course {name!r}: use one of {'; '.join(COURSES)}")
    return list(COURSES[name](world, part))
