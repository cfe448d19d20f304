from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asrlife
from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.models.text import load_text

KINDS = ["ctc", "whisper", "lm"]
WORDS = ["one two", "abc", "who is it", "a red cat", "go on", "now"]


def spoken(count: int, seed: int = 0, name: str = "u") -> Corpus:
    """Noises of 0.3 to 0.6 s that stand for sentences."""
    rng = np.random.default_rng(seed)

    def one(place: int) -> Utterance:
        samples = 0.1 * rng.standard_normal(int(16_000 * rng.uniform(0.3, 0.6)))
        return Utterance(f"{name}{seed}-{place}", Waveform(samples, 16_000), f"{WORDS[place % len(WORDS)]} {'abcdefgh'[seed % 8]}")

    return Corpus(tuple(one(place) for place in range(count)))


@pytest.fixture(scope="session")
def folders(ctc_folder: Callable[..., Path], whisper_folder: Path, lm_folder: Path) -> dict[str, Path]:
    return {"ctc": ctc_folder(), "whisper": whisper_folder, "lm": lm_folder}


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> Callable[[str], Any]:
    """Every call loads anew."""
    return lambda kind: load_text(folders[kind]) if kind == "lm" else asrlife.load(folders[kind])


@pytest.fixture
def corpus() -> Callable[..., Corpus]:
    return spoken
