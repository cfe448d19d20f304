"""What a session gives and takes: utterances, commands, steps, and what they came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from asrlife.methods.online.method import Event
from asrlife.text.hypothesis import Hypothesis
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.tape import Segment

Messages = list[pb.StreamingResponse]


@dataclass(frozen=True, eq=False)
class Spoken:
    """An utterance that is to be recognised: whole, or (`whole` False) as far as it has come."""

    index: int
    segment: Segment
    whole: bool = True


@dataclass(frozen=True)
class Command:
    """RESET_ADAPTATION, FREEZE or UNFREEZE, to be obeyed after the utterances before it."""

    control: int


@dataclass
class Heard:
    """What some sound led to: messages to send at once, and work in its order; `over` when the stream has waited long enough."""

    messages: Messages = field(default_factory=list)
    work: list[Spoken | Command] = field(default_factory=list)
    over: bool = False


@dataclass(frozen=True, eq=False)
class Step:
    """What one step of adaptation gave; nothing is kept before `Session.commit`. `drift` is the distance of a new state to the base."""

    spoken: Spoken
    hypothesis: Hypothesis | None
    state: Any
    events: tuple[Event, ...]
    drift: float | None = None


@dataclass
class Totals:
    """What a stream has used, in s and counts."""

    audio: float = 0.0
    compute: float = 0.0
    adaptation: float = 0.0
    utterances: int = 0
    steps: int = 0
    resets: int = 0
