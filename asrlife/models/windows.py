"""Cutting long audio where nobody speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform

PAUSE_S = 0.2


def split(waveform: Waveform, limit: float) -> list[tuple[float, Waveform]]:
    """Pieces of at most `limit` s with their starts in s: whole where it fits, else cut amid the quietest 0.2 s of the second half."""
    from asrlife.audio.waveform import Waveform

    most, first, pieces = int(limit * waveform.rate), 0, []
    while len(waveform.samples) - first > most:
        last = first + _quietest(waveform.samples[first : first + most], int(PAUSE_S * waveform.rate))
        pieces.append((first / waveform.rate, Waveform(waveform.samples[first:last], waveform.rate)))
        first = last
    return [*pieces, (first / waveform.rate, Waveform(waveform.samples[first:], waveform.rate))]


def _quietest(samples: np.ndarray, width: int) -> int:
    half = len(samples) // 2
    if len(samples) - half <= width:
        return len(samples)
    power = np.concatenate([[0.0], np.cumsum(samples[half:].astype(np.float64) ** 2)])
    return half + int(np.argmin(power[width:] - power[:-width])) + width // 2
