"""What happens to an utterance each time it is drawn: speed, filter, room, noise, padding."""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve, lfilter

RATE = 16_000


def augment(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a changed copy, zero mean and unit variance; shape (samples,) -> (samples',)."""
    if rng.random() < 0.5:
        wave = change_speed(wave, rng.uniform(0.88, 1.12))
    wave = np.pad(wave, (int(rng.uniform(0.05, 0.4) * RATE), int(rng.uniform(0.05, 0.4) * RATE)))
    if rng.random() < 0.6:
        wave = lfilter(*random_filter(rng), wave)
    if rng.random() < 0.3:
        wave = reverberate(wave, rng)
    if rng.random() < 0.6:
        wave = add_noise(wave, rng.uniform(3, 30), rng)
    return normalise(wave + 1e-4 * rng.standard_normal(len(wave), np.float32))


def normalise(wave: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance, as the wav2vec2 feature extractor does it."""
    return ((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)).astype(np.float32)


def change_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """Play `factor` times as fast, pitch with it."""
    return np.interp(np.arange(0, len(wave) - 1, factor), np.arange(len(wave)), wave).astype(np.float32)


def random_filter(rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """A random microphone: 1 to 11 taps around a unit impulse."""
    taps = np.zeros(rng.integers(1, 12), np.float32)
    taps[0] = 1.0
    taps += rng.normal(0, 0.15, len(taps)).astype(np.float32)
    return taps, [1.0]


def reverberate(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A synthetic room: an exponentially decaying tail of 0.1 to 0.4 s behind the direct sound."""
    decay = rng.uniform(0.1, 0.4)
    time = np.arange(int(decay * RATE)) / RATE
    tail = rng.standard_normal(len(time)) * np.exp(-6.9 * time / decay) * rng.uniform(0.01, 0.06)
    tail[0] = 1.0
    return fftconvolve(wave, tail)[: len(wave)].astype(np.float32)


def add_noise(wave: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of any colour between white and red whose level wavers, at `snr` dB of the whole utterance."""
    noise = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.98)], rng.standard_normal(len(wave), np.float32)).astype(np.float32)
    if rng.random() < 0.5:
        noise *= wavering(len(wave), rng)
    gain = np.sqrt(wave.var() / (noise.var() * 10 ** (snr / 10) + 1e-12))
    return wave + gain * noise


def wavering(n: int, rng: np.random.Generator) -> np.ndarray:
    """A level that moves between 0.1 and 2 about eight times a second, shape (n,)."""
    knots = rng.uniform(0.1, 2.0, n * 8 // RATE + 2)
    return np.interp(np.arange(n), np.arange(len(knots)) * RATE / 8, knots).astype(np.float32)
