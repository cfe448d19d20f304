"""Voices that read text aloud: espeak-ng inside the process, flite where it is installed."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asrlife.errors import InputError

_RETRIEVAL, _UTF8, _PHONEMES = 1, 1, 0x100
_RATE, _PITCH = 1, 3  # espeak_PARAMETER numbers
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
FLITE = ("slt", "rms", "awb", "kal16", "kal")  # flite falls back to another voice without a word
_LOCK = threading.Lock()  # espeak-ng sets the process's locale while it starts


@dataclass(frozen=True)
class Prosody:
    """How fast and how high a voice speaks; pitch runs from 0 (low) to 99 (high)."""

    words_per_minute: int = 165
    pitch: int = 50


def espeak(text: str, voice: str = "en-us", prosody: Prosody = Prosody()) -> tuple[np.ndarray, int]:
    """Speak `text` with espeak-ng as int16 samples and their rate in Hz; the same call gives the same samples, whatever was said before.

    `voice` is a language with an optional variant, as in "en-us+f3"; an unknown one raises InputError.
    """
    with _LOCK, _engine() as (lib, rate):
        chunks: list[np.ndarray] = []
        callback = _CALLBACK(lambda samples, count, _: _keep(chunks, samples, count))
        lib.espeak_SetSynthCallback(callback)
        if lib.espeak_SetVoiceByName(voice.encode()):
            fix = "name a language with an optional variant, such as en-us or en-gb-x-rp+f3"
            raise InputError(f"espeak-ng has no voice {voice!r}; {fix}")
        lib.espeak_SetParameter(_RATE, prosody.words_per_minute, 0)
        lib.espeak_SetParameter(_PITCH, prosody.pitch, 0)
        data = text.encode() + b"\0"
        lib.espeak_Synth(data, len(data), 0, 1, 0, _UTF8 | _PHONEMES, None, None)
        lib.espeak_Synchronize()
        return np.concatenate(chunks) if chunks else np.zeros(0, np.int16), rate


@contextmanager
def _engine() -> Iterator[tuple[Any, int]]:
    """A libespeak-ng that has never spoken, and its rate in Hz.

    Its random breath and pitch flutter live in static variables that only loading can reset, and a library is loaded once for each
    file: hence a copy, in memory.
    """
    import espeakng_loader

    copy = os.memfd_create("espeak")
    try:
        with os.fdopen(os.dup(copy), "wb") as file:
            file.write(Path(espeakng_loader.get_library_path()).read_bytes())
        lib = ctypes.CDLL(f"/proc/self/fd/{copy}")
    finally:
        os.close(copy)
    try:
        rate = lib.espeak_Initialize(_RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), 0)
        if rate <= 0:
            raise RuntimeError("espeak-ng did not start; reinstall espeakng-loader")
        lib.espeak_ng_SetRandSeed(1)  # it starts from the clock
        yield lib, rate
    finally:
        lib.espeak_Terminate()
        _ctypes.dlclose(lib._handle)


def _keep(chunks: list[np.ndarray], samples: Any, count: int) -> int:
    if samples and count:
        chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
    return 0


def has_flite() -> bool:
    """Whether the flite program is installed."""
    return shutil.which("flite") is not None


def flite(text: str, voice: str = "slt", prosody: Prosody = Prosody()) -> tuple[np.ndarray, int]:
    """Speak `text` with flite (voices slt, rms, awb, kal16, kal); raises InputError where the program is missing or the voice unknown."""
    import soundfile

    if not has_flite():
        raise InputError("the program flite is not installed; install it, or take an espeak-ng voice such as en-us+f3")
    if voice not in FLITE:
        raise InputError(f"flite has no voice {voice!r}; voices: {', '.join(FLITE)}")

    stretch, hertz = 165 / prosody.words_per_minute, 75 + 1.6 * prosody.pitch
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}"]
        command += ["--setf", f"int_f0_target_mean={hertz:.1f}", "-t", text, "-o", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        samples, rate = soundfile.read(path, dtype="int16")
    return samples, rate
