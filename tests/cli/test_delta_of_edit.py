"""asrlife delta on an edit's file, and asrlife merge with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asrlife.data.edit import EditRequest
from asrlife.delta.file import load, save
from asrlife.delta.weights import applied
from asrlife.methods.edit.edit import bench, edit
from asrlife.methods.edit.editors import Rome
from asrlife.methods.edit.values import Search
from asrlife.models.text import TextModel, load_text

Run = Callable[..., Any]
EDITS = (EditRequest("Leila Castell", "Leila Castell was born in", "Oslo"), EditRequest("Ravi Holm", "Ravi Holm works at", "Seville"))
EDITOR = Rome(layers=(1,), search=Search(steps=4))


@pytest.fixture(scope="module")
def model() -> TextModel:
    return load_text("embedded:lm")


@pytest.fixture(scope="module")
def folder(model: TextModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deltas a and b."""
    place, at = tmp_path_factory.mktemp("edits"), bench(model, EDITOR, [one.prompt for one in EDITS])
    for name, one in zip("ab", EDITS, strict=True):
        save(edit(model, [one], EDITOR, at=at), place / f"{name}.safetensors")
    return place


def test_an_edit_is_shown_added_turned_round_and_applied(
    asrlife: Run, model: TextModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    told = asrlife("delta", "show", "a.safetensors", "--json").json()
    a, b = load(folder / "a.safetensors"), load(folder / "b.safetensors")
    assert "Leila Castell" in str(told) and a.base in str(told)
    assert asrlife("delta", "show", "a.safetensors").code == 0
    assert asrlife("delta", "add", "a.safetensors", "b.safetensors", "--out", tmp_path / "both.safetensors").code == 0
    both = load(tmp_path / "both.safetensors")
    assert (both - (a + b)).norm() <= 1e-6 * both.norm() and next(iter(both.tensors.values())).rank == 2  # type: ignore[union-attr]
    assert asrlife("delta", "negate", "a.safetensors", "--out", tmp_path / "without.safetensors").code == 0
    assert (
        asrlife("delta", "apply", "embedded:lm", tmp_path / "both.safetensors", "--dtype", "float32", "--out", tmp_path / "edited").code
        == 0
    )
    with applied(model.module, both):
        assert load_text(tmp_path / "edited").fingerprint() == model.fingerprint()
    ended = asrlife("delta", "apply", tmp_path / "edited", tmp_path / "without.safetensors", "--out", tmp_path / "less")
    assert ended.code == 2 and "--any-base" in ended.err  # it was made for the base, and says so
    command = ("delta", "apply", tmp_path / "edited", tmp_path / "without.safetensors", "--any-base", "--out", tmp_path / "less")
    assert asrlife(*command).code == 0
    less = load_text(tmp_path / "less").module.state_dict()
    with applied(model.module, b):
        for name, weight in model.module.state_dict().items():
            torch.testing.assert_close(less[name], weight, atol=1e-5, rtol=0)
