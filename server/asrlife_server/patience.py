"""How long a stream waits for speech, in its own sound."""

from __future__ import annotations

from typing import Final, Literal

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.refusal import invalid

Wait = Literal["speech_start_timeout", "speech_end_timeout"]
WAITS: Final[tuple[Wait, ...]] = ("speech_start_timeout", "speech_end_timeout")
_SHORTEST, _LONGEST = 0.1, 600.0  # s


def check_waits(config: pb.StreamingConfig) -> None:
    """Refuse a wait that is out of range, or that nobody listens for."""
    for name in WAITS:
        if config.HasField(name):
            if config.endpointing.mode != pb.Endpointing.SERVER:
                raise invalid(f"config.{name}", "needs config.endpointing.mode SERVER")
            if not _SHORTEST <= _seconds(config, name) <= _LONGEST:
                raise invalid(f"config.{name}", f"{_seconds(config, name):g} s is not within {_SHORTEST:g}..{_LONGEST:g} s")


class Patience:
    """Ends a stream that has no speech for `start` samples from its beginning, or `end` samples after an utterance; None waits for ever."""

    def __init__(self, start: int | None, end: int | None) -> None:
        self._start = start
        self._end = end
        self._quiet_since = 0
        self._spoken = False

    @classmethod
    def of(cls, config: pb.StreamingConfig) -> Patience:
        """What the config in force asks for."""
        return cls(*(round(_seconds(config, name) * config.sample_rate_hz) if config.HasField(name) else None for name in WAITS))

    def began(self) -> None:
        """Somebody speaks."""
        self._spoken = True

    def ended(self, at: int) -> None:
        """An utterance has ended at a sample."""
        self._quiet_since = at

    def expired(self, received: int, speaking: bool) -> int | None:
        """The sample at which the wait was over; None while it is not."""
        allowed = self._end if self._spoken else self._start
        if speaking or allowed is None or received < self._quiet_since + allowed:
            return None
        return self._quiet_since + allowed


def _seconds(config: pb.StreamingConfig, name: Wait) -> float:
    return float(getattr(config, name).ToNanoseconds() / 1e9)
