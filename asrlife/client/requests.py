"""Sound and commands as messages of the protocol."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb

CHUNK = 0.1  # s of sound in one message
_RATES = range(8_000, 48_001, 25)  # Hz, what servers take
_USUAL_RATE = 16_000


class Control(Enum):
    """Commands that may stand between pieces of sound."""

    FINALIZE = pb.FINALIZE_UTTERANCE
    KEEPALIVE = pb.KEEPALIVE
    RESET = pb.RESET_ADAPTATION
    FREEZE = pb.FREEZE
    UNFREEZE = pb.UNFREEZE


Piece = Waveform | Control
Timed = tuple[pb.StreamingRequest, float]  # a message, and the s of sound in it


@dataclass(frozen=True)
class Options:
    """What a stream is asked for; `adapt` "" takes the method that the server was set up with, "none" none.

    `endpointing` "server" listens for pauses, "external" ends an utterance at Control.FINALIZE and at the end only. `interim` is the
    least time between interim results in s, None for no such results. `words` asks for word times and confidences, `alternatives` for
    up to that many texts of each final, `cursors` for where the server is, once a second of sound.
    `key` names whose state the stream starts from; `persist` "key" keeps what it learns there, "session" keeps it until the stream ends
    well, so that one that broke off is taken up again by its `session` behind utterance `resume_after`. `exclusive` fails where another
    stream writes the key, which otherwise is only read. Utterances shorter than `min_speech` s teach nothing.
    """

    adapt: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    endpointing: Literal["server", "external"] = "server"
    interim: float | None = None
    words: bool = False
    speech_events: bool = False
    alternatives: int = 1
    cursors: bool = False
    model: str = ""
    key: str = ""
    persist: Literal["none", "session", "key"] = "none"
    read_only: bool = False
    exclusive: bool = False
    session: str = ""
    resume_after: int | None = None
    min_speech: float | None = None

    def config(self, rate: int) -> pb.StreamingConfig:
        """The first message's content for sound at `rate` Hz."""
        config = pb.StreamingConfig(encoding=pb.PCM16, sample_rate_hz=rate, channels=1, model=self.model, vad_events=self.speech_events)
        config.word_times = config.word_confidence = self.words
        config.max_alternatives, config.cursors = self.alternatives, self.cursors
        config.endpointing.mode = _MODES[self._known_mode()]
        if self.interim is not None:
            config.interim.enable = True
            config.interim.min_interval_ms = round(self.interim * 1000)
        config.adaptation.method = self.adapt
        config.adaptation.settings.update({name: str(value) for name, value in self.settings.items()})
        self._keep(config)
        return config

    @property
    def affinity(self) -> tuple[tuple[str, str], ...]:
        """Metadata by which a proxy may bring a key, or a session, to the server that has it in memory; a digest, which tells no name."""
        name = self.key or self.session
        return (("x-asrlife-key", sha256(name.encode()).hexdigest()[:32]),) if name else ()

    def _keep(self, config: pb.StreamingConfig) -> None:
        if self.persist not in _PERSIST:
            raise InputError(f"persist {self.persist!r} is unknown; use one of {', '.join(_PERSIST)}")
        adaptation = config.adaptation
        adaptation.adaptation_key, adaptation.persist = self.key, _PERSIST[self.persist]
        adaptation.read_only, adaptation.exclusive = self.read_only, self.exclusive
        config.session_id = self.session
        if self.resume_after is not None:
            config.resume_after_utterance = self.resume_after
        if self.min_speech is not None:
            adaptation.min_speech_ms = round(self.min_speech * 1000)

    def _known_mode(self) -> str:
        if self.endpointing not in _MODES:
            raise InputError(f"endpointing {self.endpointing!r} is unknown; use one of {', '.join(_MODES)}")
        return self.endpointing


_PERSIST = {"none": pb.Adaptation.NONE, "session": pb.Adaptation.SESSION, "key": pb.Adaptation.KEY}
_MODES = {"server": pb.Endpointing.SERVER, "external": pb.Endpointing.EXTERNAL}


def pieces(audio: Waveform | str | Path | Iterable[Piece]) -> Iterator[Piece]:
    """Sound in any of the forms that clients take, one piece after the other; a file is read at 16 kHz."""
    if isinstance(audio, str | Path):
        from asrlife.audio.read import read

        audio = read(Path(audio))
    return iter([audio]) if isinstance(audio, Waveform) else iter(audio)


def whole(audio: Waveform | str | Path | Iterable[Piece], options: Options) -> pb.RecognizeRequest:
    """All of a sound in one request; raises InputError for commands, which are for streams."""
    found = list(pieces(audio))
    if any(not isinstance(piece, Waveform) for piece in found):
        raise InputError("one call takes sound alone: leave `unary` out to send commands")
    rate = _stream_rate(found)
    data = b"".join(piece.resampled(rate).pcm16() for piece in found if isinstance(piece, Waveform))
    return pb.RecognizeRequest(config=options.config(rate), audio=data)


def messages(audio: Iterator[Piece], options: Options) -> Iterator[Timed]:
    """The whole of a stream's requests, `config` first and FINISH last."""
    before = []
    for piece in audio:
        before.append(piece)
        if isinstance(piece, Waveform):
            break
    rate = _stream_rate(before)
    yield pb.StreamingRequest(config=options.config(rate)), 0.0
    for piece in itertools.chain(before, audio):
        yield from _cut(piece, rate)
    yield pb.StreamingRequest(control=pb.FINISH), 0.0


async def messages_of(audio: AsyncIterable[Piece], options: Options) -> AsyncIterator[Timed]:
    """`messages` for pieces that come in their own time."""
    rate: int | None = None
    before: list[Piece] = []
    async for piece in audio:
        before.append(piece)
        if rate is None and isinstance(piece, Waveform):
            rate = _stream_rate(before)
            yield pb.StreamingRequest(config=options.config(rate)), 0.0
        if rate is not None:
            for message in itertools.chain.from_iterable(_cut(each, rate) for each in before):
                yield message
            before.clear()
    if rate is None:
        for message in messages(iter(before), options):
            yield message
    else:
        yield pb.StreamingRequest(control=pb.FINISH), 0.0


def _stream_rate(before: list[Piece]) -> int:
    rates = [piece.rate for piece in before if isinstance(piece, Waveform)]
    return rates[0] if rates and rates[0] in _RATES else _USUAL_RATE


def _cut(piece: Piece, rate: int) -> Iterator[Timed]:
    if isinstance(piece, Control):
        yield pb.StreamingRequest(control=pb.Control.ValueType(piece.value)), 0.0
        return
    if not isinstance(piece, Waveform):
        raise InputError(f"a stream takes Waveform and Control, not {type(piece).__name__}")
    data = piece.resampled(rate).pcm16()
    step = 2 * round(CHUNK * rate)
    for start in range(0, len(data), step):
        content = data[start : start + step]
        yield pb.StreamingRequest(audio=pb.Audio(content=content)), len(content) / (2 * rate)
