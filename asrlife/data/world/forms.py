"""How facts are said and asked: forward, backward, through further facts, in forms that are trained on and forms that are not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from asrlife.data.edit import sentence
from asrlife.data.world.facts import Fact, World, read, share

Kind = Literal["fact", "paraphrase", "reversal", "one_hop", "two_hop", "instruction", "refusal"]
ASKED = "Question: {q} Answer:"


@dataclass(frozen=True)
class Question:
    """A prompt and the completions that are right, without the full stop behind them.

    `kind` "fact" is in a form that training saw, "paraphrase" in one that it did not; "one_hop" and "two_hop" need one and two
    facts beyond the first. `about` is the fact that it begins with; `trained` whether a model of this world has seen this very text.
    """

    kind: Kind
    prompt: str
    answers: tuple[str, ...]
    about: Fact
    trained: bool = True

    @property
    def text(self) -> str:
        """The whole text, with the first answer; what ends in a bracket needs no full stop."""
        return sentence(self.prompt, self.answers[0])


@dataclass(frozen=True)
class Relation:
    """The forms of one relation, each a prompt; `statements` are completed, `questions` answered; `topic` is what it is about."""

    name: str
    subject: str
    object: str
    topic: str
    forward: tuple[str, ...]
    held: tuple[str, ...]
    backward: tuple[str, ...]


def _prompts(group: Mapping[str, list[str]]) -> tuple[str, ...]:
    return (*group["statements"], *(ASKED.format(q=question) for question in group["questions"]))


@cache
def relations() -> Mapping[str, Relation]:
    """All relations by name."""
    return {
        name: Relation(name, e["subject"], e["object"], e["topic"], _prompts(e), _prompts(e["held"]), _prompts(e["backward"]))
        for name, e in read("relations.yaml").items()
    }


@cache
def chains() -> Mapping[tuple[str, ...], tuple[str, ...]]:
    """Prompts by the chain of relations that answers them."""
    return {tuple(chain.split()): tuple(ASKED.format(q=q) for q in questions) for chain, questions in read("hops.yaml").items()}


def forward(fact: Fact) -> tuple[Question, ...]:
    """The fact in every form that is trained on."""
    return tuple(Question("fact", form.format(s=fact.subject), (fact.object,), fact) for form in relations()[fact.relation].forward)


def paraphrases(fact: Fact) -> tuple[Question, ...]:
    """The fact in every form that no training saw."""
    forms = relations()[fact.relation].held
    return tuple(Question("paraphrase", form.format(s=fact.subject), (fact.object,), fact, trained=False) for form in forms)


def reversals(world: World, fact: Fact) -> tuple[Question, ...]:
    """From the object back; every subject that has it is right."""
    right = world.subjects(fact.relation, fact.object)
    return tuple(Question("reversal", form.format(o=fact.object), right, fact) for form in relations()[fact.relation].backward)


def hops(world: World, fact: Fact) -> tuple[Question, ...]:
    """Questions whose answer follows from `fact` through one or two further facts; one subject in five was never asked them in training."""
    trained = share(world.seed, "hops", fact.subject) < 0.8
    found = []
    for chain, prompts in chains().items():
        if chain[0] == fact.relation:
            kind: Kind = "one_hop" if len(chain) == 2 else "two_hop"
            answer = (world.reached(fact.subject, chain),)
            found += [Question(kind, prompt.format(s=fact.subject), answer, fact, trained) for prompt in prompts]
    return tuple(found)


def everything(world: World) -> Iterator[Question]:
    """Every plain statement and question of the world, trained on or not; a reversal once for each fact that it begins with."""
    for fact in world.facts:
        yield from (*forward(fact), *paraphrases(fact), *reversals(world, fact), *hops(world, fact))
