"""Who may have a stream: so many for the server, so many for each tenant."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from asrlife_server.refusal import Refusal

_RETRY_S = 1


@dataclass
class Place:
    """A stream's place. `full` says why there is none, unless the caller gives up a live stream for it; `session` is that stream's."""

    tenant: str
    full: Refusal | None = None
    session: str | None = None


class Admission:
    """Counts streams from their call to their end; `allowed` says how many a tenant may have, None for as many as the server has."""

    def __init__(self, streams: int, allowed: Callable[[str], int | None]) -> None:
        self.draining = False
        self.quiet = asyncio.Event()
        self.quiet.set()
        self._streams = streams
        self._allowed = allowed
        self._open: Counter[str] = Counter()  # by tenant
        self._asking: Counter[str] = Counter()  # those that would have to give up a stream
        self._exchanged: set[tuple[str, str]] = set()  # sessions whose older stream is about to end

    @contextmanager
    def place(self, tenant: str) -> Iterator[Place]:
        """A place for as long as the `with` lasts; raises Refusal for a tenant who has none and no stream to give up for it either."""
        if self.draining:
            raise Refusal("UNAVAILABLE", "the server is stopping; open the stream elsewhere")
        place = Place(tenant, self._full(tenant))
        if place.full is not None and self._asking[tenant] >= self._open[tenant]:
            raise place.full
        self._count(place, +1)
        try:
            yield place
        finally:
            self._count(place, -1)
            self.exchanged(place)

    def exchange(self, place: Place, session: str) -> None:
        """Take the place of the tenant's live stream of `session`, which will end; raises Refusal while another caller does so already."""
        assert place.full is not None
        if (place.tenant, session) in self._exchanged:
            raise place.full
        self._exchanged.add((place.tenant, session))
        self._count(place, -1)
        place.full, place.session = None, session
        self._count(place, +1)

    def exchanged(self, place: Place) -> None:
        """The older stream is gone."""
        if place.session is not None:
            self._exchanged.discard((place.tenant, place.session))
            place.session = None

    def _count(self, place: Place, change: int) -> None:
        counter = self._open if place.full is None else self._asking
        counter[place.tenant] += change
        if not counter[place.tenant]:
            del counter[place.tenant]  # tenants come and go
        (self.quiet.clear if self._open else self.quiet.set)()

    def _full(self, tenant: str) -> Refusal | None:
        own, all_open, allowed = self._open[tenant], self._open.total(), self._allowed(tenant)
        text = ""
        if allowed is not None and own >= allowed:
            text = f"tenant {tenant!r} has {own} streams open, which is its own limit; end one first"
        elif all_open >= self._streams:
            text = f"{all_open} streams are open, which is this server's limit; try again later"
        return Refusal("RESOURCE_EXHAUSTED", text, retry_s=_RETRY_S) if text else None
