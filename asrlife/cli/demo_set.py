"""The noisy speech that the demo streams: real where it stands beside the project, synthetic everywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import asrlife
from asrlife.cli import console
from asrlife.errors import InputError

if TYPE_CHECKING:
    from asrlife.data.condition import Condition
    from asrlife.data.corpus import Corpus

# voices that the embedded models never heard
VOICES = ("en-us+f4", "en-us+m7", "en-us+Michael", "en-gb-x-rp+f4", "en-us+edward", "en-us+steph2")
REAL, KITCHEN, KITCHEN_SNR = "speech-grid/transcripts.jsonl", "noise/audio/picovoice_kitchen.flac", 5.0  # dB
MADE, MADE_SNR = "pink", 10.0  # dB


@dataclass(frozen=True, eq=False)
class NoisySet:
    """Utterances with noise in them, and in words what they are."""

    corpus: Corpus
    speech: str
    condition: Condition


def noisy_set(folder: Path, count: int, seed: int) -> NoisySet:
    """Make `count` noisy utterances; synthetic speech is kept in `folder` for the next time."""
    data = beside()
    if (data / REAL).is_file() and (data / KITCHEN).is_file():
        return _real(data, count, seed)
    return _synthetic(folder, count, seed)


def beside() -> Path:
    """Where real speech may be: in the folder "shared" beside the project."""
    return Path(asrlife.__file__).parents[2] / "shared" / "data"


def _real(data: Path, count: int, seed: int) -> NoisySet:
    from asrlife.data.corpus import Corpus

    corpus = Corpus.read(data / REAL, check=True).split("test").limit(count)
    return _noisy(corpus, str(data / KITCHEN), KITCHEN_SNR, seed, "real commands of one GRID speaker (test split)")


def _synthetic(folder: Path, count: int, seed: int) -> NoisySet:
    from asrlife.data.corpus import Corpus
    from asrlife.recipe.speech import read_aloud, readings
    from asrlife.text.grammar import Grammar

    sentences = list(islice(Grammar.read(_grammar()).stream(seed + 4711, "grid"), count))
    plans = readings(sentences, VOICES, seed)
    with console.progress("reading aloud", len(plans)) as advance:
        manifest = read_aloud(plans, folder, advance)
    return _noisy(Corpus.read(manifest), MADE, MADE_SNR, seed, f"synthetic commands of {len(VOICES)} voices unknown to the model")


def _noisy(clean: Corpus, noise: str, snr: float, seed: int, speech: str) -> NoisySet:
    from asrlife.data.condition import Condition
    from asrlife.data.corpus import Corpus

    condition = Condition(noise, snr, seed)
    return NoisySet(Corpus(tuple(condition.apply(u) for u in clean)), speech, condition)


def _grammar() -> Path:
    from asrlife.recipe.recipe import folder

    path = folder() / "embedded" / "grammar.yaml"
    if not path.is_file():
        raise InputError(f"{path}: the grammar of the demo is missing; install asrlife again")
    return path
