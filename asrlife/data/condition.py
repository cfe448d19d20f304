"""Acoustic conditions: the same noise for the same utterance, every time."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from asrlife.audio.noise import add_noise, add_noise_from_start, add_room, babble, hum, machine, pink, room, white
from asrlife.audio.read import read
from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError

Excerpts = Literal["random", "published"]
NOISES = ("white", "pink", "babble", "hum", "machine")  # made when asked for
ROOMS = ("room",)
_COLOURS = {"white": white, "pink": pink, "hum": hum, "machine": machine}
_RATE = 16_000
_BED = 60 * _RATE  # samples of made noise that excerpts are drawn from
_SOUNDS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au"})


@dataclass(frozen=True)
class Condition:
    """Noise at an SNR in dB, a room, both, or neither, which is clean speech.

    `noise` is a sound file, a folder of them (one is drawn for each utterance), or "white", "pink", "babble", "hum" or "machine", made
    from `seed`. `room` is an impulse response in a file, a folder of them, or "room", one room made from `seed`. The room comes first
    and keeps the power of the speech, so that the SNR is that of the speech in the room.
    Raises InputError for noise without an SNR or the other way round, and for what does not exist.
    """

    noise: str | None = None
    snr: float | None = None
    seed: int = 0
    room: str | None = None

    def __post_init__(self) -> None:
        if (self.noise is None) != (self.snr is None):
            given, missing = ("an SNR", "noise") if self.noise is None else ("noise", "SNR")
            raise InputError(f"the condition has {given} but no {missing}; give both, or neither for clean audio")
        if self.snr is not None and not math.isfinite(self.snr):
            raise InputError(f"the SNR is {self.snr} dB; give a finite number")
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}; it must be at least 0")
        for kind, name, made in (("noise", self.noise, NOISES), ("room", self.room, ROOMS)):
            if name is not None and name not in made:
                sounds(name, kind, made)

    @property
    def clean(self) -> bool:
        """Whether speech stays as it is."""
        return self.noise is None and self.room is None

    @property
    def name(self) -> str:
        """For people: "picovoice_kitchen 5 dB", "pink 0 dB in room" or "clean"."""
        noise = None if self.noise is None else f"{Path(self.noise).stem} {self.snr:g} dB"
        room = None if self.room is None else Path(self.room).stem
        return " in ".join(part for part in (noise, room) if part) or "clean"

    def apply(self, utterance: Utterance, excerpts: Excerpts = "random") -> Utterance:
        """The utterance as heard under the condition, at 16 kHz; the excerpt depends on the seed and the utterance's id alone.

        `excerpts` "published" mixes as `add_noise_from_start` does: every utterance hears the first seconds of the noise, but for
        "white", which is new each time there, too.
        """
        if self.clean:
            return utterance
        rng = np.random.default_rng(list(hashlib.sha256(f"{self.seed} {utterance.id}".encode()).digest()))
        try:
            return replace(utterance, audio=self._noisy(self._reverberant(utterance.waveform(_RATE), rng), excerpts, rng))
        except InputError as error:
            raise InputError(f"{utterance.id} in {self.name}: {error}") from error

    def _reverberant(self, speech: Waveform, rng: np.random.Generator) -> Waveform:
        if self.room is None:
            return speech
        return add_room(speech, _made_room(self.seed) if self.room in ROOMS else recording(self.room, "room", ROOMS, rng))

    def _noisy(self, speech: Waveform, excerpts: Excerpts, rng: np.random.Generator) -> Waveform:
        if self.noise is None or self.snr is None:
            return speech
        if excerpts == "published":
            fresh = self.noise == "white"
            return add_noise_from_start(speech, white(len(speech.samples), rng) if fresh else self._source(rng), self.snr)
        return add_noise(speech, self._source(rng), self.snr, rng)

    def _source(self, rng: np.random.Generator) -> Waveform:
        name = str(self.noise)
        return made_noise(name, self.seed) if name in NOISES else recording(name, "noise", NOISES, rng)


def sounds(name: str, kind: str = "noise", made: tuple[str, ...] = NOISES) -> list[Path]:
    """The sound file `name`, or those in the folder `name`, sorted; raises InputError, naming what is `made`, where there are none."""
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SOUNDS)
        if not files:
            raise InputError(f"{path}: the folder holds no sound files; name another")
        return files
    if not path.is_file():
        instead = f"not {made[0]!r}" if len(made) == 1 else f"none of {', '.join(made)}"
        raise InputError(f"{kind} {name!r} is no file, no folder and {instead}; check the name")
    return [path]


def recording(name: str, kind: str, made: tuple[str, ...], rng: np.random.Generator) -> Waveform:
    """The sound in the file `name` at 16 kHz, or in one of the folder's, drawn by `rng`; raises InputError as `sounds` does."""
    files = sounds(name, kind, made)
    file = files[rng.integers(len(files))]
    return _read(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int) -> Waveform:
    return read(path, _RATE)


@lru_cache(maxsize=16)
def made_noise(kind: str, seed: int) -> Waveform:
    """A minute of one of NOISES at 16 kHz; equal arguments give equal samples."""
    return babble(_BED, seed) if kind == "babble" else _COLOURS[kind](_BED, np.random.default_rng(seed))


@lru_cache(maxsize=16)
def _made_room(seed: int) -> Waveform:
    return room(np.random.default_rng(seed))
