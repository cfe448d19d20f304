"""What is odd about an utterance's sound, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence

from asrlife.audio.read import defects
from asrlife.audio.waveform import Waveform
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import wire
from asrlife_server.endpointing import Segment

_ODD = {
    "silent": "digital silence; is the microphone muted?",
    "clipped": "clipped; lower the gain",
    "offset": "a constant offset; check the microphone",
    "quiet": "very quiet; raise the gain",
}
_TEACHES_NOTHING = ("silent", "clipped", "offset")  # sound that is not what was said


def warnings(segment: Segment, rate: int, index: int) -> list[pb.StreamingResponse]:
    """What the client should know about the sound of utterance `index`."""
    return [wire.warning(name.upper(), "audio.content", f"utterance {index}: {_ODD[name]}") for name in _found(segment, rate)]


def unfit(segment: Segment, rate: int) -> str | None:
    """Why nothing should be learnt from a sound; None where something may be."""
    return next((name for name in _found(segment, rate) if name in _TEACHES_NOTHING), None)


def _found(segment: Segment, rate: int) -> Sequence[str]:
    return [name for name in defects(Waveform(segment.samples, rate)) if name in _ODD]
