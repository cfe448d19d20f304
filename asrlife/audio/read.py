"""Sound files in, sound files out, and what is wrong with them."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.files import atomic, read_bytes

_LOG = logging.getLogger("asrlife")
_RATES = range(1_000, 1_000_001)  # Hz; anything else is a broken header
_PROMISED = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)  # libsndfile's note on a RIFF file that was cut short
_UNKNOWN_LENGTH = 0xFFFF_0000  # writers to a pipe leave about 2^32 - 1 as the length
_EXPORT = "export it again as WAV or FLAC, e.g. `ffmpeg -i IN OUT.wav`"


def read(source: Path | str | BinaryIO, rate: int | None = 16_000) -> Waveform:
    """Read any format libsndfile knows as mono at `rate` Hz (None: the file's own); says so in the log when it mixes channels.

    Raises InputError, naming the file, the cause and the fix, for what is missing, empty, no audio, cut short or not finite.
    """
    name, data = _bytes(source)
    samples, native = _decode(name, data)
    if samples.shape[1] > 1:
        _LOG.warning("%s: mixed %d channels to mono", name, samples.shape[1])
    try:
        waveform = Waveform(samples.mean(axis=1), native)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return waveform if rate is None else waveform.resampled(rate)


def write(path: Path | str, waveform: Waveform) -> None:
    """Write 16-bit samples, whole or not at all, in the format the suffix names; WAV and FLAC read back as waveform.quantised()."""
    import soundfile

    path = Path(path)
    kind = path.suffix[1:].upper()
    if kind not in soundfile.available_formats():
        raise InputError(f"{path}: no format is called {path.suffix!r}; use .wav or .flac")
    if np.abs(waveform.samples).max(initial=0) > 1:
        _LOG.warning("%s: clipped samples above full scale", path)
    with atomic(path) as file:
        soundfile.write(file, np.frombuffer(waveform.pcm16(), "<i2"), waveform.rate, format=kind)


def defects(waveform: Waveform) -> tuple[str, ...]:
    """Name what would spoil recognition, of "short" (< 0.1 s), "silent" (peak < -80 dB), "quiet" (RMS < -55 dB), "clipped" and "offset"."""
    if waveform.duration < 0.1:
        return ("short",)
    samples = waveform.samples
    peak = float(max(samples.max(), -samples.min()))
    if peak < 1e-4:
        return ("silent",)
    power = float(np.mean(np.square(samples), dtype=np.float64))
    found = {
        "quiet": power < 10**-5.5,
        # runs of equal samples at the peak, whatever gain came after; recordings that are recognised well have up to 0.007, and the same
        # with 6 dB too much gain 0.016
        "clipped": peak > 0.3 and _flat(samples, 0.99 * peak) > 1e-2,
        "offset": abs(float(samples.mean())) > 0.5 * power**0.5,
    }
    return tuple(name for name, true in found.items() if true)


def _flat(samples: np.ndarray, top: float) -> float:
    """The part of neighbours that are equal and both at least at `top`."""
    high = np.abs(samples) >= top
    return float((high[1:] & high[:-1] & (samples[1:] == samples[:-1])).mean())


def _bytes(source: Path | str | BinaryIO) -> tuple[str, bytes]:
    if not isinstance(source, (str, Path)):
        name, data = str(getattr(source, "name", "audio stream")), source.read()
    else:
        name = str(source)
        data = read_bytes(source, "sound file")
    if not data:
        raise InputError(f"{name}: is empty (0 bytes); record or copy it again")
    return name, data


def _decode(name: str, data: bytes) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        raise InputError(_unreadable(name, data, error)) from error
    with file:
        if file.samplerate not in _RATES:
            raise InputError(f"{name}: the header says {file.samplerate} Hz, which no recording has; {_EXPORT}")
        try:
            samples = file.read(dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            cause = error.error_string.removeprefix("Error : ").strip(" .")
            raise InputError(f"{name}: is cut short or damaged ({cause}); copy it again") from error
        _check_length(name, file, len(samples))
        return samples, file.samplerate


def _check_length(name: str, file: Any, count: int) -> None:
    if count == 0:
        raise InputError(f"{name}: holds no samples (0 s); record it again")
    if file.format == "FLAC" and count < file.frames:
        raise InputError(f"{name}: is cut short: {count / file.samplerate:.2f} s of {file.frames / file.samplerate:.2f} s; copy it again")
    promised = _PROMISED.search(file.extra_info)
    if promised and int(promised[2]) < int(promised[1]) < _UNKNOWN_LENGTH:
        _LOG.warning("%s: is cut short: %s of %s bytes; going on with what is there", name, promised[2], promised[1])


def _unreadable(name: str, data: bytes, error: Any) -> str:
    head = data[:4096]
    try:
        text = head.decode("utf-8", errors="strict" if len(data) == len(head) else "ignore")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text and len(text.encode()) >= len(head) - 3:
        return f"{name}: holds text, not sound, whatever its name says; name a sound file"
    return f"{name}: is no sound that libsndfile can read ({error.error_string.strip(' .')}); {_EXPORT}"
