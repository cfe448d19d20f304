"""A merge that is killed, between tensors or within one, is done again to the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asrlife.delta.checkpoint import Checkpoint
from asrlife.methods.merge.config import parse
from asrlife.methods.merge.run import merge
from tests.methods.merge.folders import tuned

PIECE = 64  # elements; a model of 16 dimensions has some hundred of these
KILLED = """
import json, os, signal, sys
from pathlib import Path
from asrlife.delta import writer
from asrlife.methods.merge import fused
from asrlife.methods.merge.config import parse
from asrlife.methods.merge.run import merge
config, out, shard_size, piece, writes = json.loads(sys.argv[1])
fused.PIECE = writer.PIECE = piece
write, left = writer.Place.write, writes
def counted(*given):
    global left
    write(*given)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
writer.Place.write = counted
merge(parse(config), Path(out), shard_size=shard_size, check=False)
"""


def killed(config: dict[str, object], out: Path, shard_size: int, writes: int) -> None:
    """A process that merges and kills itself after so many pieces."""
    given = json.dumps([config, str(out), shard_size, PIECE, writes])
    ended = subprocess.run([sys.executable, "-c", KILLED, given], env=os.environ, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("shards", [1, 5])
def test_a_killed_merge_gives_the_same_bytes_when_done_again(shards: int, lm_folder: Path, tmp_path: Path) -> None:
    experts = [str(tuned(lm_folder, tmp_path / name, seed)) for seed, name in enumerate("ab")]
    config = {"merge_method": "ties", "base_model": str(lm_folder), "models": [{"model": model} for model in experts]}
    config["parameters"] = {"density": 0.3}
    total = Checkpoint.open(lm_folder).nbytes
    size, pieces = -(-total // shards) + 1, total // 4 // PIECE
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    merge(parse(config), undisturbed, shard_size=size, check=False)
    for writes in (2 * pieces // 3, pieces // 4):  # the second takes up what the first left
        killed(config, out, size, max(1, writes))
        assert not out.exists() and (tmp_path / ".out.partial").is_dir()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".out.partial").glob("*.safetensors")}
    assert bool(kept) == (shards > 1)
    merge(parse(config), out, shard_size=size, check=False)
    assert content(out) == content(undisturbed)
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept, "whole shards are not written again"
    assert not (tmp_path / ".out.partial").exists()
