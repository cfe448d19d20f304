from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from asrlife.data.condition import Condition
from asrlife.data.corpus import Corpus
from asrlife.evaluate.report import Curve, Report, Score, Table, Transcript
from asrlife.evaluate.run import evaluate
from asrlife.evaluate.wer import align

AXES = ("reliability", "generality", "locality", "cost")


@pytest.fixture
def report(model: Any, corpus: Corpus, fakes: SimpleNamespace) -> Report:
    return evaluate(model, corpus, {"none": fakes.none, "learner": fakes.learner}, Condition("white", 20.0)).report()


class Page(HTMLParser):
    """Collects what a browser would load, ids, and whether tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object"):
            self.loads.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name.endswith(("src", "href")) and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_loads_nothing_and_says_everything(report: Report, tmp_path: Path) -> None:
    path = report.write(tmp_path / "out")
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json"]
    text = path.read_text()
    page = Page(text)
    assert page.loads == []
    assert "http" not in text and "url(" not in re.sub(r"url\(#", "", text)
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    for word in (*AXES, "none", "learner", "white 20 dB", "WER over time", "What was heard", "Paired differences", "not settled"[:3]):
        assert word in page.words
    assert text.count("<svg") == 2  # intervals and the running rate; eight utterances make no moving window


def test_the_json_is_the_report_and_the_evaluation(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path)
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["evaluation"]["runs"][1]["adapt"] == "learner"
    heard = {"hypothesis": "bin blue at f three", "before": "bin blue at f three", "errors": 1, "words": 6}
    runs = {"none": {**heard, "events": []}, "learner": {**heard, "events": ["stepped"]}}
    assert kept["utterances"][0] == {"id": "u0", "reference": "bin blue at f three soon", "seconds": 0.5, "runs": runs}
    assert {score["axis"] for score in kept["scores"]} == set(AXES)
    assert kept["curves"][0]["series"]["learner"][-1][1] == pytest.approx(100 / 48)


def shown(report: Report, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    report.show(console)
    return console.export_text()


def test_the_terminal_gets_80_columns_at_most(report: Report) -> None:
    for width in (80, 200):
        text = shown(report, width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
        for word in (*AXES, "Word error rate", "Paired differences", "none to learner", "WER over time"):
            assert word in text


def test_an_axis_without_a_figure_says_not_measured() -> None:
    report = Report("title", [Score("reliability", "WER", 0.125, 8, 0.1, 0.15, "x")], [], [], [])
    assert report.axes().rows == [["x", "12.5 [10.0, 15.0]", "not measured", "not measured", "not measured"]]
    assert Report("title", [], [], [], []).axes().rows == [["-", *["not measured"] * 4]]
    assert shown(report).count("measured") == 3


def test_the_page_says_why_an_axis_was_not_measured(tmp_path: Path) -> None:
    scores = [Score("locality", "WER", None, 0, None, None, "x", note="no source domain given")]
    assert "Locality was not measured: no source domain given." in Report("t", scores, [], [], []).write(tmp_path).read_text()


def test_what_users_wrote_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script> [bold]x[/bold] {{ 7 * 7 }}"
    curve = Curve(nasty, "x", "y", {"a&b": [(0.0, 1.0), (1.0, 2.0)]})
    transcript = Transcript(nasty, nasty, {nasty: align("one", "two")})
    report = Report(nasty, [], [Table(nasty, ["c"], [[nasty]])], [curve], [nasty], {nasty: nasty}, [transcript])
    page = Page(report.write(tmp_path).read_text())
    assert page.loads == []
    assert "{{ 7 * 7 }}" in page.words
    assert "[bold]x[/bold]" in shown(report)


def test_wrong_words_are_marked(tmp_path: Path) -> None:
    heard = {"m": align("bin blue at soon", "bin glue at soon now"), "n": align("bin blue", "bin")}
    text = Report("t", [], [], [], [], transcripts=[Transcript("u", "bin blue at soon", heard)]).write(tmp_path).read_text()
    assert '<b class="sub" title="said: blue">glue</b>' in text
    assert '<b class="ins" title="not said">now</b>' in text
    assert '<b class="del" title="missed">blue</b>' in text


def test_the_same_report_gives_the_same_page(report: Report, tmp_path: Path) -> None:
    first, second = report.write(tmp_path / "a"), report.write(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_a_report_with_one_utterance_or_an_empty_curve_is_shown(tmp_path: Path) -> None:
    report = Report("t", [], [], [Curve("c", "x", "y", {}), Curve("d", "x", "y", {"s": [(1.0, 0.0)]})], [])
    assert "<svg" in report.write(tmp_path).read_text()
    assert "d" in shown(report)
