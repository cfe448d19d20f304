"""Output that is whole or absent: shards, resumption, interruption at any point, and who else writes there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.shards import Spec
from asrlife.delta.writer import Writer
from asrlife.errors import InputError

NAMES = ("a", "b", "c", "d")
SPECS = {name: Spec(torch.float32, (4,)) for name in NAMES}
TWO_SHARDS = 32


def value(name: str) -> Tensor:
    return torch.full((4,), float(ord(name)))


def write(out: Path, names: tuple[str, ...] = NAMES, **options: object) -> frozenset[str]:
    """Put what is not finished yet of `names` and finish; what had been finished."""
    with Writer(out, SPECS, shard_size=TWO_SHARDS, **options) as writer:  # type: ignore[arg-type]
        finished = writer.finished
        for name in names:
            if name not in finished:
                writer.put(name, value(name))
        writer.finish()
    return finished


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_comes_back_sharded_with_all_that_belongs_to_it(model: nn.Module, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")  # type: ignore[operator]
    source = Checkpoint.open(tmp_path / "model")
    with Writer(tmp_path / "copy", source.entries, shard_size=4000, tied=source.tied) as writer:
        for name in source:
            writer.put(name, source[name])
        writer.carry(source.carried(), {"merge.json": "{}"})
        writer.finish()
    again = Checkpoint.open(tmp_path / "copy")
    assert len(again.entries) == len(source.entries) and len({entry.path for entry in again.entries.values()}) > 1
    assert all(torch.equal(again[name], source[name]) for name in source)
    loaded = type(model).from_pretrained(tmp_path / "copy")  # type: ignore[attr-defined]
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert {"config.json", "merge.json", "model.safetensors.index.json"} <= set(listing(tmp_path / "copy"))
    assert listing(tmp_path) == ["copy", "model"]


def test_one_file_is_what_safetensors_would_have_written(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3, 5).bfloat16(), "b": torch.randn(5), "n": torch.tensor(7), "none": torch.zeros(0, 2)}
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    with Writer(tmp_path / "ours.safetensors", {n: Spec(t.dtype, tuple(t.shape)) for n, t in tensors.items()}) as writer:
        for name, tensor in tensors.items():
            writer.put(name, tensor)
        assert not (tmp_path / "ours.safetensors").exists()
        writer.finish()
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    assert listing(tmp_path) == ["ours.safetensors", "theirs.safetensors"]


def test_rounding_to_the_dtype_of_the_place(tmp_path: Path) -> None:
    exact = torch.randn(64)
    with Writer(tmp_path / "x.safetensors", {"a": Spec(torch.bfloat16, (64,))}) as writer:
        writer.put("a", exact)
        writer.finish()
    assert torch.equal(load_file(tmp_path / "x.safetensors")["a"], exact.bfloat16())


def test_tied_copies_are_written_with_their_first(tmp_path: Path) -> None:
    with Writer(tmp_path / "out", {"embed": SPECS["a"]}, tied={"head": "embed"}, shard_size=16) as writer:
        writer.place("embed").write(2, value("a")[2:])
        writer.place("embed").write(0, value("a")[:2])
        writer.done("embed")
        writer.finish()
    assert torch.equal(Checkpoint.open(tmp_path / "out")["head"], value("a"))


def test_a_tied_copy_whose_shard_was_interrupted_is_written_again(tmp_path: Path) -> None:
    specs, wanted = {"a": SPECS["a"], "c": SPECS["c"]}, {"a": value("a"), "c": value("c")}
    given = {"plan": "p", "tied": {"b": "a"}, "shard_size": 16}

    class Stopped(Exception):
        pass

    with pytest.raises(Stopped), Writer(tmp_path / "out", specs, **given) as writer:  # type: ignore[arg-type]
        for part in writer._parts:  # as if it had stopped between the first and its copy
            if "a" in part.specs:
                part.place("a").write(0, value("a"))
                part.done("a")
        raise Stopped
    with Writer(tmp_path / "out", specs, **given) as writer:  # type: ignore[arg-type]
        assert writer.finished == frozenset()
        for name, tensor in wanted.items():
            writer.put(name, tensor)
        writer.finish()
    found = Checkpoint.open(tmp_path / "out")
    assert all(torch.equal(found[name], value(first)) for name, first in (("a", "a"), ("b", "a"), ("c", "c")))


def test_a_tensor_that_was_never_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not whole: 1 tensors such as 'd'"):
        write(tmp_path / "out", NAMES[:3])
    assert listing(tmp_path) == []
    with pytest.raises(InputError, match=r"'a' has shape \[2\]"), Writer(tmp_path / "out", SPECS) as writer:
        writer.put("a", torch.ones(2))
    assert listing(tmp_path) == []


def test_a_second_run_of_the_same_plan_goes_on(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write(tmp_path / "out", NAMES[:3], plan="p")
    assert listing(tmp_path) == [".out.partial"]
    assert sorted(path.suffix for path in (tmp_path / ".out.partial").iterdir()) == ["", ".safetensors"]
    assert write(tmp_path / "out", plan="p") == {"a", "b"}
    assert listing(tmp_path) == ["out"] and listing(tmp_path / "out")[0].startswith("model-00001")
    assert all(torch.equal(Checkpoint.open(tmp_path / "out")[name], value(name)) for name in NAMES)


@pytest.mark.parametrize("plan", ["another", ""])
def test_another_plan_starts_clean(plan: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write(tmp_path / "out", NAMES[:3], plan="p")
    assert write(tmp_path / "out", plan=plan) == frozenset()
    assert listing(tmp_path) == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_writer import SPECS, TWO_SHARDS, Writer, value
writer = Writer(Path({out!r}), SPECS, plan="p", shard_size=TWO_SHARDS)
for name in "abc":
    writer.put(name, value(name))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_nothing_half(tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(tmp_path / "out"))
    ended = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert listing(tmp_path) == [".out.partial"]
    assert write(tmp_path / "out", plan="p") == {"a", "b"}
    assert listing(tmp_path) == ["out"] and len(Checkpoint.open(tmp_path / "out")) == 4


def test_one_process_writes_a_place_at_a_time(tmp_path: Path) -> None:
    with Writer(tmp_path / "out", SPECS):
        with pytest.raises(InputError, match="being written by another process"):
            Writer(tmp_path / "out", SPECS)
    write(tmp_path / "out")


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with pytest.raises(InputError, match="is there already"):
        write(tmp_path / "out")
    (tmp_path / "x.safetensors").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        write(tmp_path / "x.safetensors")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert len(Checkpoint.open(tmp_path / "empty")) == 4


def test_a_disk_that_is_too_small_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs 4000000000.0 GB and the disk has"):
        Writer(tmp_path / "out", {"a": Spec(torch.float32, (10**18,))})


def test_the_card_of_a_recogniser_goes_without_its_scores(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "card.json").write_text(json.dumps({"name": "x", "edge_padding_s": 0.1, "scores": {"wer": 1}}))
    with Writer(tmp_path / "out", SPECS) as writer:
        for name in NAMES:
            writer.put(name, value(name))
        writer.carry([tmp_path / "from" / "card.json"])
        writer.finish()
    assert json.loads((tmp_path / "out" / "card.json").read_text()) == {"name": "x", "edge_padding_s": 0.1}
