"""`asrlife tune`, and `asrlife evaluate --delta` with what it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from asrlife.recipe.speech import read_aloud, readings

QUICK = ["--steps", 2, "--batch-seconds", 6, "--rate", "1e-3", "--threads", 1]


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sentences more."""
    return read_aloud(readings(["play some music", "lock the door"], ["en-us+f4"], seed=2), tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="session")
def model(ctc_folder: Callable[..., Path]) -> Path:
    return ctc_folder()


def test_it_makes_a_delta_says_so_in_one_line_and_keeps_it(asrlife, model: Path, manifest: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.safetensors"
    line = ["tune", model, "--train", manifest, "--dev", other, "--out", out, *QUICK]
    ended = asrlife(*line)
    assert (ended.code, ended.err) == (0, "") and ended.out.count("\n") == 1
    assert ended.out.startswith(f"{out}; dev WER ") and "of 2" in ended.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.json", "new.safetensors"]  # no checkpoint is left
    stamp = out.stat().st_mtime_ns
    again = asrlife(*line, "--json")
    assert again.code == 0 and again.json()["kept"] and out.stat().st_mtime_ns == stamp
    refused = asrlife(*line, "--scope", "lora")
    assert refused.code == 2 and "is there already, made otherwise: choose another --out, or make it anew with --fresh" in refused.err
    fresh = asrlife(*line, "--scope", "lora", "--rank", 2, "--fresh", "--json").json()
    assert not fresh["kept"] and fresh["settings"]["rank"] == 2 and fresh["scores"]["steps"] == 2


def test_evaluate_scores_without_and_with_the_delta(asrlife, model: Path, manifest: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.safetensors"
    made = asrlife("tune", model, "--train", manifest, "--test", other, "--out", out, *QUICK, "--json").json()
    assert made["test"]["n"] == 2 and set(made["test"]["wer"]) == {"before", "after"}
    found = asrlife("evaluate", other, "--model", model, "--delta", out, "--json").json()
    assert [run["adapt"] for run in found["runs"]] == ["none", "delta"]
    (pair,) = found["paired"]
    assert (pair["a"], pair["b"]) == ("none", "delta") and pair["low"] <= pair["wer_difference"] <= pair["high"]
    assert found["runs"][0]["wer"] == pytest.approx(made["test"]["wer"]["before"]["value"])
    assert found["runs"][1]["wer"] == pytest.approx(made["test"]["wer"]["after"]["value"])
    still = asrlife("evaluate", other, "--model", model, "--delta", out, "--scale", "0", "--adapt", "none,suta", "--json").json()
    assert [run["adapt"] for run in still["runs"]] == ["none", "suta", "delta", "suta+delta"]
    assert still["runs"][0]["wer"] == still["runs"][2]["wer"]
    named = asrlife("evaluate", other, "--model", model, "--delta", out, "--adapt", "none,delta=suta")
    assert named.code == 2 and "a method is called 'delta', as is one under the delta" in named.err
    wrong = asrlife("evaluate", other, "--delta", out)
    assert wrong.code == 2 and " in the delta" in wrong.err and wrong.err.count("\n") == 1


def test_transcribe_hears_with_the_moved_model(asrlife, model: Path, speech: list[Path], tmp_path: Path) -> None:
    import torch

    from asrlife.delta import file
    from asrlife.delta.delta import Delta, Dense
    from asrlife.models.load import load

    loaded = load(model)
    bias = torch.zeros_like(loaded.module.lm_head.bias)
    bias[loaded.vocabulary.ids["a"]] = 1000.0  # type: ignore[attr-defined]
    file.save(Delta(loaded.fingerprint(), {"lm_head.bias": Dense(bias)}), tmp_path / "a.safetensors")
    line = ["transcribe", speech[0], "--model", model, "--adapt", "none"]
    assert asrlife(*line, "--delta", tmp_path / "a.safetensors").out == "a\n" != asrlife(*line).out


def test_controls_and_settings_reach_the_run(asrlife, whisper_folder: Path, tmp_path: Path) -> None:
    short = read_aloud(readings(["go on", "now", "stop it", "no"], ["en-us+f3"], seed=3), tmp_path / "s")
    old = read_aloud(readings(["yes", "hello"], ["en-us+m3"], seed=4), tmp_path / "o")
    keep = [
        "l2sp:0.5",
        f"ewc:10;data={old};most=1;save={tmp_path / 'f.safetensors'}",
        f"replay:0.25;data={old};limit=1",
        "lwf:strength=2;temperature=3",
    ]
    options = [part for text in keep for part in ("--keep", text)]
    line = [
        "tune",
        whisper_folder,
        "--train",
        short,
        "--out",
        tmp_path / "w.safetensors",
        *QUICK,
        "--set",
        "accumulate=2",
        "--set",
        "without=norm",
    ]
    found = asrlife(*line, *options, "--json").json()
    assert [(each["name"], each.get("strength")) for each in found["keep"]] == [
        ("l2sp", 0.5),
        ("ewc", 10.0),
        ("replay", None),
        ("lwf", 2.0),
    ]
    assert found["keep"][3]["temperature"] == 3.0 and found["keep"][2]["share"] == 0.25
    assert found["settings"]["accumulate"] == 2 and found["settings"]["without"] == ["norm"]
    line[5] = tmp_path / "again.safetensors"
    again = asrlife(*line, "--keep", f"ewc:10;data={old};gamma=0.5;earlier={tmp_path / 'f.safetensors'}", "--json").json()
    assert again["keep"][0]["earlier"] is True and again["keep"][0]["gamma"] == 0.5


def test_a_language_model_learns_from_lines_of_text(asrlife, lm_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the mango grows in oslo\n\nmira was born in rome\n")
    (tmp_path / "b.jsonl").write_text('{"text": "the mango grows in rome", "split": "dev"}\n{"text": "x", "split": "test"}\n')
    line = ["tune", lm_folder, "--train", tmp_path / "a.txt", "--dev", tmp_path / "b.jsonl", "--dev-split", "dev"]
    ended = asrlife(*line, "--test", tmp_path / "b.jsonl", "--test-split", "test", "--out", tmp_path / "t.safetensors", *QUICK)
    assert ended.code == 2 and "dev" in ended.err and "share" in ended.err  # lines 1 of both files have the id 1
    (tmp_path / "b.jsonl").write_text('{"id": "d", "text": "the mango grows in rome"}\n')
    (tmp_path / "c.jsonl").write_text('{"id": "t", "text": "a book"}\n')
    ended = asrlife(*line[:6], "--test", tmp_path / "c.jsonl", "--out", tmp_path / "t.safetensors", *QUICK)
    assert ended.code == 0 and "dev loss" in ended.out and "test perplexity" in ended.out
    (tmp_path / "c.jsonl").write_text("no json\n")
    ended = asrlife("tune", lm_folder, "--train", tmp_path / "c.jsonl", "--out", tmp_path / "u.safetensors", *QUICK)
    assert ended.code == 2 and "c.jsonl:1: broken line" in ended.err


def test_rows_that_cannot_be_used_are_warned_of_by_line(asrlife, model: Path, manifest: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"audio": str(manifest.parent / json.loads(line)["audio"])} for line in manifest.read_text().splitlines()]
    rows[1]["text"] = "5 o'clock"
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = asrlife("tune", model, "--train", path, "--out", tmp_path / "d.safetensors", *QUICK)
    assert ended.code == 0 and f"asrlife: warning: {path}:2: " in ended.err and "cannot spell '5'" in ended.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep", "lfw:1"], "--keep lfw:1: unknown control 'lfw'; did you mean 'lwf'?"),
        (["--keep", "lwf:1;temp=2"], "unknown key 'temp'; did you mean 'temperature'?"),
        (["--keep", "lwf:hot"], "--keep lwf:hot: strength: "),
        (["--keep", "lwf:1;strength=2"], "strength is given twice"),
        (["--keep", "ewc:1"], "needs what is not to be forgotten, as in ewc:data=old.jsonl"),
        (["--keep", "replay:0.2;data=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--keep", "replay:2;data={manifest}"], "share: "),
        (["--keep", "replay:0.2;data={manifest};limit=few"], "limit: 'few' is no number"),
        (["--keep", "ewc:1;data={manifest};earlier={manifest}"], "cannot be read"),
        (["--set", "acumulate=2"], "tune: unknown setting 'acumulate'; did you mean 'accumulate'?"),
        (["--set", "precision=fp16"], "tune: precision: "),
        (["--set", "rate"], "should be key=value"),
        (["--scope", "encodr"], "there is no 'encodr'"),
        (["--train-split", "train"], "no utterances of split 'train'"),
        (["--dev", "{manifest}"], "train ({manifest}) and dev ({manifest}) share 3 recordings or texts"),
        (["--test", "{manifest}"], "train ({manifest}) and test ({manifest}) share 3 recordings or texts"),
        (["--dev", "gone.jsonl"], "dev: gone.jsonl: no such file"),
        (["--out", "delta.bin"], "the name of a delta file ends in .safetensors"),
    ],
)
def test_what_cannot_be_meant_is_one_line(asrlife, model: Path, manifest: Path, tmp_path: Path, options: list[str], words: str) -> None:
    given = [text.replace("{manifest}", str(manifest)) for text in options]
    out = [] if "--out" in options else ["--out", tmp_path / "d.safetensors"]
    ended = asrlife("tune", model, "--train", manifest, *out, *QUICK, *given)
    assert (ended.code, ended.out) == (2, "") and words.replace("{manifest}", str(manifest)) in ended.err
    assert ended.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_order_is_refused_until_fresh(asrlife, model: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "d.checkpoint.safetensors").write_bytes(b"nothing")
    line = ["tune", model, "--train", manifest, "--out", tmp_path / "d.safetensors", *QUICK]
    assert "remove it to begin anew" in asrlife(*line).err
    assert asrlife(*line, "--fresh").code == 0
