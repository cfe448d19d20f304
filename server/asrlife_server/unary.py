"""Recognize: a stream that the server plays to itself, so that one recording gets the words it would get in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import Limits
from asrlife_server.fields import check
from asrlife_server.longest import Longest
from asrlife_server.refusal import Refusal, invalid

_STREAM = "is for streams; use StreamingRecognize or leave it unset"
_STREAMS_ALONE = {
    "config": "interim cursors vad_events speech_start_timeout speech_end_timeout session_id resume_after_utterance".split(),
    "config.endpointing": ["stop_eou_ms"],
    "config.adaptation": ["adaptation_key", "persist", "read_only", "exclusive"],
}


def longest(limits: Limits) -> Longest:
    """The most sound of one call."""
    return Longest(limits.unary_s, "use StreamingRecognize")


async def requests(request: pb.RecognizeRequest, limits: Limits) -> AsyncIterator[pb.StreamingRequest]:
    """The requests of a stream with this recording in it; refuses what only a stream can do."""
    check(request)
    if len(request.audio) > limits.unary_bytes:
        text = f"audio: {len(request.audio)} bytes are above the limit of {limits.unary_bytes} bytes; use StreamingRecognize"
        raise Refusal("RESOURCE_EXHAUSTED", text, field="audio")
    yield pb.StreamingRequest(config=_asked(request.config))
    for start in range(0, len(request.audio), limits.chunk_bytes):
        yield pb.StreamingRequest(audio=pb.Audio(content=request.audio[start : start + limits.chunk_bytes]))
    yield pb.StreamingRequest(control=pb.FINISH)


def _asked(config: pb.StreamingConfig) -> pb.StreamingConfig:
    messages = {"config": config, "config.endpointing": config.endpointing, "config.adaptation": config.adaptation}
    for place, names in _STREAMS_ALONE.items():
        for field, _ in messages[place].ListFields():
            if field.name in names:
                raise invalid(f"{place}.{field.name}", _STREAM)
    asked = pb.StreamingConfig()
    asked.CopyFrom(config)
    asked.adaptation.method = config.adaptation.method or "none"
    return asked


def check_episodic(state: object, method: str) -> None:
    """Refuse a method whose `state` carries weights on: there is nowhere to carry them to."""
    if getattr(state, "names", ()):
        raise invalid("config.adaptation.method", f"{method} carries on what it learns; Recognize takes none, suta and the like: {_STREAM}")


class Gathered:
    """Takes a stream's responses into one."""

    def __init__(self) -> None:
        self.response = pb.RecognizeResponse()

    async def write(self, response: pb.StreamingResponse) -> None:
        """Put one response where it belongs; events have no place."""
        kind = response.WhichOneof("response")
        value = getattr(response, kind or "", None)
        several: dict[str | None, Any] = {
            "result": self.response.results,
            "refinement": self.response.refinements,
            "warning": self.response.warnings,
        }
        if kind in several:
            several[kind].append(value)
        elif kind in ("opened", "closed"):
            getattr(self.response, kind).CopyFrom(value)
