"""Other rooms, noises, speeds and telephones for speech that was read aloud: torchaudio's and SpeechBrain's means, chosen by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from asrlife.audio.noise import room as make_room
from asrlife.audio.waveform import Waveform
from asrlife.data.condition import NOISES, ROOMS, made_noise, recording
from asrlife.errors import InputError

KINDS = ("speed", "noise", "reverb", "codec")
CODECS = {"ulaw": ("WAV", "ULAW"), "mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}  # SpeechBrain's
_SPEEDS = (0.9, 0.95, 1.05, 1.1)
_SNR_DB = (5, 25)
_PEAK = 0.99


@dataclass(frozen=True)
class Augmentation:
    """What is done to a clip: speed as a factor, a room, noise at an SNR in dB, a codec; in this order, each where it is not None.

    `noise` is one of NOISES or a file or folder of sounds, `room` "room" or a file or folder of impulse responses. `seed` makes the room,
    and draws the file and the excerpt; made noises are a minute each, the same for all clips, as making them takes seconds.
    """

    speed: float | None = None
    room: str | None = None
    noise: str | None = None
    snr: int | None = None
    codec: str | None = None
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """What is done, without what is not."""
        found = {key: getattr(self, key) for key in ("speed", "room", "noise", "snr", "codec") if getattr(self, key) is not None}
        return {**found, "seed": self.seed} if found else {}

    @property
    def name(self) -> str:
        """For people: "1.05 x, room, pink 12 dB, mp3", or "as read"."""
        parts = [f"{self.speed:g} x" if self.speed else None, self.room, f"{self.noise} {self.snr} dB" if self.noise else None, self.codec]
        return ", ".join(part for part in parts if part) or "as read"

    def apply(self, speech: Waveform) -> Waveform:
        """The clip as changed, at its rate; a peak above full scale is turned down as a whole. Equal clips come out equal."""
        import torch

        rng = np.random.default_rng(self.seed)
        wave = torch.from_numpy(speech.samples.copy())
        wave = _faster(wave, speech.rate, self.speed) if self.speed else wave
        wave = _in_room(wave, self._impulse(rng).resampled(speech.rate)) if self.room else wave
        wave = _noisy(wave, self._source(rng).resampled(speech.rate), float(self.snr or 0), rng) if self.noise else wave
        wave = wave / max(1.0, float(wave.abs().max()) / _PEAK)
        wave = _coded(wave, speech.rate, self.codec) if self.codec else wave
        return Waveform(wave.numpy(), speech.rate)

    def _impulse(self, rng: np.random.Generator) -> Waveform:
        return make_room(rng) if self.room in ROOMS else recording(str(self.room), "room", ROOMS, rng)

    def _source(self, rng: np.random.Generator) -> Waveform:
        return made_noise(str(self.noise), 0) if self.noise in NOISES else recording(str(self.noise), "noise", NOISES, rng)


def drawn(kinds: Sequence[str], key: str, noise: str | None = None, room: str | None = None) -> Augmentation:
    """An augmentation that depends on `kinds` and `key` alone; each kind is there in half of all draws.

    Speeds are 0.9, 0.95, 1.05 or 1.1, SNRs 5 to 25 dB. Raises InputError as `check` does.
    """
    check(kinds)
    digest = hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()
    rng = np.random.default_rng(list(digest))
    some = {kind for kind, chance in zip(KINDS, rng.random(len(KINDS)), strict=True) if chance < 0.5} & set(kinds)
    speed, made, snr = float(rng.choice(_SPEEDS)), str(rng.choice(NOISES)), int(rng.integers(_SNR_DB[0], _SNR_DB[1] + 1))
    codec, seed = str(rng.choice(list(CODECS))), int(rng.integers(2**31))
    return Augmentation(
        speed if "speed" in some else None,
        (room or "room") if "reverb" in some else None,
        (noise or made) if "noise" in some else None,
        snr if "noise" in some else None,
        codec if "codec" in some else None,
        seed,
    )


def check(kinds: Sequence[str]) -> None:
    """Raise InputError for a kind that is none of KINDS, and for codecs where SpeechBrain is not installed."""
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"no augmentation is called {kind!r}; known: {', '.join(KINDS)}, or all")
    if "codec" in kinds:
        _codec(16_000)


def _faster(wave: Any, rate: int, factor: float) -> Any:
    from torchaudio.functional import speed

    return speed(wave, rate, factor)[0]


def _in_room(wave: Any, impulse: Waveform) -> Any:
    """Convolved, the direct sound where it was, with the power it had."""
    import torch
    from torchaudio.functional import fftconvolve

    response = torch.from_numpy(impulse.samples.copy())
    start = int(response.abs().argmax())
    wet = fftconvolve(wave, response)[start : start + len(wave)]
    return wet * (wave.square().mean() / wet.square().mean().clamp_min(1e-12)).sqrt()


def _noisy(wave: Any, noise: Waveform, snr: float, rng: np.random.Generator) -> Any:
    import torch
    from torchaudio.functional import add_noise

    places = (np.arange(len(wave)) + rng.integers(len(noise.samples))) % len(noise.samples)
    excerpt = torch.from_numpy(noise.samples[places])
    return add_noise(wave, excerpt, torch.tensor(snr)) if bool(excerpt.any()) else wave


def _coded(wave: Any, rate: int, codec: str) -> Any:
    return _codec(rate).apply_codec(wave, *CODECS[codec])


@cache
def _codec(rate: int) -> Any:
    """SpeechBrain's codecs, from their file alone.

    Importing the package takes seconds, and the lazy modules it leaves in sys.modules fail whoever looks through them.
    """
    package = find_spec("speechbrain")
    file = Path(next(iter(package.submodule_search_locations or [""]))) / "augment" / "codec.py" if package else Path()
    spec = spec_from_file_location("asrlife_speechbrain_codec", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError("the augmentation codec needs SpeechBrain; pip install 'asrlife[speechbrain]', or leave codec out")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CodecAugment(rate)
