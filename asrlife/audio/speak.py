"""Text read aloud at the rate that recognisers take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from asrlife.audio.engines import ENGINES, Engine, parted
from asrlife.audio.voices import Prosody
from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError


def speak(
    text: str, voice: str = "en-us", prosody: Prosody = Prosody(), seed: int = 0, engines: Mapping[str, Engine] = ENGINES
) -> Waveform:
    """Read `text` aloud at 16 kHz; `voice` is an espeak-ng name such as "en-gb-x-rp+f3", or ENGINE:NAME such as "flite:slt".

    `seed` is for engines that draw at random. Raises InputError for an unknown voice and for text that makes no sound.
    """
    engine, name = parted(voice, engines)
    samples, rate = engine.say(text, name, prosody, seed)
    if not samples.any():
        raise InputError(f"voice {voice!r} has nothing to say for {text!r}; give words")
    if np.issubdtype(samples.dtype, np.floating):
        return Waveform(samples, rate).resampled(16_000)
    return Waveform.from_pcm16(samples.astype("<i2").tobytes(), rate).resampled(16_000)
