"""asrlife evidence, and asrlife repair, as typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from asrlife.data.corpus import Corpus
from tests.methods.merge.folders import tuned
from tests.methods.merge.shown import utterances


@pytest.fixture
def place(ctc_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """Two conformers, noise, and a fisher merge of them."""
    base = ctc_folder("wav2vec2-conformer", "layer")
    tuned(base, tmp_path / "a", 1)
    tuned(base, tmp_path / "b", 2)
    Corpus(tuple(utterances(2))).write(tmp_path / "audio.jsonl")
    rows = "\n".join(f"  - {{model: {n}, evidence: {n}.fisher.safetensors}}" for n in "ab")
    (tmp_path / "fisher.yaml").write_text(f"merge_method: fisher\nmodels:\n{rows}\n")
    return tmp_path


def test_from_data_to_a_repaired_merge(asrlife, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    missing = asrlife("merge", "fisher.yaml", "--out", "merged")
    assert missing.code == 2 and "there is no file 'a.fisher.safetensors'" in missing.err
    for name in "ab":
        ended = asrlife("evidence", name, "--kind", "fisher", "--data", "audio.jsonl", "--out", f"{name}.fisher.safetensors", "--json")
        told = ended.json()
        assert ended.code == 0 and told["examples"] == 2 and "own greedy labels" in told["labels"]
    made = asrlife("merge", "fisher.yaml", "--out", "merged")
    assert made.code == 0 and "loaded and run" in made.out
    command = "asrlife repair merged --method batchnorm --data AUDIO.jsonl --out merged-repaired"
    assert command in made.err
    line = command.split()[1:]
    line[line.index("AUDIO.jsonl")] = "audio.jsonl"
    repaired = asrlife(*line)
    assert repaired.code == 0 and "6 tensors repaired on 2 examples" in repaired.out and "loaded and run" in repaired.out
    norms = asrlife("repair", "merged", "--method", "norms", "--data", "audio.jsonl", "--endpoint", "a", "--endpoint", "b", "--out", "n")
    assert norms.code == 0 and "deviations were off by" in norms.out
    surgery = asrlife("repair", "merged", "--method", "surgery", "--data", "audio.jsonl", "--rank", 2, "--steps", 3, "--out", "s", "--json")
    assert surgery.code == 0 and set(surgery.json()["surgery"]) == {"a.surgery.safetensors", "b.surgery.safetensors"}


def test_coefficients_learnt_on_data(asrlife, place: Path, ctc_folder: Callable[..., Path]) -> None:
    base = ctc_folder("wav2vec2-conformer", "layer")
    (place / "ada.yaml").write_text(
        f"merge_method: adamerging\nbase_model: {base}\nmodels: [{{model: a}}, {{model: b}}]\n"
        "data: {manifest: audio.jsonl, limit: 1}\nparameters: {steps: 2, rate: 0.01}\n"
    )
    ended = asrlife("merge", place / "ada.yaml", "--out", place / "merged")
    assert ended.code == 0 and "learnt: 2 steps, mean entropy" in ended.out
    assert json.loads((place / "merged" / "coefficients.json").read_text())["experts"] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evidence a --kind hessian --data audio.jsonl --out x.safetensors", "--kind is fisher or gram"),
        ("evidence a --kind gram --data audio.jsonl --out x.bin", "ends in .safetensors"),
        ("evidence a --kind gram --data none.jsonl --out x.safetensors", "no such file"),
        ("evidence c --kind gram --data audio.jsonl --out x.safetensors", "there is no file or folder"),
        ("repair a --method bn --data audio.jsonl --out x", "there is no repair 'bn'"),
        ("repair a --method norms --data audio.jsonl --out x", "name the models with --endpoint"),
    ],
)
def test_what_is_wrong_is_one_line(asrlife, place: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str) -> None:
    monkeypatch.chdir(place)
    ended = asrlife(*line.split())
    assert ended.code == 2 and message in ended.err and ended.err.count("\n") == 1
    assert not (place / "x").exists() and not (place / "x.safetensors").exists()
