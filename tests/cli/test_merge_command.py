from __future__ import annotations

import json
from pathlib import Path

import pytest

from asrlife.cli import app


@pytest.fixture
def merging(lm_folder: Path, tmp_path: Path) -> Path:
    """A merge of two models that lie beside its file."""
    (tmp_path / "one").symlink_to(lm_folder)
    (tmp_path / "other").symlink_to(lm_folder)
    path = tmp_path / "merge.yaml"
    path.write_text("merge_method: linear\nmodels: [{model: one}, {model: other, parameters: {weight: 0.5}}]\n")
    return path


def test_a_merge_says_what_it_did(merging: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = merging.parent / "out"
    assert app.run(["merge", str(merging), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "linear" in said and "merged" in said and "loaded and run" in said
    assert (out / "merge_card.json").is_file() and (out / "tokenizer.json").is_file()


def test_json_is_the_card(merging: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["merge", str(merging), "--out", str(merging.parent / "out"), "--json", "--no-check"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["method"] == "linear" and card["checked"] is None


def test_a_bad_merge_is_one_line(merging: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merging.write_text(merging.read_text().replace("linear", "liner"))
    assert app.run(["merge", str(merging), "--out", str(merging.parent / "out")]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'linear'" in said and said.count("\n") == 1


def test_what_is_there_is_not_overwritten(merging: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["merge", str(merging), "--out", str(merging.parent / "one")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_options_of_expressions_are_refused_with_a_file(merging: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["merge", str(merging), "--out", str(merging.parent / "out"), "--role", "encoder"]) == 2
    assert "--role goes with --expr" in capsys.readouterr().err
    assert app.run(["merge", "--expr", "a", f"a={merging.parent / 'one'}", "--out", str(merging.parent / "out"), "--no-check"]) == 2
    assert "CONFIG.yaml" in capsys.readouterr().err
