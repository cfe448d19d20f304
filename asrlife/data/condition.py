"""Acoustic conditions: the same noise for the same utterance, every time."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from asrlife.audio.noise import add_noise, babble, pink, white
from asrlife.audio.read import read
from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError

_MADE = ("white", "pink", "babble")
_RATE = 16_000
_BED = 60 * _RATE  # samples of made noise that excerpts are drawn from
_SOUNDS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au"})


@dataclass(frozen=True)
class Condition:
    """Noise (a sound file, a folder of them, "white", "pink" or "babble") at an SNR in dB; neither means clean.

    Raises InputError for one without the other and for noise that does not exist.
    """

    noise: str | None = None
    snr: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.noise is None) != (self.snr is None):
            given, missing = ("an SNR", "noise") if self.noise is None else ("noise", "SNR")
            raise InputError(f"the condition has {given} but no {missing}; give both, or neither for clean audio")
        if self.snr is not None and not math.isfinite(self.snr):
            raise InputError(f"the SNR is {self.snr} dB; give a finite number")
        if self.noise is not None and self.noise not in _MADE:
            _files(self.noise)

    @property
    def name(self) -> str:
        """For people: "picovoice_kitchen 5 dB" or "clean"."""
        return "clean" if self.noise is None else f"{Path(self.noise).stem} {self.snr:g} dB"

    def apply(self, utterance: Utterance) -> Utterance:
        """The utterance as heard under the condition, at 16 kHz; the excerpt depends on the seed and the utterance's id alone."""
        if self.noise is None or self.snr is None:
            return utterance
        rng = np.random.default_rng(list(hashlib.sha256(f"{self.seed} {utterance.id}".encode()).digest()))
        noise = _bed(self.noise, self.seed) if self.noise in _MADE else _recording(self.noise, rng)
        try:
            return replace(utterance, audio=add_noise(utterance.waveform(_RATE), noise, self.snr, rng))
        except InputError as error:
            raise InputError(f"{utterance.id} in {self.name}: {error}") from error


def _recording(noise: str, rng: np.random.Generator) -> Waveform:
    files = _files(noise)
    file = files[rng.integers(len(files))]
    return _read(file, file.stat().st_mtime_ns)


def _files(noise: str) -> list[Path]:
    path = Path(noise)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SOUNDS)
        if not files:
            raise InputError(f"{path}: the folder holds no sound files; name another")
        return files
    if not path.is_file():
        raise InputError(f"noise {noise!r} is no file, no folder and none of {', '.join(_MADE)}; check the name")
    return [path]


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int) -> Waveform:
    return read(path, _RATE)


@lru_cache(maxsize=4)
def _bed(kind: str, seed: int) -> Waveform:
    if kind == "babble":
        return babble(_BED, seed)
    return (white if kind == "white" else pink)(_BED, np.random.default_rng(seed))
