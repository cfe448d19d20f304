"""What an utterance sounds like where nobody speaks."""

from __future__ import annotations

import numpy as np

from asrlife.audio.waveform import Waveform

BANDS = 32
_RATE, _WINDOW, _HOP, _FFT = 16_000, 400, 160, 512
_INAUDIBLE = -30.0  # dB
_QUANTILE = 0.2  # of the frames of a band: below speech, above dropouts


def noise_floor(waveform: Waveform) -> np.ndarray:
    """Noise spectrum (BANDS,) in dB under the utterance's mean power: a low quantile over time of mel-band energies.

    Minimum statistics (Martin, IEEE Trans. Speech Audio Process. 9(5), 2001) without tracking. Level does not matter, words hardly.
    What lies more than 30 dB under the mean power counts as 30 dB: nobody hears which silence it is.
    """
    samples = waveform.resampled(_RATE).samples.astype(np.float64)
    samples = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, _FFT)) ** 2 @ _bank()
    level = np.mean(np.square(samples)) * _WINDOW or 1.0
    return np.maximum(np.quantile(10 * np.log10(power / level + 1e-9), _QUANTILE, axis=0), _INAUDIBLE)


def _bank() -> np.ndarray:
    """Triangles (bins, BANDS) whose centres are equally spaced in mel from 50 Hz to 7.6 kHz."""
    edges = 700 * (10 ** (np.linspace(_mel(50.0), _mel(7600.0), BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_FFT, 1 / _RATE)[:, None]
    rise, fall = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    return np.clip(np.minimum(rise, fall), 0, None)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))
