"""What a server says on a stream, as values; all times are in s from the stream's start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from google.protobuf.json_format import MessageToDict

from asrlife.text.hypothesis import Word
from asrlife.v1 import asrlife_pb2 as pb


@dataclass(frozen=True)
class Opened:
    """The stream is open; `method` and `settings` are in force, `config` is everything else that is."""

    session: str
    method: str
    settings: Mapping[str, str]
    config: Mapping[str, Any]
    base_hash: str
    state_version: int = 0


@dataclass(frozen=True)
class Interim:
    """The utterance under way, as far as it has come; a later result takes its place, but for the first `stable` characters."""

    index: int
    text: str
    start: float
    end: float
    confidence: float
    words: tuple[Word, ...] = ()
    stable: int = 0


@dataclass(frozen=True)
class Final:
    """A whole utterance in the words of the base model, and what else it may have been, less likely with every text."""

    index: int
    text: str
    start: float
    end: float
    confidence: float
    words: tuple[Word, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refined:
    """The same utterance after adaptation; entropies in nats, None where no step was taken."""

    index: int
    text: str
    confidence: float
    entropy_before: float | None
    entropy_after: float | None
    steps: int
    state_version: int
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class SpeechEvent:
    """Speech began or ended ("begin", "end"), has probably ended ("eou"), was cut for its length ("forced"), or never came ("timeout")."""

    kind: str
    offset: float


@dataclass(frozen=True)
class Adapted:
    """What an utterance did to the weights: "stepped", "slow_committed", "reset" or "skipped"; and what became of the state that is kept.

    "restored": the stream starts from what was there, unless `restored` is False, for `reason`. "persisted": this version is durable.
    "persist_failed": it is in memory only, for `reason`.
    """

    index: int
    kind: str
    reason: str
    detail: Mapping[str, Any]
    state_version: int
    restored: bool | None = None


@dataclass(frozen=True)
class Cursors:
    """How far the server is, in s of the stream; `backlog` is the sound of utterances that wait for their finals."""

    received: float
    processed: float
    final: float
    adapted: float
    backlog: float


@dataclass(frozen=True)
class Warned:
    """Something is odd about `field`; the stream goes on."""

    code: str
    field: str
    text: str


@dataclass(frozen=True)
class Closed:
    """The clean end, with what the stream used (s) and the SHA-256 of the adaptation state."""

    audio: float
    compute: float
    adaptation: float
    utterances: int
    steps: int
    resets: int
    state_version: int
    state_digest: str


Event = Opened | Interim | Final | Refined | SpeechEvent | Adapted | Cursors | Warned | Closed


def event(response: pb.StreamingResponse) -> Event | None:
    """A response as a value; None for a kind that this client does not know."""
    kind = response.WhichOneof("response")
    return _READERS[kind](getattr(response, kind)) if kind is not None and kind in _READERS else None


def answered(response: pb.RecognizeResponse) -> list[Event]:
    """The answer of one call as the events of a stream."""
    several: list[Event] = [*map(_result, response.results), *map(_refined, response.refinements)]
    return [_opened(response.opened), *several, *(Warned(w.code, w.field, w.text) for w in response.warnings), _closed(response.closed)]


def _opened(told: pb.Opened) -> Opened:
    config = MessageToDict(told.config, preserving_proto_field_name=True)
    adaptation = told.config.adaptation
    return Opened(told.session_id, adaptation.method, dict(adaptation.settings), config, told.base_hash, told.state_version)


def _result(told: pb.Result) -> Interim | Final:
    best = told.alternatives[0]
    common = (told.utterance_index, best.transcript, _seconds(told.start), _seconds(told.end), best.confidence, _words(best))
    if not told.is_final:
        return Interim(*common, told.stable_prefix_len)
    return Final(*common, tuple(other.transcript for other in told.alternatives[1:]))


def _refined(told: pb.Refinement) -> Refined:
    best = told.alternatives[0]
    before = told.entropy_before if told.HasField("entropy_before") else None
    after = told.entropy_after if told.HasField("entropy_after") else None
    return Refined(told.utterance_index, best.transcript, best.confidence, before, after, told.steps, told.state_version, _words(best))


def _speech(told: pb.SpeechEvent) -> SpeechEvent:
    return SpeechEvent(_named(pb.SpeechEvent.Kind, told.kind), _seconds(told.offset))


def _adapted(told: pb.AdaptationEvent) -> Adapted:
    detail = MessageToDict(told.detail)
    restored = told.restored if told.HasField("restored") else None
    return Adapted(told.utterance_index, _named(pb.AdaptationEvent.Kind, told.kind), told.reason, detail, told.state_version, restored)


def _closed(told: pb.Closed) -> Closed:
    times = (_seconds(told.audio), _seconds(told.compute), _seconds(told.adaptation))
    return Closed(*times, told.utterances, told.steps, told.resets, told.state_version, told.state_digest)


_READERS: Mapping[str, Callable[[Any], Event]] = {
    "opened": _opened,
    "result": _result,
    "refinement": _refined,
    "speech_event": _speech,
    "adaptation_event": _adapted,
    "cursors": lambda told: Cursors(*(getattr(told, f"{name.name}_ms") / 1000 for name in fields(Cursors))),
    "warning": lambda told: Warned(told.code, told.field, told.text),
    "closed": _closed,
}


def _words(best: pb.Alternative) -> tuple[Word, ...]:
    return tuple(Word(word.text, _seconds(word.start), _seconds(word.end), word.confidence) for word in best.words)


def _seconds(duration: Any) -> float:
    return float(duration.ToNanoseconds() / 1e9)


def _named(kinds: Any, value: int) -> str:
    return str(kinds.Name(value)).lower() if value in kinds.values() else str(value)
