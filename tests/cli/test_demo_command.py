from __future__ import annotations

import json
from pathlib import Path

import pytest

from asrlife.cli import demo_set
from asrlife.cli.demo_set import noisy_set


def test_synthetic_speech_is_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_set, "beside", lambda: tmp_path / "nothing")
    one, two = noisy_set(tmp_path / "one", 3, seed=0), noisy_set(tmp_path / "two", 3, seed=0)
    assert "synthetic" in one.speech
    assert [u.text for u in one.corpus] == [u.text for u in two.corpus]
    assert all((a.waveform().samples == b.waveform().samples).all() for a, b in zip(one.corpus, two.corpus, strict=True))
    clean = sorted((tmp_path / "one" / "audio").glob("*.flac"))
    assert len(clean) == 3


def test_real_speech_is_taken_where_it_is(shared: Path, tmp_path: Path) -> None:
    noisy = noisy_set(tmp_path, 3, seed=0)
    assert "real" in noisy.speech and noisy.condition.name == "picovoice_kitchen 5 dB"
    assert all(utterance.split == "test" for utterance in noisy.corpus)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_demo_streams_three_times_and_reports(asrlife, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_set, "beside", lambda: tmp_path / "nothing")
    ended = asrlife("demo", "--out", tmp_path / "out", "--utterances", "3")
    assert ended.code == 0, ended.err
    assert all(f"{method:<5}   {number}/3  " in ended.out for method in ("none", "suta", "dsuta") for number in (1, 2, 3))
    lines = ended.out.splitlines()
    assert lines[-1].startswith("report: ") and max(map(len, lines[:-1])) <= 80
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    runs = report["evaluation"]["runs"]
    assert [run["adapt"] for run in runs] == ["none", "suta", "dsuta"]
    assert {run["utterances"] for run in runs} == {3}
    assert "WER over time" in (tmp_path / "out" / "report.html").read_text()


def test_a_busy_port_ends_the_demo_before_any_work(asrlife, tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = asrlife("demo", "--out", tmp_path / "out", "--port", taken.getsockname()[1])
    assert (ended.code, ended.out) == (2, "")
    assert "cannot be used" in ended.err and not (tmp_path / "out").exists()
