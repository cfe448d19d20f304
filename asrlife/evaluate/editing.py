"""Edits of a language model on three axes: each alone, or many in force together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import ceil

from asrlife.data.edit import EditRequest
from asrlife.data.world.edits import Case
from asrlife.data.world.facts import Fact
from asrlife.data.world.forms import Kind, Question
from asrlife.delta.delta import Delta
from asrlife.delta.weights import applied
from asrlife.errors import InputError
from asrlife.evaluate.report import Axis
from asrlife.evaluate.text import MOST, Outcome, Probe, Rule, Verdict, ended, judge
from asrlife.models.text import TextModel

AXIS: Mapping[str, Axis] = {
    "the edit": "reliability",
    "other forms": "generality",
    "paraphrases": "generality",
    "reversal": "generality",
    "one hop": "generality",
    "two hops": "generality",
    "hops": "generality",
    "neighbours": "locality",
    "the subject's other facts": "locality",
    "unrelated facts": "locality",
    "instructions": "locality",
    "refusals": "locality",
}
_MEASURED = 20  # edits whose perplexity is measured
Asked = Callable[[EditRequest, str], str]


def case_of(model: TextModel, request: EditRequest) -> Case:
    """What a request of any set is asked about; what should stay is what `model`, which is not edited, says now."""
    fact = Fact(request.subject, "", request.target)

    def asked(kind: Kind, pairs: Iterable[tuple[str, str]]) -> list[Question]:
        return [Question(kind, prompt, request.right(answer), fact, trained=False) for prompt, answer in pairs]

    said = [ended(text) for text in model.complete([prompt for prompt, _ in request.neighbours], MOST)]
    stays = [(prompt, text) for (prompt, _), text in zip(request.neighbours, said, strict=True) if text]
    return Case(
        request,
        {
            "the edit": asked("fact", [(prompt, request.target) for prompt in request.prompts]),
            "paraphrases": asked("paraphrase", request.paraphrases),
            "reversal": asked("reversal", request.reversals),
            "hops": asked("one_hop", request.hops),
            "neighbours": asked("fact", stays),
        },
        goes_on=True,
    )


def probes_of(case: Case, asked: Asked | None = None) -> list[Probe]:
    """What is asked about one edit; `asked` rewrites each prompt, as in-context editing does."""

    def put(question: Question) -> Question:
        return question if asked is None else replace(question, prompt=asked(case.request, question.prompt))

    rule: Rule = "begins" if case.goes_on else "exact"
    return [Probe(AXIS[name], name, [put(question) for question in questions], rule) for name, questions in case.asked.items()]


def judge_each(
    model: TextModel, cases: Sequence[Case], deltas: Sequence[Delta] | None = None, asked: Asked | None = None, subject: str = "model",
    texts: Sequence[str] = (), forced: bool = True, advance: Callable[[], None] = lambda: None,
) -> Verdict:  # fmt: skip
    """Every case asked of the model that has its delta alone, or of the model as it is; the perplexity is the mean over edits of that on
    `texts`, of at most 20 of them."""
    if deltas is not None and len(deltas) != len(cases):
        raise InputError(f"{len(deltas)} edits and {len(cases)} cases: give each case its edit")
    verdicts = []
    for number, case in enumerate(cases):
        with _with(model, None if deltas is None else deltas[number]):
            some = texts if number % ceil(len(cases) / _MEASURED) == 0 else ()
            verdicts.append(judge(model, probes_of(case, asked), some, subject, forced))
        advance()
    return joined(verdicts, subject)


def judge_all(model: TextModel, cases: Sequence[Case], delta: Delta | None, subject: str, texts: Sequence[str] = ()) -> Verdict:
    """Every case asked of one model in which all edits are in force."""
    with _with(model, delta):
        verdict = judge(model, [probe for case in cases for probe in probes_of(case)], texts, subject, forced=True)
    parts, outcomes = [], iter(verdict.outcomes)
    for case in cases:
        parts.append(Verdict(subject, tuple(next(outcomes) for _ in case.asked), None))
    return replace(joined(parts, subject), perplexity=verdict.perplexity)


def joined(verdicts: Sequence[Verdict], subject: str) -> Verdict:
    """One verdict over edits; intervals are over edits drawn with replacement."""
    outcomes = []
    for name in AXIS:
        found = [(number, o) for number, verdict in enumerate(verdicts) for o in verdict.outcomes if o.probe.name == name]
        answers = tuple(answer for _, outcome in found for answer in outcome.answers)
        if answers:
            places = {number: place for place, (number, _) in enumerate(found)}
            groups = tuple(places[number] for number, outcome in found for _ in outcome.answers)
            probe = replace(found[0][1].probe, questions=[answer.question for answer in answers])
            outcomes.append(Outcome(probe, answers, groups))
    known = [verdict.perplexity for verdict in verdicts if verdict.perplexity is not None]
    return Verdict(subject, tuple(outcomes), sum(known) / len(known) if known else None)


def _with(model: TextModel, delta: Delta | None) -> AbstractContextManager[None]:
    return nullcontext() if delta is None else applied(model.module, delta)
