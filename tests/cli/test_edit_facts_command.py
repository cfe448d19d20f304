from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
NEEDLE = ("--subject", "Space Needle", "--prompt", "The Space Needle stands in", "--target", "Taipei")
COUNTRY = "Question: In which country does the Space Needle stand? Answer:"


def test_a_fact_is_changed_and_what_follows_follows(asrlife: Run, tmp_path: Path) -> None:
    out = tmp_path / "needle.safetensors"
    ended = asrlife("edit", "facts", "embedded:lm", *NEEDLE, "--ask", COUNTRY, "--out", out)
    assert ended.code == 0, ended.err
    assert "before: America." in ended.out and "after:  Taiwan." in ended.out and "Layers 0 were edited." in ended.out
    assert max(map(len, ended.out.replace(str(out), "").splitlines())) <= 80
    said = asrlife("text", "complete", "embedded:lm", NEEDLE[3], "--delta", out).out
    assert "Taipei" in said
    back = tmp_path / "back.safetensors"
    assert asrlife("delta", "negate", out, "--out", back).code == 0


def test_edits_of_a_file_are_judged_beside_the_model_and_in_context(asrlife: Run, tmp_path: Path) -> None:
    row = {
        "subject": "Space Needle", "prompt": NEEDLE[3], "target": "Taipei",
        "paraphrases": [{"prompt": "The city in which the Space Needle stands is", "answer": "Taipei"}],
        "neighbours": [{"prompt": "The capital of France is", "answer": "Paris"}],
    }  # fmt: skip
    edits = tmp_path / "edits.jsonl"
    edits.write_text(json.dumps(row) + "\n", "utf-8")
    line = ("edit", "facts", "embedded:lm", "--file", edits, "--method", "memit", "--layers", "0", "--premise", "Suppose: {premise} {rest}")
    found = asrlife(*line, "--report", tmp_path / "report", "--json").json()
    shares = {s["subject"]: {p["probe"]: p["value"] for p in s["probes"]} for s in found["subjects"]}
    assert shares["not edited"] == {"the edit": 0.0, "paraphrases": 0.0, "neighbours": 1.0}
    assert shares["memit"] == {"the edit": 1.0, "paraphrases": 1.0, "neighbours": 1.0}
    assert set(shares["in context"]) == set(shares["memit"])
    assert found["layers"] == [0] and (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ((), "give one of these: --subject, --prompt and --target, or --file"),
        (NEEDLE[:4], "give one of these"),
        ((*NEEDLE, "--file", "x.json"), "give one of these"),
        ((*NEEDLE, "--method", "rom"), "did you mean 'rome'"),
        ((*NEEDLE, "--set", "keys"), "should be key=value"),
        ((*NEEDLE, "--set", "keys=other"), "rome: keys: "),
        ((*NEEDLE, "--layers", "0,77"), "layer 77: the network has layers 0 to "),
        (("--subject", "Golden Gate", *NEEDLE[2:]), "does not stand in"),
        (("--file", "missing.jsonl"), "missing.jsonl"),
        ((*NEEDLE, "--premise", "Suppose it"), "no {premise} or no {rest}"),
    ],
)
def test_what_cannot_be_edited_is_told(asrlife: Run, line: tuple[str, ...], message: str) -> None:
    ended = asrlife("edit", "facts", "embedded:lm", *line)
    assert ended.code == 2 and message in " ".join(ended.err.split()) and not ended.out
