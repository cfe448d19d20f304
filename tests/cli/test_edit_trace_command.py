from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
NEEDLE = ("--prompt", "The Space Needle stands in", "--subject", "Space Needle")


def test_a_prompt_is_traced(asrlife: Run, tmp_path: Path) -> None:
    ended = asrlife("edit", "trace", "embedded:lm", *NEEDLE, "--samples", "2", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("P(Seattle) is 0.99") and max(map(len, ended.out.splitlines())) <= 80
    assert ended.out.count("Restored: ") == 3 and "Needle*" in ended.out
    assert (tmp_path / "out" / "trace.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((tmp_path / "out" / "trace.json").read_text("utf-8"))
    assert kept == asrlife("edit", "trace", "embedded:lm", *NEEDLE, "--samples", "2", "--json").json()
    assert [one["kind"] for one in kept["traces"]] == ["states", "feed-forward", "attention"] and kept["window"] == 1


def test_facts_of_the_world_are_averaged(asrlife: Run, tmp_path: Path) -> None:
    line = ("edit", "trace", "embedded:lm", "--world", "--facts", "3", "--samples", "2", "--kind", "feed-forward", "--window", "2")
    ended = asrlife(*line, "--out", tmp_path)
    assert ended.code == 0 and ended.out.startswith("3 of 3 facts are known and traced.") and "2 layers at once" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80 and (tmp_path / "traces.png").is_file()
    told = asrlife(*line, "--json").json()
    assert told["averages"][0]["facts"] == 3 and told["split"] == "edit_dev"


def test_a_word_is_traced(asrlife: Run, tmp_path: Path, speech: list[Path]) -> None:
    heard = asrlife("transcribe", speech[0], "--model", "embedded:whisper", "--adapt", "none").out.split()
    line = ("edit", "trace", "embedded:whisper", "--audio", speech[0], "--word", heard[-1], "--samples", "1", "--kind", "cross-attention")
    ended = asrlife(*line, "--out", tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"'{heard[-1]}' in ") and "Restored: cross-attention (points)" in ended.out
    assert (tmp_path / "trace.png").is_file() and asrlife(*line, "--json").json()["trace"]["word"] == heard[-1]
    refused = asrlife(*line[:6], "garage")
    assert refused.code == 2 and "does not hear 'garage'" in refused.err
    refused = asrlife("edit", "trace", "embedded:ctc", *line[3:])
    assert refused.code == 2 and "has no decoder to trace" in refused.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ((), "give one of these"),
        (("--prompt", "The Space Needle stands in"), "give one of these"),
        ((*NEEDLE, "--world"), "give one of these"),
        ((*NEEDLE, "--word", "x"), "give one of these"),
        (("--audio", "x.wav"), "give one of these"),
        ((*NEEDLE, "--kind", "encoder"), "--kind encoder: here it is one of states, feed-forward, attention"),
        ((*NEEDLE[:3], "Golden Gate"), "does not stand in"),
        ((*NEEDLE, "--noise", "-1"), "no less than 0"),
        ((*NEEDLE, "--noise", "nan"), "no less than 0"),
        (("--world", "--split", "test"), "it is edit, edit_dev or hold"),
        (("--audio", "missing.wav", "--word", "x"), "no such file"),
    ],
)
def test_what_is_refused(asrlife: Run, line: tuple[str, ...], message: str) -> None:
    ended = asrlife("edit", "trace", "embedded:lm", *line)
    assert ended.code == 2 and message in ended.err and ended.err.count("\n") == 1, ended.err
