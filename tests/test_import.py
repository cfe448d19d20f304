from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

import asrlife

HEAVY = {"torch", "torchaudio", "transformers", "matplotlib", "jiwer", "scipy", "soundfile", "pydantic", "grpc", "typer"}


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=dict(os.environ)).stdout


def test_import_brings_nothing_heavy() -> None:
    loaded = set(run_python("import sys, asrlife; print(*sys.modules)").split())
    assert not loaded & HEAVY


def test_help_brings_no_model_library() -> None:
    code = "import sys, asrlife.cli as c; c.main(['--help']); c.main(['evaluate', '--help']); print('MODULES', *sys.modules)"
    loaded = set(run_python(code).partition("MODULES")[2].split())
    assert "typer" in loaded
    assert not loaded & {"torch", "torchaudio", "transformers", "matplotlib", "jiwer", "scipy", "grpc"}


def test_import_is_quick() -> None:
    def seconds(code: str) -> float:
        start = time.perf_counter()
        run_python(code)
        return time.perf_counter() - start

    bare = min(seconds("pass") for _ in range(5))
    assert min(seconds("import asrlife") for _ in range(5)) - bare < 0.6  # 0.3 s is the aim; twice that for a busy machine


@pytest.mark.parametrize("name", sorted(set(asrlife.__all__) - {"__version__"}))
def test_public_name_is_there(name: str) -> None:
    assert getattr(asrlife, name).__name__ == name
    assert name in dir(asrlife)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Waveforn'"):
        asrlife.Waveforn  # noqa: B018
