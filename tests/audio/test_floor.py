from __future__ import annotations

import numpy as np
import pytest

from asrlife.audio.floor import BANDS, noise_floor
from asrlife.audio.noise import add_noise, pink, white
from asrlife.audio.waveform import Waveform

RATE = 16_000


def talk(seed: int, seconds: float = 2.0) -> Waveform:
    """Tones with pauses, of other words for each seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(RATE * seconds)) / RATE
    parts = int(seconds * 5)
    spoken = np.repeat(rng.permutation(parts) < 0.6 * parts, RATE // 5)
    return Waveform((0.3 * np.sin(2 * np.pi * rng.uniform(200, 900) * time) * spoken).astype(np.float32), RATE)


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def noisy(kind: object, seed: int, snr: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return noise_floor(add_noise(talk(seed), kind(4 * RATE, rng), snr, rng))  # type: ignore[operator]


def test_other_words_in_one_noise_are_near_and_another_noise_is_far() -> None:
    rows = {kind: [noisy(kind, seed, 5.0) for seed in range(4)] for kind in (white, pink)}
    within = max(far(rows[kind][0], other) for kind in rows for other in rows[kind][1:])
    across = min(far(one, other) for one in rows[white] for other in rows[pink])
    assert within < 3.0 < across  # measured 1.9 and 5.1


def test_a_worse_ratio_is_another_sound() -> None:
    assert far(noisy(white, 1, 5.0), noisy(white, 1, 10.0)) > 2.0


@pytest.mark.parametrize("gain", [0.01, 3.0])
def test_level_does_not_matter(gain: float) -> None:
    speech = Waveform(talk(1).samples + 0.01 * white(2 * RATE, np.random.default_rng(1)).samples, RATE)
    louder = Waveform(speech.samples * np.float32(gain), RATE)
    np.testing.assert_allclose(noise_floor(louder), noise_floor(speech), atol=0.01)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(100), np.zeros(RATE), np.full(RATE, 0.5)])
def test_any_sound_has_one(samples: np.ndarray) -> None:
    floor = noise_floor(Waveform(samples.astype(np.float32), RATE))
    assert floor.shape == (BANDS,)
    assert np.isfinite(floor).all()


def test_silence_between_words_is_measured_and_not_the_words() -> None:
    rng = np.random.default_rng(3)
    hiss = 0.02 * rng.standard_normal(2 * RATE)
    quiet, loud = (Waveform((gain * talk(5).samples + hiss).astype(np.float32), RATE) for gain in (1.0, 2.0))
    assert noise_floor(quiet).mean() - noise_floor(loud).mean() == pytest.approx(6.02, abs=0.3)  # 20 log10(2) below the mean power


def test_one_silence_is_like_another() -> None:
    rng = np.random.default_rng(4)
    silences = (0.0, 1e-5 * rng.standard_normal(2 * RATE), 1e-3 * np.sin(np.arange(2 * RATE)))
    floors = [noise_floor(Waveform((talk(6).samples + silence).astype(np.float32), RATE)) for silence in silences]
    assert max(far(floors[0], floor) for floor in floors) < 0.5  # measured 0.34
