"""Sound that a stream only has to keep, because the client says where utterances end."""

from __future__ import annotations

from asrlife_server.cursors import Cursors
from asrlife_server.endpointing import Endpointer, External
from asrlife_server.opening import Opening
from asrlife_server.sound import Raw


class Shelf:
    """Puts chunks of a stream away as they are: to look at each of them takes ten times as long, and leads to nothing in most of them."""

    def __init__(self, opening: Opening, endpointer: Endpointer, cursors: Cursors) -> None:
        self._cursors = cursors
        self._endpointer = endpointer if isinstance(endpointer, External) else None
        self._decoder = opening.decoder if isinstance(opening.decoder, Raw) and opening.decoder.any_bytes else None
        self._told = opening.config.cursors
        self._interval = opening.interval
        self._until = 0  # a sample before which nothing follows from sound but that it is there
        self.looked(0)

    def put(self, content: bytes) -> bool:
        """Put a chunk away; False, and nothing is done, where something may follow from it."""
        if self._endpointer is None or self._decoder is None:
            return False
        count = self._decoder.whole(content)
        if count is None or self._cursors.received + count >= self._until:
            return False
        self._endpointer.hold(content, count, self._decoder.parse)
        self._cursors.received += count
        return True

    def looked(self, shown: int) -> None:
        """All that follows from the sound so far is done; interim results reach to sample `shown`."""
        if self._endpointer is None:
            return
        self._until = self._endpointer.limit
        if self._told:
            self._until = min(self._until, self._cursors.next_due)
        if self._interval is not None:
            self._until = min(self._until, max(shown, self._endpointer.start) + self._interval)
