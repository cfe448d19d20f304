"""Noise and rooms, mixed in at a stated level."""

from __future__ import annotations

import random

import numpy as np

from asrlife.audio.speak import speak
from asrlife.audio.voices import Prosody
from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError

_RATE = 16_000
_LEVEL = 0.1  # RMS of made noise, which leaves its peaks room below full scale
_TALKERS = ("en-us+f2", "en-gb-x-rp+m3", "en-us+m7", "en-gb-scotland+f4", "en-us+f5", "en-029+m1")
_CHATTER = """did you bring the paper no it was on the table over there we could meet again on monday after the rain
have some more tea and tell me about the garden I never saw such a crowd at the station they said it would open soon
put the boxes near the door please what time is the bus going back to town maybe somebody else can answer that""".split()


def white(n: int, rng: np.random.Generator) -> Waveform:
    """`n` samples at 16 kHz with equal power at all frequencies."""
    return _levelled(rng.standard_normal(n))


def pink(n: int, rng: np.random.Generator) -> Waveform:
    """`n` samples at 16 kHz whose power falls as 1 / f."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[:1] = 0
    return _levelled(np.fft.irfft(spectrum, n))


def babble(n: int, seed: int) -> Waveform:
    """`n` samples at 16 kHz of six espeak voices that talk at once."""
    rng = random.Random(seed)
    total = np.zeros(n)
    for voice in _TALKERS:
        prosody = Prosody(rng.randint(140, 200), rng.randint(25, 75))
        talk = np.zeros(0, np.float32)
        while len(talk) < n:
            talk = np.append(talk, speak(" ".join(rng.choices(_CHATTER, k=40)), voice, prosody).samples)
        total += talk[:n] / np.sqrt(np.mean(talk[:n] ** 2) or 1)
    return _levelled(total)


def add_noise(speech: Waveform, noise: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Mix an excerpt of `noise`, drawn by `rng` and repeated when short, at `snr_db` = 10 log10(speech power / noise power).

    Powers are means over the whole utterance. A mixture above full scale is turned down as a whole, which leaves the ratio as it is.
    Raises InputError for silent speech, a silent excerpt, and a ratio that is not finite.
    """
    excerpt = _excerpt(noise.resampled(speech.rate).samples, len(speech.samples), rng)
    signal, disturbance = _power(speech.samples), _power(excerpt)
    if not np.isfinite(snr_db):
        raise InputError(f"the SNR is {snr_db} dB; give a finite number")
    if signal == 0:
        raise InputError("the speech is silent, so that no SNR can be set; leave it out")
    if disturbance == 0:
        raise InputError("the noise is silent over the excerpt drawn, so that no SNR can be set; take other noise")
    mixture = speech.samples + excerpt * np.sqrt(signal / disturbance / 10 ** (snr_db / 10))
    return Waveform(mixture / max(1.0, np.abs(mixture).max() / 0.99), speech.rate)


def add_room(speech: Waveform, impulse_response: Waveform) -> Waveform:
    """Convolve with a room's impulse response: same length, same power, the direct sound where it was."""
    from scipy.signal import fftconvolve

    response = impulse_response.resampled(speech.rate).samples.astype(np.float64)
    if not response.any():
        raise InputError("the impulse response is silent; take another")
    start = int(np.abs(response).argmax())
    wet = fftconvolve(speech.samples, response)[start : start + len(speech.samples)]
    gain = np.sqrt(_power(speech.samples) / (_power(wet) or 1.0))
    return Waveform(wet * gain, speech.rate)


def _excerpt(noise: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    if not len(noise):
        raise InputError("the noise holds no samples; take another file")
    if len(noise) < n:
        return np.take(noise, np.arange(n) + rng.integers(len(noise)), mode="wrap").astype(np.float64)
    start = rng.integers(len(noise) - n + 1)
    return noise[start : start + n].astype(np.float64)


def _power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def _levelled(samples: np.ndarray) -> Waveform:
    return Waveform(samples * (_LEVEL / (np.sqrt(_power(samples)) or 1.0)), _RATE)
