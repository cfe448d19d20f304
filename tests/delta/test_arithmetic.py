"""Expressions over checkpoints on disk: identities bit for bit, what is carried, what is not moved, and what cannot be a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from asrlife.delta.arithmetic import CARD, Combination, write
from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.delta import Delta, Dense, between
from asrlife.delta.expression import parse
from asrlife.delta.roles import weight_norms
from asrlife.delta.weight_norm import effective, split
from asrlife.errors import InputError


def tuned(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def folders(model: nn.Module, tmp_path: Path) -> dict[str, Path]:
    """A base and two experts on disk."""
    for seed, name in enumerate("abc"):
        if seed:
            tuned(model, seed)
        model.save_pretrained(tmp_path / name)  # type: ignore[operator]
        (tmp_path / name / "vocab.json").write_text("{}")
    return {name: tmp_path / name for name in "abc"}


def combined(text: str, folders: dict[str, Path], **options: Any) -> Combination:
    return Combination(parse(text), {name: Checkpoint.open(folders[name]) for name in parse(text).names}, **options)


def test_the_result_is_the_formula_on_every_tensor(folders: dict[str, Path], tmp_path: Path) -> None:
    out = write(combined("a + 0.4 * (b - c)", folders), tmp_path / "out")
    a, b, c, found = (Checkpoint.open(folder) for folder in (*folders.values(), out))
    pairs = {name for pair in weight_norms(a.entries).values() for name in pair}
    for name in set(a) - pairs:
        assert torch.equal(found[name], a[name] + 0.4 * (b[name] - c[name]))
    for gain, direction in weight_norms(a.entries).values():
        wanted = [effective(each[gain], each[direction]) for each in (a, b, c)]
        made = effective(found[gain], found[direction])
        torch.testing.assert_close(made, wanted[0] + 0.4 * (wanted[1] - wanted[2]), rtol=1e-6, atol=1e-7)


def test_identities(folders: dict[str, Path], tmp_path: Path) -> None:
    a, b = Checkpoint.open(folders["a"]), Checkpoint.open(folders["b"])
    same = [("a", a), ("a + 0 * (b - c)", a), ("b", b), ("b + c - c", b), ("a + 0.5 * (b - b)", a)]
    for number, (text, wanted) in enumerate(same):
        found = Checkpoint.open(write(combined(text, folders), tmp_path / str(number)))
        exact = text != "b + c - c"
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)
    there, back = (dict(combined(text, folders).tensors()) for text in ("(b + c) / 2", "(c + b) / 2"))
    pairs = weight_norms(there)
    directions = {direction for _, direction in pairs.values()}  # as long as those of the first model named
    assert all(torch.equal(there[name], back[name]) for name in set(there) - directions)
    for gain, direction in pairs.values():
        torch.testing.assert_close(effective(there[gain], there[direction]), effective(back[gain], back[direction]), rtol=0, atol=1e-6)


def test_it_loads_and_runs(model: nn.Module, folders: dict[str, Path], tmp_path: Path, logits: Callable[[nn.Module], Tensor]) -> None:
    out = write(combined("0.5 * a + 0.5 * b", folders), tmp_path / "out", shard_size=4000)
    assert json.loads((out / CARD).read_text())["expression"] == "0.5 * a + 0.5 * b"
    assert (out / "vocab.json").exists() and (out / "config.json").exists() and (out / "model.safetensors.index.json").exists()
    again = type(model).from_pretrained(out).eval()  # type: ignore[attr-defined]
    assert bool(torch.isfinite(logits(again)).all())


def test_only_what_is_chosen_moves(folders: dict[str, Path], tmp_path: Path) -> None:
    a = Checkpoint.open(folders["a"])
    moved = [name for name in a if "norm" in name and name not in {n for pair in weight_norms(a).values() for n in pair}]
    found = Checkpoint.open(write(combined("a + 2 * (b - a)", folders, moved=moved), tmp_path / "out"))
    assert [name for name in a if not torch.equal(found[name], a[name])] == moved


def test_other_tensors_may_differ_where_they_do_not_move(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2), "embed": torch.ones(3)}, tmp_path / "a.safetensors")
    save_file({"w": torch.zeros(2), "embed": torch.ones(5), "more": torch.ones(1)}, tmp_path / "b.safetensors")
    files = {name: tmp_path / f"{name}.safetensors" for name in "ab"}
    with pytest.raises(InputError, match=r"shapes differ: 'embed' \[3\].*lacks|lacks.*shapes differ: 'embed' \[3\]"):
        combined("a + b - a", files)
    found = Checkpoint.open(write(combined("0.5 * a + 0.5 * b", files, moved=["w"]), tmp_path / "out.safetensors"))
    assert found["w"].tolist() == [0.5, 0.5] and found["embed"].tolist() == [1.0] * 3 and "more" not in found


def test_a_delta_applies_as_it_does_to_a_module(folders: dict[str, Path], tmp_path: Path) -> None:
    a, b = Checkpoint.open(folders["a"]), Checkpoint.open(folders["b"])
    delta = between(a, b)
    found = Checkpoint.open(write(Combination(parse("a + d"), {"a": a, "d": delta}), tmp_path / "out"))
    for name in a:
        torch.testing.assert_close(found[name], b[name], rtol=0, atol=1e-7)
    back = Combination(parse("b - d"), {"b": Checkpoint.open(tmp_path / "out"), "d": delta})
    for name, tensor in back.tensors():
        torch.testing.assert_close(tensor, a[name], rtol=0, atol=1e-6)


def test_buffers_and_statistics(tmp_path: Path) -> None:
    def norms(variance: float, count: int) -> dict[str, Tensor]:
        return {
            "bn.running_var": torch.tensor([variance]),
            "bn.running_mean": torch.tensor([-1.0]),
            "bn.num_batches_tracked": torch.tensor(count),
        }

    for name, variance, count in (("a", 1.0, 5), ("b", 0.5, 6), ("c", 4.0, 7)):
        save_file(norms(variance, count), tmp_path / f"{name}.safetensors")
    files = {name: tmp_path / f"{name}.safetensors" for name in "abc"}
    found = dict(combined("a + b - c", files).tensors())
    assert found["bn.running_var"].item() == 0.0 and found["bn.num_batches_tracked"].item() == 5
    assert found["bn.running_mean"].item() == -1.0


def test_sums_are_float32_and_round_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {name: torch.randn(512).bfloat16() for name in "abc"}
    for name, tensor in tensors.items():
        save_file({"w": tensor}, tmp_path / f"{name}.safetensors")
    files = {name: tmp_path / f"{name}.safetensors" for name in "abc"}
    a, b, c = (tensor.float() for tensor in tensors.values())
    combination = combined("a + 0.3 * (b - c)", files)
    assert torch.equal(Checkpoint.open(write(combination, tmp_path / "o.safetensors"))["w"], (a + 0.3 * (b - c)).bfloat16())
    wide = write(combination, tmp_path / "wide.safetensors", dtype=torch.float32)
    assert torch.equal(Checkpoint.open(wide)["w"], a + 0.3 * (b - c))
    exact = dict(combined("a + 0.3 * (b - c)", files, accumulate=torch.float64).tensors())["w"]
    assert torch.equal(exact, a.double() + 0.3 * (b.double() - c.double()))


def test_an_interrupted_run_goes_on(folders: dict[str, Path], tmp_path: Path) -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt

    combination = combined("a + 0.4 * (b - c)", folders)
    with pytest.raises(KeyboardInterrupt):
        write(combination, tmp_path / "out", shard_size=3000, advance=stop)
    assert not (tmp_path / "out").exists() and any((tmp_path / ".out.partial").glob("*.safetensors"))
    done = 0

    def count() -> None:
        nonlocal done
        done += 1

    write(combination, tmp_path / "out", shard_size=3000, advance=count)
    assert 0 < done < len(combination.base)
    whole = Checkpoint.open(write(combination, tmp_path / "whole"))
    resumed = Checkpoint.open(tmp_path / "out")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_makes_no_model(folders: dict[str, Path], tmp_path: Path) -> None:
    for text, total in (("a + b", 2), ("a - b", 0), ("0.5 * a", 0.5)):
        with pytest.raises(InputError, match=f"count {total} times in all"):
            combined(text, folders)
    a = Checkpoint.open(folders["a"])
    with pytest.raises(InputError, match="names deltas alone"):
        Combination(parse("d"), {"d": between(a, a)})
    with pytest.raises(InputError, match="a delta moves 'x'"):
        Combination(parse("a + d"), {"a": a, "d": Delta("b", {"x": Dense(torch.ones(1))})})
    name = next(iter(a))
    with pytest.raises(InputError, match=r"has shape \[1, 2, 3\] in a delta"):
        Combination(parse("a + d"), {"a": a, "d": Delta("b", {name: Dense(torch.ones(1, 2, 3))})})
    with pytest.raises(InputError, match="comes out NaN or infinite in torch.float16"):
        write(combined("a + 1e9 * (b - c)", folders), tmp_path / "out", dtype=torch.float16)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_weight_norm_is_that_of_torch() -> None:
    torch.manual_seed(0)
    conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 5), dim=2)
    gain, direction = (parameter.detach() for parameter in conv.parametrizations.weight.parameters())  # type: ignore[union-attr]
    weight = effective(gain, direction)
    torch.testing.assert_close(weight, conv.weight.detach(), rtol=0, atol=1e-7)
    torch.testing.assert_close(effective(*split(weight, gain, direction)), weight, rtol=1e-6, atol=1e-7)
    weight[:, :, 2] = 0
    torch.testing.assert_close(effective(*split(weight, gain, direction)), weight, rtol=1e-6, atol=1e-7)
