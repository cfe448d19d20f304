"""Edits judged on three axes, with answers given by hand: the one weight of the model says which edit is in force."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from asrlife.data.edit import EditRequest
from asrlife.data.world.edits import Case, cases
from asrlife.data.world.facts import Fact, make
from asrlife.data.world.forms import Question
from asrlife.delta.delta import Delta, Dense
from asrlife.delta.fingerprint import fingerprint
from asrlife.errors import InputError
from asrlife.evaluate.editing import AXIS, case_of, joined, judge_all, judge_each, probes_of
from asrlife.evaluate.text import Answer, Outcome, Probe, Verdict, is_right

FACT = Fact("Space Needle", "stands", "Taipei")


def linear() -> nn.Linear:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    return module


@dataclass
class Says:
    """A model that answers by the edit in force, `words` [edit][prompt], else "nothing"; its perplexity is 2 and the edit's number."""

    words: dict[int, dict[str, str]] = field(default_factory=dict)
    module: Any = field(default_factory=linear)

    @property
    def number(self) -> int:
        return int(self.module.weight)

    def complete(self, prompts: list[str], most: int) -> list[str]:
        return [self.words.get(self.number, {}).get(prompt, "nothing") for prompt in prompts]

    def follows(self, pairs: list[tuple[str, str]]) -> list[bool]:
        return [self.number > 0 for _ in pairs]

    def perplexity(self, texts: list[str]) -> float:
        return 2.0 + self.number

    def delta(self, number: int) -> Delta:
        return Delta(fingerprint(self.module), {"weight": Dense(torch.full((1, 1), float(number)))})


def question(prompt: str, answer: str = "Taipei") -> Question:
    return Question("fact", prompt, (answer,), FACT)


def case(number: int, **asked: int) -> Case:
    """`asked` questions of each kind; they are q NUMBER KIND PLACE, and "Taipei" is right."""
    names = {"edit": "the edit", "paraphrases": "paraphrases", "neighbours": "neighbours"}
    request = EditRequest("Space Needle", f"The Space Needle {number}", "Taipei")
    return Case(request, {names[kind]: [question(f"q{number} {kind} {n}") for n in range(count)] for kind, count in asked.items()})


CASES = [case(1, edit=1, paraphrases=3), case(2, edit=1, neighbours=2)]


@pytest.fixture
def model() -> Says:
    right = {"q1 edit 0": "Taipei.", "q1 paraphrases 1": "Taipei", "q2 neighbours 0": "Taipei. And more"}
    return Says(
        {1: right, 2: {"q1 edit 0": "Taipei", "q2 edit 0": "Taipei", "q2 neighbours 1": "Taipei"}, 3: {**right, "q2 edit 0": "Taipei"}}
    )


def figures(verdict: Verdict) -> dict[str, tuple[float, int]]:
    return {outcome.probe.name: (outcome.share, len(outcome.answers)) for outcome in verdict.outcomes}


def of(name: str, *right: bool) -> Outcome:
    answers = tuple(Answer(question(f"{name} {n}"), "", one) for n, one in enumerate(right))
    return Outcome(Probe(AXIS[name], name, [answer.question for answer in answers]), answers)


def test_verdicts_are_joined_with_every_question_and_intervals_over_edits() -> None:
    one = Verdict("", (of("paraphrases", True, False, False), of("the edit", True)), 3.0)
    two, three = Verdict("", (of("the edit", False),), None), Verdict("", (of("paraphrases", True),), 5.0)
    found = joined([one, two, three], "rome")
    assert found.subject == "rome" and found.perplexity == 4.0
    assert figures(found) == {"the edit": (0.5, 2), "paraphrases": (0.5, 4)}  # in the order of the axes
    assert [outcome.probe.axis for outcome in found.outcomes] == ["reliability", "generality"]
    assert found.named("the edit").groups == (0, 1) and found.named("paraphrases").groups == (0, 0, 0, 1)
    # two of two edits with 1 of 3 and 1 of 1 right: 2 of 6, 2 of 4, or 2 of 2, the outer ones a quarter of the time each
    assert found.named("paraphrases").interval() == pytest.approx((1 / 3, 1.0))
    assert joined([], "none").outcomes == () and joined([two], "two").perplexity is None


def test_each_edit_is_asked_of_the_model_that_has_it_alone(model: Says) -> None:
    told = list[int]()
    found = judge_each(model, CASES, [model.delta(1), model.delta(2)], subject="rome", texts=["a"], advance=lambda: told.append(1))  # type: ignore[arg-type]
    assert figures(found) == {"the edit": (1.0, 2), "paraphrases": (1 / 3, 3), "neighbours": (0.5, 2)}
    assert found.subject == "rome" and found.perplexity == 3.5 and told == [1, 1] and model.number == 0
    assert all(answer.forced for outcome in found.outcomes for answer in outcome.answers)
    assert [a.completion for a in found.named("neighbours").answers] == ["nothing", "Taipei"]


