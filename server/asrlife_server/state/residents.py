"""Adaptation states in memory: those of live streams always, others while there is room, the longest unused go first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from asrlife.methods.online.restore import drift
from asrlife.methods.online.state import State
from asrlife_server.state.entry import NOTHING, Address, Entry, Mark, checksum


@dataclass(frozen=True, eq=False)
class Draft:
    """A state as it is to be kept; `entry` lacks what only the bytes tell. `start` is the method's, from which drift is measured."""

    state: State
    start: State
    entry: Entry

    def written(self) -> tuple[Entry, bytes]:
        """The whole entry, and the bytes."""
        blob = self.state.to_bytes()
        return replace(self.entry, checksum=checksum(blob), size=len(blob), drift=drift(self.state, self.start)), blob


@dataclass(eq=False)
class Resident:
    """What is known of an address: `draft` is its newest state, `mark` the newest version that a store has confirmed.

    `dirty` while the draft is not in the store. `tried` are versions whose writing failed: a store may have carried it out all the same.
    """

    address: Address
    draft: Draft | None = None
    mark: Mark = NOTHING
    dirty: bool = False
    lost: bool = False  # somebody else has written the address: nothing more can be kept of this draft
    reason: str = ""  # why the last attempt failed
    writer: str = ""  # the session that writes
    pins: int = 0
    tried: set[Mark] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.draft.state.size if self.draft else 0


class Residents:
    """At most `limit` bytes of states that nobody uses; pinned and dirty ones stay whatever they weigh."""

    def __init__(self, limit: int) -> None:
        self.evicted = 0  # states that went for want of room
        self._limit = limit
        self._kept: OrderedDict[Address, Resident] = OrderedDict()

    def pin(self, address: Address) -> Resident:
        """What is known of an address, to stay until `unpin`."""
        resident = self._kept.setdefault(address, Resident(address))
        self._kept.move_to_end(address)
        resident.pins += 1
        return resident

    def unpin(self, resident: Resident) -> None:
        """Let it go when room is needed; a lost one at once."""
        resident.pins -= 1
        self.trim()

    def forget(self, address: Address) -> None:
        """What is known of an address is no longer true; who has it pinned keeps it for itself."""
        resident = self._kept.pop(address, None)
        if resident is not None:
            resident.lost, resident.dirty = True, False

    def peek(self, address: Address) -> Resident | None:
        """What is known, without use being made of it."""
        return self._kept.get(address)

    def trim(self) -> None:
        """Keep to the limit."""
        idle = [each for each in self._kept.values() if not each.pins and not each.dirty]
        size = sum(each.size for each in idle)
        for resident in idle:
            if size <= self._limit and not resident.lost and resident.draft is not None:
                continue
            size -= resident.size
            self.evicted += not resident.lost and resident.draft is not None
            del self._kept[resident.address]

    @property
    def size(self) -> int:
        """Bytes of all states that are kept, in use or not."""
        return sum(each.size for each in list(self._kept.values()))

    @property
    def dirty(self) -> list[Resident]:
        """What no store has yet."""
        return [resident for resident in self._kept.values() if resident.dirty]

    def __len__(self) -> int:
        return len(self._kept)
