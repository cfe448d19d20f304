"""What callers do with kept states: look, go back, forget, take out, bring in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from asrlife.errors import InputError
from asrlife.methods.online.restore import drift, restored
from asrlife.methods.online.state import State
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.refusal import Refusal, about
from asrlife_server.state.entry import NOTHING, Address, ConflictError, Entry, Found, Store, checksum, settings_text
from asrlife_server.state.keeper import Keeper

_RACES = 5  # times that a change is begun again because a stream was faster
_NANO = 1_000_000_000


def told_version(entry: Entry) -> pb.StateVersion:
    """An entry as a message."""
    told = pb.StateVersion(version=entry.version, base_hash=entry.base, method=entry.method, settings=entry.settings_map())
    told.settings_digest, told.checksum, told.size_bytes = entry.settings_digest, entry.checksum, entry.size
    told.steps, told.drift, told.quarantined = entry.steps, entry.drift, entry.quarantined
    told.time.FromNanoseconds(round(entry.time * _NANO))
    return told


def told_state(address: Address, entry: Entry, history: tuple[Entry, ...] = (), being_written: bool = False) -> pb.AdaptationState:
    """A key with its versions as a message."""
    told = pb.AdaptationState(adaptation_key=address.key, current=told_version(entry), being_written=being_written)
    told.history.extend(map(told_version, history))
    return told


@dataclass(frozen=True)
class Verbs:
    """The calls on one address; `base` is the fingerprint of the server's model. All raise Refusal, and StoreError as stores do."""

    keeper: Keeper
    address: Address
    base: str

    async def get(self) -> pb.AdaptationState:
        """All that is known of the key."""
        history = await self.keeper.call(lambda store: store.history(self.address))
        if not history:
            raise self._unknown()
        resident = self.keeper.residents.peek(self.address)
        return told_state(self.address, history[0], history, bool(resident and resident.writer))

    async def reset(self, version: int | None) -> pb.AdaptationState:
        """Make an earlier version, or the base, the newest one."""
        await self._changed(partial(self._reset, version=version))
        return await self.get()

    async def delete(self) -> None:
        """Forget the key."""
        if not await self.keeper.call(lambda store: store.delete(self.address)):
            raise self._unknown()
        self.keeper.forget(self.address)

    async def export(self, version: int | None) -> tuple[pb.AdaptationState, bytes]:
        """A version with its bytes."""
        found = await self.keeper.call(lambda store: store.get(self.address, version))
        if found is None:
            raise self._unknown(version)
        return told_state(self.address, found[0]), found[1]

    async def bring(self, entry: Entry, blob: bytes) -> pb.AdaptationState:
        """Make bytes that have been checked the newest version."""

        def put(store: Store) -> None:
            newest = next(iter(store.history(self.address)), None)
            version = newest.version + 1 if newest else 1
            store.put(self.address, replace(entry, version=version, time=time.time()), blob, newest.mark if newest else NOTHING)

        await self._changed(put)
        return await self.get()

    async def _changed(self, change: Callable[[Store], None]) -> None:
        for _ in range(_RACES):
            try:
                await self.keeper.call(change)
            except ConflictError:
                continue
            self.keeper.forget(self.address)
            return
        raise about(
            "ABORTED", "adaptation_key", f"a stream writes {self.address.key!r} faster than it can be changed; end it, or try again"
        )

    def _reset(self, store: Store, version: int | None) -> None:
        history = store.history(self.address)
        if not history:
            raise self._unknown()
        entry, blob = self._base() if version is None else self._earlier(store, version)
        after = replace(entry, version=history[0].version + 1, time=time.time(), session="", utterance=-1)
        store.put(self.address, after, blob, history[0].mark)

    def _base(self) -> Found:
        blob = State(self.base).to_bytes()
        return Entry(0, checksum(blob), len(blob), self.base), blob

    def _earlier(self, store: Store, version: int) -> Found:
        found = store.get(self.address, version)
        if found is None:
            raise self._unknown(version, store.history(self.address))
        entry = found[0]
        if entry.quarantined:
            raise about("FAILED_PRECONDITION", "version", f"{version} is in quarantine ({entry.quarantined}); choose another")
        if entry.base != self.base:
            raise about("FAILED_PRECONDITION", "version", f"{version} belongs to model {entry.base[:12]}, not to {self.base[:12]}")
        return found

    def _unknown(self, version: int | None = None, history: tuple[Entry, ...] = ()) -> Refusal:
        if version is None:
            return about("NOT_FOUND", "adaptation_key", f"nothing is kept under {self.address.key!r}")
        there = ", ".join(str(entry.version) for entry in history)
        return about("NOT_FOUND", "version", f"{self.address.key!r} has no version {version}" + (f"; it has {there}" if there else ""))


def checked(told: pb.StateVersion, blob: bytes, start: State, cap: float | None) -> Entry:
    """The entry of bytes from outside, for a method whose start is `start`; refused with FAILED_PRECONDITION naming what is wrong."""
    if told.size_bytes != len(blob) or told.checksum != checksum(blob):
        raise about(
            "FAILED_PRECONDITION", "state.current.checksum", f"{len(blob)} bytes came that are not those announced; send the file as it was"
        )
    if told.base_hash and told.base_hash != start.base:
        raise about(
            "FAILED_PRECONDITION",
            "state.current.base_hash",
            f"it belongs to model {told.base_hash[:12]}, this server runs {start.base[:12]}",
        )
    try:
        state = restored(blob, start)
    except InputError as error:
        raise about("FAILED_PRECONDITION", "content", str(error)) from None
    distance = drift(state, start)
    if cap is not None and distance > cap:
        raise about("FAILED_PRECONDITION", "content", f"a drift of {distance:.3g} is above this server's cap of {cap:g} (state.drift_cap)")
    settings = settings_text(dict(told.settings))
    return Entry(0, told.checksum, len(blob), start.base, told.method, settings, steps=told.steps, drift=distance)
