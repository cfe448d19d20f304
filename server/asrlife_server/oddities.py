"""What is odd about an utterance's sound, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asrlife.audio.read import defects
from asrlife.audio.waveform import Waveform
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import wire
from asrlife_server.tape import Segment

_ODD = {
    "silent": "digital silence; is the microphone muted?",
    "clipped": "clipped; lower the gain",
    "offset": "a constant offset; check the microphone",
    "quiet": "very quiet; raise the gain",
    "misread": "loud noise, as bytes sound that are read in another format than theirs; compare config.encoding, the order of bytes and "
    "whether the sound is compressed",
    "narrowband": "nothing above 4 kHz, as from a telephone; what was recorded at 8000 Hz is best sent at 8000 Hz, with "
    "sample_rate_hz 8000",
}
_TEACHES_NOTHING = ("silent", "clipped", "offset", "misread")  # sound that is not what was said
# measured on all speech of tests/server/test_wrong_format.py: speech 0.31 and 0.28 at most, misread 16-bit speech 0.50 and 0.21 at least
_WHITE, _LOUD = 0.45, 0.2
# correlation of the two histograms: 0.25 at most of sound that is loud, or was made so; 0.89 at least of either law, at 8 and 16 kHz
_ALIKE, _PAIRS = 0.6, 1000
_BORDERS = (300, 3_700, 5_000, 7_500)  # Hz, of what a telephone lets through and of what it does not
_NARROW = 10**-5.7  # of the power between the first two; speech that was sampled at 16 kHz has 10^-5.3 and more
_FRAME, _FRAMES = 512, 128


def warnings(segment: Segment, rate: int, index: int) -> list[pb.StreamingResponse]:
    """What the client should know about the sound of utterance `index`."""
    return [wire.warning(name.upper(), "audio.content", f"utterance {index}: {_ODD[name]}") for name in found(segment, rate)]


def unfit(segment: Segment, rate: int, narrowband: bool = False) -> str | None:
    """Why nothing should be learnt from a sound; None where something may be, of sound that ends at 4 kHz where `narrowband` says so."""
    nothing = _TEACHES_NOTHING if narrowband else (*_TEACHES_NOTHING, "narrowband")
    return next((name for name in found(segment, rate) if name in nothing), None)


def found(segment: Segment, rate: int) -> Sequence[str]:
    """What is odd about it, by name."""
    if _companded(segment.samples):
        return ["misread"]  # which looks clipped, or off the middle, too
    known = [name for name in defects(Waveform(segment.samples, rate)) if name in _ODD]
    if known or len(segment.samples) < _FRAME:
        return known
    found = {"misread": _misread(segment.samples), "narrowband": _narrow(segment.samples, rate)}
    return [name for name, true in found.items() if true]


def _misread(samples: np.ndarray) -> bool:
    """Whether neighbours differ as much as strangers do, and loudly."""
    power = float(np.var(samples))
    return power > _LOUD**2 and float(np.mean(np.square(np.diff(samples)))) > 2 * _WHITE * power


def _companded(samples: np.ndarray) -> bool:
    """Whether the two bytes of loud samples are distributed alike, as two samples of mu-law or A-law are that are read as one."""
    if float(np.var(samples)) < _LOUD**2:
        return False
    values = np.clip(np.round(samples * 32_768), -32_768, 32_767).astype("<i2")
    pairs = values[np.abs(values.astype(np.int32)) > 256].view(np.uint8).reshape(-1, 2)
    if len(pairs) < _PAIRS:
        return False
    low, high = (np.bincount(pairs[:, at], minlength=256)[1:-1].astype(float) for at in (0, 1))
    spread = float(low.std() * high.std())
    return spread > 0 and float(np.mean((low - low.mean()) * (high - high.mean()))) > _ALIKE * spread


def _narrow(samples: np.ndarray, rate: int) -> bool:
    """Whether the sound ends at 4 kHz where its rate has room for more."""
    if rate < 2 * _BORDERS[-1]:
        return False
    whole = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    frames = whole[:: -(-len(whole) // _FRAMES)]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(_FRAME)))).mean(axis=0)
    low, high = (_between(power, rate, *_BORDERS[at : at + 2]) for at in (0, 2))
    return high < _NARROW * low


def _between(power: np.ndarray, rate: int, least: int, most: int) -> float:
    frequencies = np.fft.rfftfreq(_FRAME, 1 / rate)
    return float(power[(frequencies > least) & (frequencies < most)].sum())
