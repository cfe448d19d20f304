from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.audio.noise import add_noise, add_room, babble, pink, white
from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def power(samples: np.ndarray) -> float:
    return float(np.mean(samples.astype(np.float64) ** 2))


def speech(n: int = 16_000, level: float = 0.05) -> Waveform:
    return Waveform(level * np.sin(np.arange(n) / 15) * (1 + np.sin(np.arange(n) / 900)), 16_000)


@settings(deadline=None, max_examples=40)
@given(snr=st.floats(-15, 40), n=st.integers(100, 8_000), length=st.integers(50, 12_000), level=st.floats(1e-4, 0.02))
def test_the_snr_asked_for_is_the_snr_achieved(snr: float, n: int, length: int, level: float) -> None:
    clean = speech(n, level)
    added = add_noise(clean, pink(length, rng(1)), snr, rng(2)).samples - clean.samples
    assert 10 * np.log10(power(clean.samples) / power(added)) == pytest.approx(snr, abs=0.02)


def test_a_mixture_above_full_scale_is_turned_down_as_a_whole() -> None:
    quiet, loud = (add_noise(speech(level=level), white(20_000, rng(1)), -10, rng(2)).samples for level in (0.01, 0.5))
    assert np.abs(loud).max() == pytest.approx(0.99)
    assert np.allclose(loud / np.abs(loud).max(), quiet / np.abs(quiet).max(), atol=1e-5)


def test_noise_shorter_than_speech_is_repeated() -> None:
    noise = Waveform(np.array([0.1, -0.2, 0.3]), 16_000)
    added = add_noise(speech(30), noise, 0, rng()).samples - speech(30).samples
    assert np.allclose(added[:-3], added[3:], atol=1e-6)


def test_noise_at_another_rate_is_resampled() -> None:
    slow = Waveform(np.sin(2 * np.pi * 200 * np.arange(8_000) / 8_000), 8_000)
    added = add_noise(speech(), slow, 0, rng()).samples - speech().samples
    assert np.argmax(np.abs(np.fft.rfft(added))) == 200  # one second: bins are Hz


@pytest.mark.parametrize(
    ("clean", "noise", "snr", "cause"),
    [
        (Waveform(np.zeros(10), 16_000), white(10, rng()), 5.0, "speech is silent"),
        (speech(10), Waveform(np.zeros(10), 16_000), 5.0, "noise is silent"),
        (speech(10), Waveform(np.zeros(0), 16_000), 5.0, "no samples"),
        (speech(10), white(10, rng()), float("nan"), "finite"),
    ],
)
def test_an_snr_that_cannot_be_is_refused(clean: Waveform, noise: Waveform, snr: float, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        add_noise(clean, noise, snr, rng())


@pytest.mark.parametrize(("make", "slope"), [(white, 0.0), (pink, -1.0)])
def test_the_colour_of_noise_is_the_slope_of_its_spectrum(make: object, slope: float) -> None:
    assert callable(make)
    spectrum = np.abs(np.fft.rfft(make(1 << 16, rng()).samples))[1:] ** 2
    bands = [spectrum[1 << k : 2 << k].mean() for k in range(6, 14)]
    assert np.polyfit(np.arange(6, 14), np.log2(bands), 1)[0] == pytest.approx(slope, abs=0.1)


def test_babble_is_speech_and_depends_on_the_seed_alone() -> None:
    first, again, other = babble(16_000, 1), babble(16_000, 1), babble(16_000, 2)
    assert np.array_equal(first.samples, again.samples)
    assert not np.array_equal(first.samples, other.samples)
    spectrum = np.abs(np.fft.rfft(first.samples)) ** 2
    assert spectrum[80:4_000].sum() > 0.9 * spectrum.sum()


def test_an_impulse_is_a_room_that_changes_nothing_wherever_it_stands() -> None:
    impulse = np.zeros(500)
    impulse[123] = -0.3
    wet = add_room(speech(), Waveform(impulse, 16_000)).samples
    assert np.allclose(wet, -speech().samples, atol=1e-6)


def test_a_room_keeps_length_and_power() -> None:
    tail = np.exp(-np.arange(4_000) / 800) * rng().standard_normal(4_000)
    tail[0] = 5
    wet = add_room(speech(), Waveform(tail, 16_000)).samples
    assert len(wet) == 16_000
    assert power(wet) == pytest.approx(power(speech().samples), rel=1e-3)
    assert np.corrcoef(wet, speech().samples)[0, 1] < 0.99


def test_a_silent_room_is_refused() -> None:
    with pytest.raises(InputError, match="impulse response is silent"):
        add_room(speech(), Waveform(np.zeros(10), 16_000))
