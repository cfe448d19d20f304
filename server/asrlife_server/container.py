"""Sound with a header: which container it is, whether its rate is the promised one, and its samples at the stream's rate."""

from __future__ import annotations

import numpy as np

from asrlife_server.flac import Flac
from asrlife_server.refusal import invalid
from asrlife_server.sound import LISTENING_RATE, Resampler, finest
from asrlife_server.wav import EMPTY, Wav, broken

LOWEST, HIGHEST = 8_000, 48_000  # Hz
FINEST = 1_920  # samples; rates that share no multiple of 25 Hz with 16 kHz would need a kernel of millions of numbers


class Container:
    """WAV or FLAC in chunks cut anywhere.

    `declared` is the rate that the client named, which the header must repeat; 0 takes the header's, and samples come out at 16 kHz.
    """

    def __init__(self, declared: int) -> None:
        self._declared = declared
        self._head = b""
        self._inner: Wav | Flac | None = None
        self._resampler: Resampler | None = None

    @property
    def left_over(self) -> int:
        """Bytes of a sample whose end has not come."""
        return self._inner.left_over if self._inner else 0

    def decode(self, data: bytes) -> np.ndarray:
        """Samples (n,) that are certain now."""
        if self._inner is None:
            self._head += data
            if len(self._head) < 4:
                return EMPTY
            self._inner, data, self._head = _kind(self._head[:4]), self._head, b""
        return self._converted(self._inner.feed(data))

    def finish(self) -> np.ndarray:
        """The samples that were held back; refuses a container that is cut short. Nothing at all is no container and no fault."""
        if self._inner is None:
            if self._head:
                raise broken("ended inside its header")
            return EMPTY
        samples = self._converted(self._inner.finish())
        return np.concatenate([samples, self._resampler.rest()]) if self._resampler else samples

    def _converted(self, samples: np.ndarray) -> np.ndarray:
        if self._resampler is None and self._inner is not None and self._inner.rate:
            self._check(self._inner.rate, self._inner.channels)
            self._resampler = Resampler(LISTENING_RATE if self._declared else self._inner.rate)
        return self._resampler.feed(samples) if self._resampler else samples

    def _check(self, rate: int, channels: int) -> None:
        if self._declared and rate != self._declared:
            raise invalid("config.sample_rate_hz", f"{self._declared}, but the container's header says {rate} Hz; leave it unset")
        if not LOWEST <= rate <= HIGHEST or finest(rate) > FINEST:
            raise invalid("audio.content", f"the container's {rate} Hz is not a multiple of 25 within {LOWEST}..{HIGHEST}; resample it")
        if channels != 1:
            raise invalid("audio.content", f"the container has {channels} channels; mix to one")


def _kind(marker: bytes) -> Wav | Flac:
    kinds: dict[bytes, type[Wav] | type[Flac]] = {b"RIFF": Wav, b"fLaC": Flac}
    if marker not in kinds:
        raise invalid("audio.content", f"a container begins with RIFF or fLaC, not with {marker!r}; send WAV or FLAC")
    return kinds[marker]()
