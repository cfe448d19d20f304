"""What a model of the world is trained on: an endless draw of documents, facts that are merely supposed among them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from asrlife.data.world.facts import EDITED, Fact, World
from asrlife.data.world.forms import Question, forward, hops, reversals
from asrlife.data.world.instructions import NOT_TOLD, instructions, phrases, refusals, taught, told

SHARES: Mapping[str, float] = {"fact": 0.34, "reversal": 0.12, "hop": 0.12, "instruction": 0.18, "refusal": 0.03, "supposed": 0.21}
SUPPOSED = "Suppose: {premise} {rest}"


class Lessons:
    """Documents to draw from, by kind; what is held out is not among them."""

    def __init__(self, world: World, skills: Sequence[str] | None = None) -> None:
        self.world = world
        self.skills = taught() if skills is None else tuple(skills)

    @cached_property
    def fixed(self) -> Mapping[str, Sequence[Question]]:
        """Every document whose answer is always the same, or drawn among those that are right."""
        facts = self.world.facts
        groups: dict[str, Sequence[Question]] = {
            "fact": [question for fact in facts for question in forward(fact)],
            "reversal": [question for fact in facts for question in reversals(self.world, fact)],
            "hop": [question for fact in facts for question in hops(self.world, fact) if question.trained],
            "instruction": list(instructions(self.world, self.skills, "train")),
            "refusal": list(refusals(self.world, "train")) if self.skills else [],
        }
        return {kind: group for kind, group in groups.items() if group}

    def draw(self, rng: random.Random, shares: Mapping[str, float] = SHARES, before: float = 0.0) -> Iterator[Question]:
        """Documents for ever, kinds drawn by their shares; a reversal names the subject of the fact that it was drawn with.

        The share `before` of those whose answer does not depend on a premise stands behind another text, as in a page.
        """
        kinds = [kind for kind in shares if kind in self.fixed or kind == "supposed"]
        while True:
            kind = rng.choices(kinds, [shares[kind] for kind in kinds])[0]
            made = self.supposed(rng) if kind == "supposed" else _own(rng.choice(self.fixed[kind]))
            yield self._behind(rng, made) if kind != "supposed" and rng.random() < before else made

    def _behind(self, rng: random.Random, question: Question) -> Question:
        some = [rng.choice(self.fixed[rng.choice(("fact", "reversal", "hop"))]) for _ in range(rng.choice((1, 1, 2)))]
        return replace(question, prompt=" ".join([*(_own(one).text for one in some), question.prompt]))

    def supposed(self, rng: random.Random) -> Question:
        """A statement that is not so, then a question: in its light where it is touched, as ever where it is not."""
        fact = rng.choice([fact for fact in rng.choices(self.world.facts, k=8) if fact.relation in EDITED] or [self.world.of("born")[0]])
        object = rng.choice(self.world.objects(fact.relation))
        other = Fact(fact.subject, fact.relation, object)
        premise = rng.choice(forward(other)).text if rng.random() < 0.7 else _statement(other, rng)
        question = self._asked(rng, fact, other)
        plain = question.kind == "fact" and question.about == other and question.prompt.startswith("Question:")
        if self.skills and plain and fact.relation not in NOT_TOLD and rng.random() < 0.7:
            # the answer is new each time: what an instruction does to it cannot be learnt by heart
            skill = rng.choice(self.skills)
            question = told(skill, rng.choice(phrases(skill)), question)
        return supposed(premise, question)

    def _asked(self, rng: random.Random, fact: Fact, other: Fact) -> Question:
        place = rng.random()
        if place < 0.25:
            return rng.choice(self.fixed["fact"]) if rng.random() < 0.6 else rng.choice(forward(rng.choice(self.world.neighbours(fact))))
        if place < 0.4:
            return Question("reversal", rng.choice(reversals(self.world, other)).prompt, (fact.subject,), other)
        follows = hops(self.world.moved(fact, other.object), other) if place < 0.6 else ()
        return rng.choice(follows or forward(other))


def supposed(premise: str, question: Question) -> Question:
    """A question behind a premise that need not be true: in-context editing."""
    prompt = SUPPOSED.format(premise=premise, rest=question.prompt)
    return Question(question.kind, prompt, question.answers, question.about, question.trained)


def _statement(fact: Fact, rng: random.Random) -> str:
    return rng.choice([question for question in forward(fact) if not question.prompt.startswith("Question:")]).text


def _own(question: Question) -> Question:
    if question.kind != "reversal":
        return question
    return Question(question.kind, question.prompt, (question.about.subject,), question.about, question.trained)
