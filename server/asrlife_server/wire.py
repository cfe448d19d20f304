"""Values of the library as messages of the protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration

from asrlife.methods.online.method import Event
from asrlife.text.hypothesis import Hypothesis
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import ServerConfig
from asrlife_server.tape import Segment

_KINDS = {
    "stepped": pb.AdaptationEvent.STEPPED,
    "slow_committed": pb.AdaptationEvent.SLOW_COMMITTED,
    "reset": pb.AdaptationEvent.RESET,
    "retrieved": pb.AdaptationEvent.RESTORED,
    "skipped": pb.AdaptationEvent.SKIPPED,
}


def duration(seconds: float) -> Duration:
    """Seconds to the nanosecond."""
    value = Duration()
    value.FromNanoseconds(round(seconds * 1e9))
    return value


def limits(server: ServerConfig, streams: int | None) -> pb.Limits:
    """What a client must keep to, whose tenant may have so many `streams`, None for as many as the server has."""
    return pb.Limits(
        chunk_bytes=server.limits.chunk_bytes,
        max_utterance_ms=server.limits.utterance_ms,
        silence_ms=server.limits.silence_ms,
        pending_utterances=server.limits.pending_utterances,
        unread_responses=server.limits.unread_responses,
        first_message_timeout=duration(server.timeouts.first_message_s),
        idle_timeout=duration(server.timeouts.idle_s),
        streams=min(server.limits.streams, streams or server.limits.streams),
        stream_audio=duration(server.limits.stream_s),
        unary_bytes=server.limits.unary_bytes,
        unary_audio=duration(server.limits.unary_s),
    )


def alternative(hypothesis: Hypothesis, config: pb.StreamingConfig, start: float) -> pb.Alternative:
    """A hypothesis for an utterance that begins `start` s into the stream, with the parts that the client asked for."""
    confidence = sure(hypothesis)
    asked = config.word_times or config.word_confidence
    words = [_word(word, config, start) for word in hypothesis.words] if asked else []
    return pb.Alternative(transcript=hypothesis.text, words=words, confidence=confidence)


def result(found: Sequence[Hypothesis], stable: int, config: pb.StreamingConfig, segment: Segment) -> pb.Result:
    """Hypotheses for a segment, the best one first, of whose text `stable` characters are promised."""
    start, end = segment.start / config.sample_rate_hz, segment.end / config.sample_rate_hz
    told = pb.Result(stable_prefix_len=stable, stability=stable / max(1, len(found[0].text)))
    told.alternatives.extend(alternative(each, config, start) for each in found)
    told.start.CopyFrom(duration(start))
    told.end.CopyFrom(duration(end))
    return told


def sure(hypothesis: Hypothesis) -> float:
    """The confidence in a whole text, 0 in none: the calibrated one, or else the mean probability of a step."""
    if not hypothesis.tokens:
        return 0.0
    return math.exp(min(0.0, hypothesis.score)) if hypothesis.confidence is None else hypothesis.confidence


def _word(word: Any, config: pb.StreamingConfig, start: float) -> pb.Word:
    told = pb.Word(text=word.text)
    if config.word_times:
        told.start.CopyFrom(duration(start + word.start))
        told.end.CopyFrom(duration(start + word.end))
    if config.word_confidence:
        told.confidence = word.confidence
    return told


def adapted(event: Event, index: int, version: int, drift: float | None = None) -> pb.StreamingResponse:
    """An adaptation event of utterance `index`, after which the state has `version` and, where it is known, this distance to the base."""
    told = pb.AdaptationEvent(kind=_KINDS[event.kind], utterance_index=index, state_version=version)
    told.reason = str(event.detail.get("reason", ""))
    if drift is not None and event.kind != "reset":
        told.drift = drift
    for name in ("loss_before", "loss_after", "drift"):
        if name in event.detail:
            setattr(told, name, float(event.detail[name]))
    told.detail.update(dict(event.detail))
    return pb.StreamingResponse(adaptation_event=told)


def warning(code: str, field: str, text: str) -> pb.StreamingResponse:
    """Something that the client should know and that stops nothing."""
    return pb.StreamingResponse(warning=pb.Warning(code=code, field=field, text=text))


def speech(kind: pb.SpeechEvent.Kind.ValueType, offset: float) -> pb.StreamingResponse:
    """Something heard `offset` s into the stream."""
    return pb.StreamingResponse(speech_event=pb.SpeechEvent(kind=kind, offset=duration(offset)))
