"""One spoken sentence and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asrlife.audio.read import read
from asrlife.audio.waveform import Waveform

Origin = Literal["real", "synthetic"]


@dataclass(frozen=True, eq=False)
class Utterance:
    """Audio in memory or in a file, read when asked for; `duration` in s where the manifest gives it."""

    id: str
    audio: Path | Waveform
    text: str | None = None
    speaker: str | None = None
    domain: str | None = None
    origin: Origin = "real"
    split: str | None = None
    duration: float | None = None

    def waveform(self, rate: int = 16_000) -> Waveform:
        """The sound at `rate` Hz; raises InputError as asrlife.audio.read does."""
        return self.audio.resampled(rate) if isinstance(self.audio, Waveform) else read(self.audio, rate)
