"""Voices that read text aloud: espeak-ng inside the process, flite where it is installed."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from asrlife.errors import InputError

_RETRIEVAL, _UTF8, _PHONEMES = 1, 1, 0x100
_RATE, _PITCH = 1, 3  # espeak_PARAMETER numbers
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_FLITE = ("slt", "rms", "awb", "kal16", "kal")  # flite falls back to another voice without a word
_LOCK = threading.Lock()  # libespeak-ng keeps one voice and one callback for the whole process


@dataclass(frozen=True)
class Prosody:
    """How fast and how high a voice speaks; pitch runs from 0 (low) to 99 (high)."""

    words_per_minute: int = 165
    pitch: int = 50


class _Engine:
    """The process's one libespeak-ng with its callback."""

    def __init__(self) -> None:
        import espeakng_loader

        self.lib: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self.lib.espeak_Initialize(_RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), 0)
        if self.rate <= 0:
            raise RuntimeError("espeak-ng did not start; reinstall espeakng-loader")
        self.chunks: list[np.ndarray] = []
        self.callback = _CALLBACK(self._receive)
        self.lib.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, voice: str, text: str, prosody: Prosody) -> np.ndarray:
        """Return int16 samples at `self.rate`."""
        with _LOCK:
            self.chunks.clear()
            if self.lib.espeak_SetVoiceByName(voice.encode()):
                raise InputError(
                    f"espeak-ng has no voice {voice!r}; name a language with an optional variant, such as en-us or en-gb-x-rp+f3"
                )
            self.lib.espeak_SetParameter(_RATE, prosody.words_per_minute, 0)
            self.lib.espeak_SetParameter(_PITCH, prosody.pitch, 0)
            data = text.encode() + b"\0"
            self.lib.espeak_Synth(data, len(data), 0, 1, 0, _UTF8 | _PHONEMES, None, None)
            self.lib.espeak_Synchronize()
            return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16)


@cache
def _engine() -> _Engine:
    return _Engine()


def espeak(text: str, voice: str = "en-us", prosody: Prosody = Prosody()) -> tuple[np.ndarray, int]:
    """Speak `text` with espeak-ng; `voice` is a language with an optional variant, as in "en-us+f3"."""
    engine = _engine()
    return engine.speak(voice, text, prosody), engine.rate


def has_flite() -> bool:
    """Whether the flite program is installed."""
    return shutil.which("flite") is not None


def flite(text: str, voice: str = "slt", prosody: Prosody = Prosody()) -> tuple[np.ndarray, int]:
    """Speak `text` with flite (voices slt, rms, awb, kal16, kal); raises InputError where the program is missing or the voice unknown."""
    import soundfile

    if not has_flite():
        raise InputError("the program flite is not installed; install it, or take an espeak-ng voice such as en-us+f3")
    if voice not in _FLITE:
        raise InputError(f"flite has no voice {voice!r}; voices: {', '.join(_FLITE)}")

    stretch, hertz = 165 / prosody.words_per_minute, 75 + 1.6 * prosody.pitch
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}"]
        command += ["--setf", f"int_f0_target_mean={hertz:.1f}", "-t", text, "-o", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        samples, rate = soundfile.read(path, dtype="int16")
    return samples, rate
