"""Text read aloud at the rate that recognisers take."""

from __future__ import annotations

from asrlife.audio.voices import Prosody, espeak, flite
from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError


def speak(text: str, voice: str = "en-us", prosody: Prosody = Prosody()) -> Waveform:
    """Read `text` aloud at 16 kHz; `voice` is an espeak-ng name such as "en-gb-x-rp+f3", or "flite:slt" where flite is installed.

    Raises InputError for an unknown voice and for text that makes no sound.
    """
    engine, _, name = voice.rpartition(":")
    if engine not in ("", "espeak", "flite"):
        raise InputError(f"no engine is called {engine!r}; write flite:slt, or an espeak-ng voice such as en-us+f3")
    samples, rate = flite(text, name, prosody) if engine == "flite" else espeak(text, name, prosody)
    if not samples.any():
        raise InputError(f"voice {voice!r} has nothing to say for {text!r}; give words")
    return Waveform.from_pcm16(samples.astype("<i2").tobytes(), rate).resampled(16_000)
