"""What is streamed to a server: a recording, or utterances one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from asrlife.client import Client, Control, Event, Transcript, Warned
from asrlife.client.transcript import Gathering
from asrlife.errors import InputError

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.data.utterance import Utterance


@dataclass
class Sending:
    """Sound on its way; `spans` says when each utterance was sent (id, start and end in s), `problems` what could not be.

    `live` is sound that has yet to be heard.
    """

    recording: Waveform | None = None
    live: Iterator[Waveform] | None = None
    utterances: tuple[Utterance, ...] = ()
    problems: list[str] = field(default_factory=list)
    spans: list[tuple[str, float, float]] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path) -> Sending:
        """A manifest where the name ends in .jsonl, a sound file otherwise; raises InputError for what cannot be read."""
        from asrlife.audio.read import read
        from asrlife.data.corpus import Corpus

        if path.suffix != ".jsonl":
            return cls(recording=read(path))
        corpus = Corpus.read(path, check=True)
        return cls(utterances=corpus.utterances, problems=list(corpus.problems))

    @property
    def endpointing(self) -> Literal["server", "external"]:
        """Who says where utterances end."""
        return "external" if self.recording is None and self.live is None else "server"

    def shared(self, count: int) -> list[Sending]:
        """At most `count` parts with as many utterances each, one behind the other; a recording is not divided."""
        size = -(-len(self.utterances) // count)
        if size == len(self.utterances):
            return [self]
        starts = range(0, len(self.utterances), size)
        parts = [replace(self, utterances=self.utterances[at : at + size], problems=[], spans=[]) for at in starts]
        parts[0].problems += self.problems
        return parts

    def pieces(self) -> Iterator[Waveform | Control]:
        """The sound, with its ends; an utterance that cannot be read is left out and named."""
        if self.recording is not None:
            yield self.recording
        yield from self.live or ()
        for utterance in self.utterances:
            try:
                waveform = utterance.waveform()
            except InputError as error:
                self.problems.append(f"{utterance.id}: {error}")
                continue
            start = self.spans[-1][2] if self.spans else 0.0
            self.spans.append((utterance.id, start, start + waveform.duration))
            yield waveform
            yield Control.FINALIZE

    def owner(self, start: float, end: float) -> str | None:
        """The id of the utterance that was being sent in the middle of a span of the stream (s)."""
        middle = (start + end) / 2
        return next((name for name, first, last in self.spans if first <= middle < last), None)


def told(events: Iterable[Event], show: Callable[[Event], None], warn: Callable[[str], None]) -> Transcript:
    """Show events as they come and gather them."""
    gathering = Gathering()
    for event in events:
        if isinstance(event, Warned):
            warn(f"{event.code} {event.field}: {event.text}")
        show(event)
        gathering.add(event)
    return gathering.transcript()


def sent(client: Client, sending: Sending, adapt: str, settings: dict[str, str], realtime: bool, key: str = "") -> Iterator[Event]:
    """Send it all, and give the server's events as they come; what it teaches is kept under `key`, where there is one."""
    how = {"settings": settings, "endpointing": sending.endpointing, "interim": 0.4, "key": key, "persist": "key" if key else "none"}
    return client.stream(sending.pieces(), adapt, realtime, **how)
