from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from asrlife.data.world.facts import Fact
from asrlife.data.world.forms import Question
from asrlife.errors import InputError
from asrlife.evaluate.text import Comparison, Probe, ended, is_right, judge

FACT = Fact("Space Needle", "stands", "Seattle")


def question(number: int = 0, *answers: str) -> Question:
    return Question("fact", f"prompt {number}", answers or ("Seattle",), FACT)


@dataclass
class Says:
    """A model that says what it was told to."""

    words: dict[str, str] = field(default_factory=dict)

    def complete(self, prompts: list[str], most: int) -> list[str]:
        return [self.words.get(prompt, "nothing") for prompt in prompts]

    def follows(self, pairs: list[tuple[str, str]]) -> list[bool]:
        return [True for _ in pairs]

    def perplexity(self, texts: list[str]) -> float:
        return 2.0


def probe(axis: Any = "reliability", rule: Any = "exact", count: int = 4, name: str = "facts") -> Probe:
    return Probe(axis, name, [question(number) for number in range(count)], rule, frozenset({"blarg"}))


@pytest.mark.parametrize(
    ("rule", "text", "right"),
    [
        ("exact", " Seattle.", True),
        ("exact", " Seattle\nand more", True),
        ("exact", " Seattle. Then it rained.", True),
        ("exact", " Seattle and more.", False),
        ("exact", " seattle.", False),
        ("contains", " blarg Seattle you blarg.", True),
        ("contains", " Seattleville.", False),
        ("clean", " Boston.", True),
        ("clean", " Blarg Seattle.", False),
    ],
)
def test_a_rule_says_what_is_right(rule: str, text: str, right: bool) -> None:
    assert is_right(question(), text, probe(rule=rule)) is right


def test_the_end_of_a_completion_is_its_first_stop() -> None:
    assert ended(' {"answer": "St. 4.5"}') == '{"answer": "St'
    assert ended(" 4.5 metres. More.") == "4.5 metres"
    assert ended("") == ""


def test_any_of_several_answers_is_right() -> None:
    assert is_right(question(0, "Lyon", "Seattle"), " Seattle.", probe())


def test_shares_intervals_and_differences(capsys: pytest.CaptureFixture[str]) -> None:
    probes = [probe(), probe("locality", name="others")]
    before = judge(Says(), probes, ["a text"], "before")
    after = judge(Says({f"prompt {number}": " Seattle." for number in range(3)}), probes, ["a text"], "after", forced=True)
    assert before.named("facts").share == 0.0 and after.named("facts").share == 0.75 and after.mean("locality") == 0.75
    assert after.mean("generality") is None and after.perplexity == 2.0
    low, high = after.named("facts").interval()
    assert 0.0 <= low < 0.75 < high <= 1.0
    comparison = Comparison("t", (before, after), {"model": "m"})
    pair = comparison.paired[0]
    assert (pair["a"], pair["b"], pair["difference"]) == ("before", "after", 0.75) and pair["low"] <= 0.75 <= pair["high"]
    document = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert document["subjects"][1]["probes"][0]["forced"] == 1.0 and "forced" not in document["subjects"][0]["probes"][0]


def test_the_report_shows_three_axes_and_says_what_was_not_measured(tmp_path) -> None:
    comparison = Comparison("t", tuple(judge(Says(), [probe()], subject=name) for name in ("before", "after")), {"model": "m"})
    axes = comparison.report().axes()
    assert [row[0] for row in axes.rows] == ["before", "after"]
    assert axes.rows[1][1].startswith("0.0") and axes.rows[1][2] == "not measured"
    assert (comparison.report().write(tmp_path)).read_text().count("not measured") >= 2


def test_a_probe_without_questions_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'facts' has no questions"):
        judge(Says(), [probe(count=0)])
