from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from asrlife.delta.delta import Change, Delta, Dense, LowRank
from asrlife.delta.file import load, save
from asrlife.errors import InputError

NOTE = {"method": "tune", "evidence": "digits, train", "seed": 3, "parents": [], "scores": {"wer": 0.1}, "author": "größer"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "digits.safetensors"
    changes: dict[str, Change] = {
        "a.weight": LowRank(torch.arange(6.0).reshape(3, 2), torch.arange(8.0).reshape(2, 4)),
        "a.bias": Dense(torch.ones(3, dtype=torch.float16)),
        "scale": Dense(torch.tensor(2.0)),
    }
    save(Delta("0123456789abcdef", changes, NOTE), path)
    return path


def card(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return found


def alter(path: Path, **fields: object) -> None:
    path.with_suffix(".json").write_text(json.dumps(card(path) | fields), encoding="utf-8")


def same(one: Change, other: Change) -> bool:
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        return torch.equal(one.up, other.up) and torch.equal(one.down, other.down)
    return type(one) is type(other) and one.dense().dtype == other.dense().dtype and torch.equal(one.dense(), other.dense())


def test_reads_back_what_it_wrote(saved: Path) -> None:
    delta = load(saved)
    assert delta.base == "0123456789abcdef"
    assert delta.note == NOTE
    assert sorted(delta.tensors) == ["a.bias", "a.weight", "scale"]
    low = delta.tensors["a.weight"]
    assert isinstance(low, LowRank) and low.up.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert delta.tensors["a.bias"].dense().dtype == torch.float16
    assert delta.tensors["scale"].dense().shape == ()


def test_equal_differences_give_equal_bytes(saved: Path, tmp_path: Path) -> None:
    for number in range(8):  # an order that is drawn at random is the same eight times in 128
        save(load(saved), tmp_path / f"{number}.safetensors")
        assert (tmp_path / f"{number}.safetensors").read_bytes() == saved.read_bytes()


def test_the_files_are_what_the_documentation_says(saved: Path) -> None:
    assert sorted(path.name for path in saved.parent.iterdir()) == ["digits.json", "digits.safetensors"]
    assert sorted(load_file(saved)) == ["a.bias", "a.weight.down", "a.weight.up", "scale"]
    found = card(saved)
    assert list(found) == ["version", "base", "method", "evidence", "seed", "parents", "scores", "low_rank", "note", "sha256"]
    assert found["note"] == {"author": "größer"}
    assert found["low_rank"] == ["a.weight"]
    assert found["sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()


names = st.sampled_from(["a", "a.up", "a.down", "a.up.down", "up", "b.weight"])


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, st.booleans()))
def test_names_that_end_like_factors_survive_or_are_refused(tmp_path: Path, kinds: dict[str, bool]) -> None:
    changes: dict[str, Change] = {
        name: LowRank(torch.full((2, 1), 1.0 + place), torch.ones(1, 2)) if low else Dense(torch.full((2, 2), -1.0 - place))
        for place, (name, low) in enumerate(kinds.items())
    }
    stored = [key for name, low in kinds.items() for key in ((f"{name}.up", f"{name}.down") if low else (name,))]
    path = tmp_path / "names.safetensors"
    if len(set(stored)) < len(stored):
        with pytest.raises(InputError, match="both be stored as"):
            save(Delta("base", changes), path)
        return
    save(Delta("base", changes), path)
    read = load(path).tensors
    assert read.keys() == changes.keys()
    assert all(same(read[name], changes[name]) for name in changes)


def test_views_transposes_and_nothing_at_all_can_be_saved(tmp_path: Path) -> None:
    buffer = torch.arange(12.0)
    path = tmp_path / "a.safetensors"
    save(Delta("base", {"a": Dense(buffer[:6].view(2, 3).T), "b": Dense(buffer[4:8])}), path)
    assert load(path).tensors["a"].dense().tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    save(Delta("base", {}), path)
    assert not load(path).tensors


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_written_nor_read(saved: Path, value: float) -> None:
    before = saved.read_bytes()
    with pytest.raises(InputError, match="'a' holds NaN or Inf"):
        save(Delta("base", {"a": Dense(torch.tensor([1.0, value]))}), saved)
    assert saved.read_bytes() == before
    tensors = load_file(saved)
    tensors["a.weight.down"][0, 0] = value
    save_file(tensors, saved)
    alter(saved, sha256=hashlib.sha256(saved.read_bytes()).hexdigest())
    with pytest.raises(InputError, match=r"digits.safetensors: 'a.weight.down' holds NaN"):
        load(saved)


@pytest.mark.parametrize("note", [{"method": object()}, {"seed": float("nan")}])
def test_a_note_that_is_not_json_is_refused_before_anything_is_written(saved: Path, note: dict[str, Any]) -> None:
    before = saved.read_bytes()
    with pytest.raises(InputError, match="the note of the delta is not JSON"):
        save(Delta("base", {}, note), saved)
    assert saved.read_bytes() == before
    assert load(saved).note == NOTE


def test_missing_files_are_named(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    saved.unlink()
    with pytest.raises(InputError, match=r"digits.safetensors cannot be read .No such file"):
        load(saved)
    saved.write_bytes(content)
    saved.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"the card .*digits.json cannot be read .No such file"):
        load(saved)
    for action in (load, lambda path: save(Delta("base", {}), path)):
        with pytest.raises(InputError, match="ends in .safetensors"):
            action(tmp_path / "digits.bin")


def test_numbers_are_views_of_the_file_that_never_write_to_it(saved: Path) -> None:
    before = saved.read_bytes()
    found = load(saved)
    for change in found.tensors.values():
        for tensor in (change.value,) if isinstance(change, Dense) else (change.up, change.down):
            tensor.mul_(3)
    assert saved.read_bytes() == before
    again = load(saved)
    assert found.norm() > 2 * again.norm() > 0


@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_truncation_is_noticed(saved: Path, left: int) -> None:
    saved.write_bytes(saved.read_bytes()[:left])
    with pytest.raises(InputError, match="truncated or not the file its card describes"):
        load(saved)
    alter(saved, sha256=hashlib.sha256(saved.read_bytes()).hexdigest())
    with pytest.raises(InputError, match="cut short"):
        load(saved)


def test_a_changed_number_or_a_card_of_another_file_is_noticed(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(InputError, match="not the file its card describes"):
        load(saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "format version 2, this asrlife reads 1"),
        ({"version": None}, "format version None"),
        ({"base": None}, "no valid 'base'"),
        ({"low_rank": "a.weight"}, "no valid 'low_rank'"),
        ({"low_rank": [["a"]]}, "no valid 'low_rank'"),
        ({"low_rank": ["a.weight", "b"]}, "lacks the tensor 'b.down'"),
        ({"note": []}, "no valid 'note'"),
        ({"sha256": 1}, "no valid 'sha256'"),
    ],
)
def test_a_card_that_is_wrong_says_where(saved: Path, fields: dict[str, object], message: str) -> None:
    alter(saved, **fields)
    with pytest.raises(InputError, match=message):
        load(saved)


@pytest.mark.parametrize(("content", "message"), [(b"{", "is not JSON"), (b"\xff\xfe{}", "is not JSON"), (b"[]", "format version None")])
def test_a_card_that_is_no_card(saved: Path, content: bytes, message: str) -> None:
    saved.with_suffix(".json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(saved)


def test_factors_that_do_not_fit_and_integers_are_refused(saved: Path) -> None:
    for tensors, message in (
        ({"a.weight.up": torch.ones(3, 2), "a.weight.down": torch.ones(3, 2)}, "are not"),
        ({"a.weight.up": torch.ones(3, 2), "a.weight.down": torch.ones(2, 2), "b": torch.tensor([1])}, "torch.int64"),
    ):
        save_file(tensors, saved)
        alter(saved, sha256=hashlib.sha256(saved.read_bytes()).hexdigest())
        with pytest.raises(InputError, match=message):
            load(saved)
