"""`asrlife tune` killed with SIGKILL goes on with the same command, to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asrlife.delta import file


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_with_the_same_bits(asrlife, ctc_folder: Callable[..., Path], manifest: Path, tmp_path: Path) -> None:
    options = ["--steps", "60", "--batch-seconds", "6", "--rate", "1e-3", "--set", "every=5", "--threads", "1", "--keep", "lwf:0.1"]
    line = ["tune", str(ctc_folder()), "--train", str(manifest), *options]
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert asrlife(*line, "--out", whole).code == 0
    command = [sys.executable, "-m", "asrlife", *line, "--out", str(cut)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "cut.checkpoint.safetensors"
    for _ in range(2400):
        if checkpoint.exists() or child.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(30) == -signal.SIGKILL and checkpoint.exists() and not cut.exists()
    assert asrlife(*line, "--out", cut).code == 0 and not checkpoint.exists()
    one, two = file.load(whole), file.load(cut)
    assert one.tensors.keys() == two.tensors.keys()
    assert all(torch.equal(one.tensors[name].dense(), two.tensors[name].dense()) for name in one.tensors)
    assert [entry["step"] for entry in two.note["history"]] == list(range(0, 61, 5))
