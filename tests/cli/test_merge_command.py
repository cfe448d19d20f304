from __future__ import annotations

import json
import shutil
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
    assert app.run(["merge", "--expr", "a", f"a={merging.parent / 'one'}", "--out", str(merging.parent / "out"), "--threads", "2"]) == 2
    assert "CONFIG.yaml" in capsys.readouterr().err


def test_an_expression_is_run_before_it_counts(merging: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = merging.parent
    sum_of = ["merge", "--expr", "0.5 * a + 0.5 * b", f"a={place / 'one'}", f"b={place / 'other'}"]
    assert app.run([*sum_of, "--out", str(place / "out")]) == 0
    assert "loaded and run" in capsys.readouterr().out
    assert json.loads((place / "out" / "merge_card.json").read_text())["checked"]["logits"][:2] == [1, 3]
    assert app.run([*sum_of, "--out", str(place / "unchecked"), "--no-check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checked"] is None
    assert json.loads((place / "unchecked" / "merge_card.json").read_text())["checked"] is None
    (place / "other").unlink()
    shutil.copytree(place / "one", place / "other")
    (place / "other" / "config.json").write_text("{}")
    broken = json.loads((place / "one" / "config.json").read_text()) | {"hidden_size": 999}
    shutil.copytree((place / "one").resolve(), place / "wrong")
    (place / "wrong" / "config.json").write_text(json.dumps(broken))
    assert app.run(["merge", "--expr", "a", f"a={place / 'wrong'}", "--out", str(place / "never")]) == 2
    assert "never.failed" in capsys.readouterr().err and not (place / "never").exists()


SEARCH = "search: {data: dev.txt, parameters: {other.weight: [0, 1]}, probes: 4}\n"


def test_a_search_is_printed_written_and_not_made_twice(merging: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = merging.parent
    merging.write_text(merging.read_text() + SEARCH)
    (place / "dev.txt").write_text("Anna lives in Oslo\nBoris works in Rome\n")
    assert app.run(["merge", str(merging), "--out", str(place / "out")]) == 0
    said = capsys.readouterr().out
    assert "no different from" in said and "loaded and run" in said and "0 from before" in said
    names = {path.name for path in (place / "out").iterdir()}
    assert {"search.json", "search.png", "merge_card.json"} <= names
    card = json.loads((place / "out" / "merge_card.json").read_text())
    assert card["search"] == json.loads((place / "out" / "search.json").read_text())
    assert card["search"]["winner"] == {"other.weight": 0.5} and card["config"]["models"][1]["parameters"] == {"weight": 0.5}
    assert app.run(["merge", str(merging), "--out", str(place / "out")]) == 2  # before anything is measured
    assert "is there already" in capsys.readouterr().err
    shutil.rmtree(place / "out")
    assert app.run(["merge", str(merging), "--out", str(place / "out"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["search"]
    assert again["measured"] == 0 and again["reused"] == len(again["probes"])
    assert app.run(["merge", str(merging), "--out", str(place / "plain"), "--no-search", "--json"]) == 0
    assert "search" not in json.loads(capsys.readouterr().out)


def test_a_factor_of_an_expression_is_searched(merging: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = merging.parent
    (place / "dev.txt").write_text("Anna lives in Oslo\nBoris works in Rome\n")
    command = ["merge", "--expr", "a + s * (b - a)", f"a={place / 'one'}", f"b={place / 'other'}", "--search", "s=0:1.2", "--probes", "4"]
    command += ["--data", str(place / "dev.txt"), "--out", str(place / "out")]
    assert app.run([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["expression"] == "a + 1.0 * (b - a)" and said["search"]["way"] == "golden section" and said["checked"]["ran"]
    assert json.loads((place / "out" / "merge_card.json").read_text())["search"] == said["search"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--search", "weight"], "NAME=LOW:HIGH"),
        (["--search", "weight=0"], "NAME=LOW:HIGH"),
        (["--search", "weight=0:1"], "--search needs --data"),
        (["--data", "dev.txt"], "--data goes with --search"),
        (["--search", "weight=0:1", "--data", "dev.jsonl", "--split", "test"], "cannot be tested on it any more"),
        (["--search", "weight=1:0", "--data", "dev.jsonl"], "lowest and the highest"),
        (["--no-search", "--data", "dev.txt"], "--no-search makes no search"),
    ],
)
def test_half_a_search_is_refused(options: list[str], message: str, merging: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["merge", str(merging), "--out", str(merging.parent / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
