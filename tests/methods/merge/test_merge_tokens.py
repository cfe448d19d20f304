"""Rows moved by token, against mergekit 0.1.5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asrlife.delta.checkpoint import Checkpoint
from asrlife.errors import InputError
from asrlife.methods.merge.config import parse
from asrlife.methods.merge.run import merge
from tests.methods.merge.spelt import CASES, build, read

ORACLE: dict[str, dict[str, dict[str, list[float]]]] = json.loads(Path(__file__).with_name("token_oracle.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spelt")
    build(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_every_token_has_mergekits_row(name: str, place: Path, tmp_path: Path) -> None:
    card = merge(parse(CASES[name]), tmp_path / "out", beside=place)
    found = read(tmp_path / "out")
    assert found.keys() == ORACLE[name].keys()
    for tensor, rows in ORACLE[name].items():
        assert found[tensor].keys() == rows.keys()
        for token, row in rows.items():
            assert found[tensor][token] == pytest.approx(row, rel=1e-6), (tensor, token)
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told["vocab_size"] == len(found["lm_head.weight"]) == card["checked"]["logits"][-1]


def test_by_hand(place: Path, tmp_path: Path) -> None:
    """'cat' is in a and b, so that c gets their mean; 'sat' in a alone, which gives it to all."""
    merge(parse(CASES["union"]), tmp_path / "out", beside=place)
    rows = read(tmp_path / "out")["model.embed_tokens.weight"]
    cats = {"a": 16.0, "b": 64 + 8.0}
    mean = (cats["a"] + cats["b"]) / 2
    assert rows["cat"][0] == pytest.approx((0.5 * cats["a"] + cats["b"] + 2 * mean) / 3.5)
    assert rows["sat"][0] == pytest.approx(24.0)


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    build(tmp_path, tied=True)
    card = merge(parse(CASES["union with a base"]), tmp_path / "out", beside=tmp_path)
    checkpoint = Checkpoint.open(tmp_path / "out")
    assert (
        "lm_head.weight" not in checkpoint
        and card["checked"]["logits"][-1] == checkpoint.entries["model.embed_tokens.weight"].shape[0] == 8
    )


def test_what_spells_alike_keeps_its_files_and_rows(place: Path, tmp_path: Path) -> None:
    models = [{"model": "a"}, {"model": str(place / "a")}]
    merge(parse({"merge_method": "linear", "models": models, "tokenizer_source": "union"}), tmp_path / "out", beside=place)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (place / "a" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"source": "d"}, "'d' is none of the models"),
        ({"source": "base"}, "needs base_model"),
        ({"tokens": {"cat": {}}}, "tokens.cat needs a source"),
        ({"tokens": {"cat": {"source": "c"}}}, "c has no token 'cat'"),
        ({"tokens": {"cat": {"source": "d"}}}, "'d' is none of the models"),
        ({"tokens": {"cat": {"source": {"kind": "one"}}}}, "neither zero nor model_token"),
        ({"tokens": {"cat": {"source": {"kind": "model_token", "model": "a"}}}}, "either token or token_id"),
        ({"tokens": {"cat": {"sauce": "a"}}}, "did you mean 'source'"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of"),
    ],
)
def test_what_cannot_be_spelt_is_named(tokenizer: dict[str, Any], message: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        merge(parse({"merge_method": "linear", "models": CASES["union"]["models"], "tokenizer": tokenizer}), tmp_path / "out", beside=place)
    assert list(tmp_path.iterdir()) == []
