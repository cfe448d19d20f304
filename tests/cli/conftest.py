from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asrlife.cli import main
from asrlife.recipe.speech import read_aloud, readings

SENTENCES = ["turn on the kitchen light", "what time is it", "one two three four"]


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def asrlife(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        written = capfd.readouterr()
        return Ended(code, written.out, written.err)

    return run


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sentences read aloud."""
    return read_aloud(readings(SENTENCES, ["en-us+f3", "en-us+m3"], seed=1), tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="session")
def speech(manifest: Path) -> list[Path]:
    return sorted((manifest.parent / "audio").glob("*.flac"))
