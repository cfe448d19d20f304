"""Which fields of a request are honoured; every other one that is set is refused by its path."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.refusal import about, invalid

HONOURED = frozenset(
    """config.encoding config.sample_rate_hz config.channels config.language config.model config.max_alternatives config.word_times
    config.word_confidence config.vad_events config.request_id config.session_id config.resume_after_utterance
    config.cursors config.speech_start_timeout config.speech_end_timeout
    config.interim config.interim.enable config.interim.min_interval_ms
    config.endpointing config.endpointing.mode config.endpointing.start_ms config.endpointing.stop_ms
    config.endpointing.max_utterance_ms config.endpointing.threshold config.endpointing.stop_eou_ms
    config.adaptation config.adaptation.method config.adaptation.settings config.adaptation.refine_finals config.adaptation.persist
    config.adaptation.adaptation_key config.adaptation.read_only config.adaptation.exclusive config.adaptation.min_speech_ms
    config.adaptation.max_latency_ms
    audio audio.content audio.sequence silence silence.duration_ms control config
    adaptation_key version content state state.adaptation_key state.current state.current.version state.current.base_hash
    state.current.method state.current.settings state.current.settings_digest state.current.checksum state.current.size_bytes
    state.current.steps state.current.drift state.current.time state.current.time.seconds state.current.time.nanos
    state.current.quarantined""".split()
)


def check(message: Message, path: str = "", honoured: frozenset[str] = HONOURED) -> None:
    """Refuse a message in which a field is set that this server does not honour, or does not know."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        raise invalid(path or "request", f"field number {unknown[0].field_number} is not known to this server")
    for name, value in _set_fields(message):
        place = f"{path}.{name}" if path else name
        if place not in honoured:
            raise invalid(place, "not supported by this server; leave it unset")
        if isinstance(value, Message) and not isinstance(value, Duration):
            check(value, place, honoured)


def check_size(field: str, size: int, limit: int, unit: str) -> None:
    """Refuse what is larger than one message may be."""
    if size > limit:
        raise about("RESOURCE_EXHAUSTED", field, f"{size} {unit} are above the limit of {limit} {unit}; send smaller pieces")


def holds_sound(request: pb.StreamingRequest) -> bool:
    """Whether a request holds a chunk of sound, without a number and without anything else; quicker than `check`."""
    if not request.HasField("audio"):
        return False
    audio = request.audio
    if audio.HasField("sequence") or audio.HasField("capture_time"):
        return False
    return not len(UnknownFieldSet(audio)) and not len(UnknownFieldSet(request))


def _set_fields(message: Message) -> Iterator[tuple[str, object]]:
    return ((field.name, value) for field, value in message.ListFields())
