"""Covariances that are kept on disk: read again, and made anew where the file is not what it should be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from asrlife.files import cache_folder
from asrlife.methods.edit.algebra import Covariance
from asrlife.methods.edit.cache import _keep, _note, _path, digest, kept_covariances
from asrlife.methods.edit.edit import bench
from asrlife.methods.edit.editors import Rome
from asrlife.methods.edit.sites import sites
from asrlife.models.text import TextModel, load_text

TEXTS = ["Leila Castell was born in Seville.", "Ravi Holm works in the town of Oslo."]


@pytest.fixture(scope="module")
def model() -> TextModel:
    torch.manual_seed(0)
    embedded = load_text("embedded:lm")
    config = LlamaConfig(
        vocab_size=embedded.module.config.vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2
    )
    return replace(embedded, module=LlamaForCausalLM(config).eval())


class Asked:
    """Texts, and how often someone wanted them."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Sequence[str]:
        self.times += 1
        return TEXTS


def test_what_was_measured_is_read_again_to_the_bit(model: TextModel, tmp_path: Path) -> None:
    asked, at = Asked(), sites(model.module)
    made = kept_covariances(model, at[:2], "some", asked, tmp_path)
    again = kept_covariances(model, at[:2], "some", asked, tmp_path)
    assert asked.times == 1 and len(list(tmp_path.iterdir())) == 2
    assert all(torch.equal(one.matrix, other.matrix) for one, other in zip(made, again, strict=True))
    kept_covariances(model, at, "some", asked, tmp_path)
    assert asked.times == 2 and len(list(tmp_path.iterdir())) == 3  # the third layer alone was measured


@pytest.mark.parametrize("other", ["texts", "settings", "weights"])
def test_another_model_other_texts_and_other_settings_have_files_of_their_own(model: TextModel, tmp_path: Path, other: str) -> None:
    asked, at = Asked(), sites(model.module)[:1]
    kept_covariances(model, at, "some", asked, tmp_path)
    if other == "weights":
        model = model.twin()
        model.module.lm_head.weight.data[0, 0] += 1
        at = sites(model.module)[:1]
    kept_covariances(model, at, "more" if other == "texts" else "some", asked, tmp_path, shrinkage=1e-3 if other == "settings" else 1e-4)
    assert asked.times == 2 and len(list(tmp_path.iterdir())) == 2


def short(path: Path, _: Any) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flipped(path: Path, _: Any) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def nothing(path: Path, _: Any) -> None:
    path.write_bytes(b"")


def unnamed(path: Path, _: Any) -> None:
    safetensors.torch.save_file({"covariance": EYE}, path)


def rewritten(matrix: torch.Tensor) -> Callable[[Path, Any], None]:
    """A file that says of itself what it should, with another matrix."""
    return lambda path, note: _keep(path, note, Covariance(matrix))


EYE = torch.eye(24, dtype=torch.float64)
WRONG = {
    "short": short, "flipped": flipped, "nothing": nothing, "unnamed": unnamed, "narrow": rewritten(torch.eye(23, dtype=torch.float64)),
    "single": rewritten(EYE.float()), "indefinite": rewritten(EYE - 2 * torch.diag(EYE[0])), "nan": rewritten(EYE * torch.nan),
    "not symmetric": rewritten(EYE + torch.triu(0.1 * torch.ones(24, 24, dtype=torch.float64), 1)),
}  # fmt: skip


@pytest.mark.parametrize("damage", WRONG)
def test_a_file_that_is_wrong_is_made_anew(model: TextModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    asked, at = Asked(), sites(model.module)[:1]
    made = kept_covariances(model, at, "some", asked, tmp_path)[0]
    note = _note(model.fingerprint(), "some", at[0], 2048, 1e-4)
    path = _path(tmp_path, note)
    whole = path.read_bytes()
    WRONG[damage](path, note)
    with caplog.at_level(logging.WARNING, "asrlife"):
        again = kept_covariances(model, at, "some", asked, tmp_path)[0]
    assert asked.times == 2 and "measuring the covariance of keys again" in caplog.text
    assert torch.equal(again.matrix, made.matrix) and path.read_bytes() == whole


def test_a_file_of_another_model_under_this_name_is_not_taken(model: TextModel, tmp_path: Path) -> None:
    asked, at = Asked(), sites(model.module)
    kept_covariances(model, at[:2], "some", asked, tmp_path)
    one, other = (_path(tmp_path, _note(model.fingerprint(), "some", site, 2048, 1e-4)) for site in at[:2])
    one.write_bytes(other.read_bytes())
    kept_covariances(model, at[:2], "some", asked, tmp_path)
    assert asked.times == 2


def test_a_bench_keeps_them_in_the_users_cache_or_where_it_is_told_or_nowhere(
    model: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    editor = Rome(layers=(1,))
    one = bench(model, editor, TEXTS)
    assert len(list(cache_folder("covariances").iterdir())) == 1 and cache_folder("covariances") == tmp_path / "own/asrlife/covariances"
    two = bench(model, editor, TEXTS, cache=tmp_path / "told")
    assert len(list((tmp_path / "told").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    three = bench(model, editor, TEXTS, cache=False)
    assert not (tmp_path / "none").exists()
    assert torch.equal(one.covariances[1].matrix, two.covariances[1].matrix)
    assert torch.equal(one.covariances[1].matrix, three.covariances[1].matrix)
    monkeypatch.setenv("XDG_CACHE_HOME", str(next((tmp_path / "told").iterdir())))  # a file cannot hold a folder
    with caplog.at_level(logging.WARNING, "asrlife"):
        bench(model, editor, TEXTS)
    assert "cannot be kept" in caplog.text


def test_texts_in_another_order_have_another_digest() -> None:
    assert digest(["a", "b"]) != digest(["b", "a"]) != digest(["ba"])
