"""Facts to edit, each with everything that is asked about it afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from asrlife.data.edit import EditRequest
from asrlife.data.world.facts import Fact, World
from asrlife.data.world.forms import Question, forward, hops, paraphrases, reversals
from asrlife.data.world.instructions import instructions, refusals, taught

ALIKE, OWN, UNRELATED, TOLD = 6, 6, 6, 2  # questions of each kind about facts that should stay


class Case:
    """A request to edit a fact, and questions by what they ask: what should follow, with answers of the world in which the fact has moved,
    and what should not, with answers as they were. `goes_on`: whether a right answer may go on, as that of a model of running text does."""

    def __init__(self, request: EditRequest, asked: Mapping[str, Sequence[Question]], goes_on: bool = False) -> None:
        self.request, self.asked = request, {name: tuple(questions) for name, questions in asked.items() if questions}
        self.goes_on = goes_on

    def only(self, wanted: Callable[[str, Fact], bool]) -> Case:
        """The case with the questions alone whose kind and fact are `wanted`."""
        asked = {name: [question for question in questions if wanted(name, question.about)] for name, questions in self.asked.items()}
        return Case(self.request, asked, self.goes_on)

    def demonstration(self) -> EditRequest:
        """The request with what is asked about it, as in-context editing shows it of other facts."""

        def pairs(name: str) -> tuple[tuple[str, str], ...]:
            return tuple((question.prompt, question.answers[0]) for question in self.asked.get(name, ()))

        return replace(self.request, paraphrases=pairs("paraphrases"), neighbours=pairs("neighbours"))


def cases(world: World, facts: Sequence[Fact], phrasings: int = 0, seed: int = 0) -> list[Case]:
    """A case for each fact; `seed` draws the new object, the prompt among the forms that training saw, and the questions.

    The edit is made from the prompt and `phrasings` of the other trained forms. "other forms" are those that remain; no edit and no
    training saw the forms of "paraphrases". Of a hop only what changes is asked.
    """
    held = {"instructions": list(instructions(world, taught(), "test")), "refusals": list(refusals(world, "test"))}
    return [_case(world, fact, phrasings, random.Random(f"{seed} {fact}"), seed, held) for fact in facts]


def _case(world: World, fact: Fact, phrasings: int, rng: random.Random, seed: int, held: Mapping[str, Sequence[Question]]) -> Case:
    moved = world.moved(fact, world.target(fact, seed))
    new = Fact(fact.subject, fact.relation, moved.object(fact.subject, fact.relation))
    forms = rng.sample(forward(new), len(forward(new)))
    used, rest = forms[: phrasings + 1], forms[phrasings + 1 :]
    request = EditRequest(fact.subject, used[0].prompt, new.object, truth=fact.object, phrasings=tuple(q.prompt for q in used[1:]))
    before = {(q.prompt, q.answers) for q in hops(world, fact)}
    follows = [question for question in hops(moved, new) if (question.prompt, question.answers) not in before]
    asked = {
        "the edit": used[:1],
        "other forms": rest[:4],
        "paraphrases": paraphrases(new),
        "reversal": [Question("reversal", q.prompt, (fact.subject,), new) for q in reversals(moved, new)[:2]],
        "one hop": [question for question in follows if question.kind == "one_hop"],
        "two hops": [question for question in follows if question.kind == "two_hop"],
        **_stays(world, fact, rng),
        **{name: rng.sample([q for q in some if q.about.subject != fact.subject], TOLD) for name, some in held.items()},
    }
    return Case(request, asked)


def _stays(world: World, fact: Fact, rng: random.Random) -> dict[str, list[Question]]:
    """Questions about other facts, each in a form of its own."""
    near = world.neighbours(fact)
    alike = [other for other in near if other.subject != fact.subject] or [other for other in world.of(fact.relation) if other != fact]
    groups = {
        "neighbours": rng.sample(alike, min(ALIKE, len(alike))),
        "the subject's other facts": rng.choices([other for other in near if other.subject == fact.subject], k=OWN),
        "unrelated facts": rng.sample([f for f in world.facts if f.subject != fact.subject and f.object != fact.object], UNRELATED),
    }
    return {name: [rng.choice(forward(other)) for other in some] for name, some in groups.items()}
