"""How much sound a call may bring."""

from __future__ import annotations

from dataclasses import dataclass

from asrlife_server.refusal import Refusal, about
from asrlife_server.session import Session


@dataclass(frozen=True)
class Longest:
    """The most sound that a call takes, in s, and what to do about it."""

    seconds: float
    advice: str = "open another stream there"

    def exceeded(self, session: Session) -> bool:
        """Whether more has come."""
        return session.totals.audio > self.seconds

    def refusal(self, session: Session) -> Refusal:
        """Says where the stream is, so that another can go on from there."""
        place = f"session_id={session.name} final_ms={session.final_ms}"
        text = f"{session.totals.audio:g} s are above the limit of {self.seconds:g} s; {self.advice} ({place})"
        return about("OUT_OF_RANGE", "audio", text)
