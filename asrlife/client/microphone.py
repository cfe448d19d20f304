"""Sound from a microphone, where the machine has one and sounddevice is installed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from threading import Event

from asrlife.audio.waveform import Waveform
from asrlife.client.requests import CHUNK
from asrlife.errors import InputError

_LOG = logging.getLogger("asrlife")


def microphone(stop: Event, rate: int = 16_000) -> Iterator[Waveform]:
    """What the default microphone hears, in pieces of 0.1 s at `rate` Hz, until `stop` is set.

    Raises InputError where there is no sounddevice or no microphone; what the machine was too slow to take is said in the log.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package is there, PortAudio is not
        raise InputError(f"a microphone needs sounddevice ({error}): pip install 'asrlife[microphone]', or name a sound file") from error
    size = round(CHUNK * rate)
    try:
        with sounddevice.InputStream(samplerate=rate, channels=1, dtype="float32", blocksize=size) as source:
            while not stop.is_set():
                samples, overflowed = source.read(size)
                if overflowed:
                    _LOG.warning("the microphone was heard too late: some of its sound is lost")
                yield Waveform(samples[:, 0].copy(), rate)
    except sounddevice.PortAudioError as error:
        raise InputError(f"no microphone can be opened ({error}): plug one in, or name a sound file") from error
