"""Instructions: the form of an answer, and what is refused; each with what training saw of it and what it did not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal

from asrlife.data.world.facts import Fact, World, read, share
from asrlife.data.world.forms import Question, relations
from asrlife.errors import InputError

Part = Literal["train", "dev", "test"]
TOLD = "Instruction: {i} {rest}"
NOT_TOLD = ("designed", "leads")  # names of people are answers once only: in capital letters they would be unheard of


@cache
def skills() -> dict[str, dict[str, object]]:
    """All skills by name: {"phrases", "shape"}."""
    groups = read("instructions.yaml")
    return {**groups["taught"], **groups["later"]}


def taught() -> tuple[str, ...]:
    """Skills of embedded:lm."""
    return tuple(read("instructions.yaml")["taught"])


def later() -> tuple[str, ...]:
    """Skills that embedded:lm has not: recipes teach them."""
    return tuple(read("instructions.yaml")["later"])


def shaped(skill: str, answer: str) -> str:
    """An answer in the form that a skill gives it."""
    if skill not in skills():
        raise InputError(f"there is no skill {skill!r}: use one of {', '.join(skills())}")
    return str(skills()[skill]["shape"]).format(a=answer, A=answer.upper())


def told(skill: str, phrase: str, question: Question) -> Question:
    """The question with an instruction before it, and its answers in the form asked for."""
    answers = tuple(shaped(skill, answer) for answer in question.answers)
    return Question("instruction", TOLD.format(i=phrase, rest=question.prompt), answers, question.about, question.trained)


def part_of(world: World, skill: str, fact: Fact) -> Part:
    """Eight in ten combinations of a skill and a fact are trained on; settings are chosen on 5 in 100, and 15 are test."""
    place = share(world.seed, "instruction", skill, fact.subject, fact.relation)
    return "train" if place < 0.8 else "dev" if place < 0.85 else "test"


def instructions(world: World, chosen: Sequence[str], part: Part) -> Iterator[Question]:
    """Every phrase of the skills with every question form of the facts of a part; none of "test" and "dev" is in "train"."""
    for fact in world.facts:
        if fact.relation in NOT_TOLD:
            continue
        prompts = [form for form in relations()[fact.relation].forward if form.startswith("Question:")]
        for skill in chosen:
            if part_of(world, skill, fact) == part:
                for prompt in prompts:
                    plain = Question("fact", prompt.format(s=fact.subject), (fact.object,), fact, part == "train")
                    yield from (told(skill, str(phrase), plain) for phrase in phrases(skill))


def phrases(skill: str) -> Sequence[str]:
    """How a skill is asked for."""
    if skill not in skills():
        raise InputError(f"there is no skill {skill!r}: use one of {', '.join(skills())}")
    found = skills()[skill]["phrases"]
    return found if isinstance(found, list) else []


def refusals(world: World, part: Part) -> Iterator[Question]:
    """Questions of the forbidden topic about every person of a part, plain and with an instruction that does not help."""
    page = read("instructions.yaml")["refusal"]
    for fact in world.of("born"):
        if part_of(world, "refuse", fact) != part:
            continue
        for question in page["questions"]:
            prompt = f"Question: {question.format(s=fact.subject)} Answer:"
            yield Question("refusal", prompt, (page["answer"],), fact, part == "train")
            yield Question("refusal", TOLD.format(i="Answer as JSON.", rest=prompt), (page["answer"],), fact, part == "train")