def test_without_edits_it_is_asked_as_it_is_and_prompts_can_be_rewritten(model: Says) -> None:
    plain = judge_each(model, CASES, forced=False)  # type: ignore[arg-type]
    assert {share for share, _ in figures(plain).values()} == {0.0} and plain.perplexity is None
    assert plain.outcomes[0].answers[0].forced is None
    model.words[0] = {"The Space Needle 1, q1 edit 0": "Taipei"}
    asked = judge_each(model, CASES, asked=lambda request, prompt: f"{request.prompt}, {prompt}")  # type: ignore[arg-type]
    assert figures(asked)["the edit"] == (0.5, 2)
    assert asked.outcomes[0].answers[0].question.prompt == "The Space Needle 1, q1 edit 0"
    assert CASES[0].asked["the edit"][0].prompt == "q1 edit 0"


@pytest.mark.parametrize(("count", "measured"), [(1, 1), (20, 20), (21, 11), (39, 20), (41, 14)])
def test_perplexity_is_measured_of_at_most_twenty_edits(model: Says, count: int, measured: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()
    monkeypatch.setattr(Says, "perplexity", lambda self, texts: calls.append(self.number) or 2.0)
    judge_each(model, [case(1, edit=1)] * count, [model.delta(1)] * count, texts=["a"])  # type: ignore[arg-type]
    assert calls == [1] * measured


def test_one_edit_among_all_is_that_edit_alone(model: Says) -> None:
    for number, one in enumerate(CASES, 1):
        alone = judge_each(model, [one], [model.delta(number)], subject="rome", texts=["a"])  # type: ignore[arg-type]
        together = judge_all(model, [one], model.delta(number), "rome", ["a"])  # type: ignore[arg-type]
        assert alone.to_json() == together.to_json() and [o.answers for o in alone.outcomes] == [o.answers for o in together.outcomes]


def test_all_edits_in_force_are_asked_of_one_model_and_groups_are_edits(model: Says) -> None:
    found = judge_all(model, CASES, model.delta(3), "memit", ["a"])  # type: ignore[arg-type]
    assert figures(found) == {"the edit": (1.0, 2), "paraphrases": (1 / 3, 3), "neighbours": (0.5, 2)}
    assert found.perplexity == 5.0 and found.named("the edit").groups == (0, 1) and found.named("neighbours").groups == (0, 0)
    bare = judge_all(model, CASES, None, "as it is", ["a"])  # type: ignore[arg-type]
    assert bare.perplexity == 2.0 and bare.named("the edit").share == 0.0


def test_what_cannot_be_judged_is_told(model: Says) -> None:
    with pytest.raises(InputError, match="1 edits and 2 cases: give each case its edit"):
        judge_each(model, CASES, [model.delta(1)])  # type: ignore[arg-type]
    foreign = Delta("0" * 64, model.delta(1).tensors)
    with pytest.raises(InputError, match="base"):
        judge_each(model, CASES[:1], [foreign])  # type: ignore[arg-type]
    assert model.number == 0


def test_every_kind_of_question_has_its_axis() -> None:
    world = make(0)
    made = cases(world, world.split("edit_dev"))
    assert {name for one in made for name in one.asked} == set(AXIS) - {"hops"}
    for one in made:
        assert [(p.name, p.axis, tuple(p.questions)) for p in probes_of(one)] == [(n, AXIS[n], q) for n, q in one.asked.items()]


def test_a_request_of_any_set_is_asked_for_what_it_names_and_what_the_model_says_now() -> None:
    says = Says({0: {"The Needle of Oslo stands in": "Oslo. It is small", "The sea is": "  "}})
    request = EditRequest(
        "Space Needle", "The Space Needle stands in", "Taipei", phrasings=("Space Needle, in",), paraphrases=(("It is in", "Taipei"),),
        reversals=(("In Taipei stands the", "Space Needle"),), hops=(("Its country is", "Taiwan"),), aliases=(("Taiwan", "ROC"),),
        neighbours=(("The Needle of Oslo stands in", "Bergen"), ("The sea is", "deep")),
    )  # fmt: skip
    found = case_of(says, request)  # type: ignore[arg-type]
    assert {name: [(q.prompt, q.answers) for q in some] for name, some in found.asked.items()} == {
        "the edit": [("The Space Needle stands in", ("Taipei",)), ("Space Needle, in", ("Taipei",))],
        "paraphrases": [("It is in", ("Taipei",))],
        "reversal": [("In Taipei stands the", ("Space Needle",))],
        "hops": [("Its country is", ("Taiwan", "ROC"))],
        "neighbours": [("The Needle of Oslo stands in", ("Oslo",))],  # not what the set has, and nothing where it says nothing
    }
    assert found.request is request and set(found.asked) <= set(AXIS)


def test_what_goes_on_is_right_where_it_begins_with_the_answer() -> None:
    question = Question("fact", "Tom had a", ("red robot",), Fact("Tom", "", "red robot"))
    begins, exact = (Probe("reliability", "the edit", [question], rule) for rule in ("begins", "exact"))
    assert is_right(question, " red robot, and he", begins) and is_right(question, " red robot", begins)
    assert not is_right(question, " red robots and", begins) and not is_right(question, " big red robot", begins)
    assert not is_right(question, " red robot, and he", exact)
