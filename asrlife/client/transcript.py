"""A stream's events, gathered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from asrlife.client.events import Adapted, Closed, Event, Final, Refined


@dataclass(frozen=True)
class Spoken:
    """One utterance: the fast text, the refined one (None without adaptation), and what it did to the weights."""

    index: int
    final: str
    refined: str | None
    start: float
    end: float
    events: tuple[Adapted, ...] = ()

    @property
    def text(self) -> str:
        """The best there is."""
        return self.final if self.refined is None else self.refined


@dataclass(frozen=True)
class Transcript:
    """All utterances of a stream, and how it closed (None while it has not)."""

    utterances: tuple[Spoken, ...] = ()
    closed: Closed | None = None

    @property
    def text(self) -> str:
        """The best text of every utterance, joined by spaces."""
        return " ".join(spoken.text for spoken in self.utterances if spoken.text)


@dataclass
class Gathering:
    """Takes events as they come."""

    _spoken: dict[int, Spoken] = field(default_factory=dict)
    _closed: Closed | None = None

    def add(self, event: Event) -> None:
        """Take one event; kinds that say nothing about an utterance pass by."""
        if isinstance(event, Final):
            self._spoken[event.index] = Spoken(event.index, event.text, None, event.start, event.end)
        elif isinstance(event, Refined) and event.index in self._spoken:
            self._spoken[event.index] = replace(self._spoken[event.index], refined=event.text)
        elif isinstance(event, Adapted) and event.index in self._spoken:
            spoken = self._spoken[event.index]
            self._spoken[event.index] = replace(spoken, events=(*spoken.events, event))
        elif isinstance(event, Closed):
            self._closed = event

    def transcript(self) -> Transcript:
        """What has come so far."""
        return Transcript(tuple(self._spoken[index] for index in sorted(self._spoken)), self._closed)
