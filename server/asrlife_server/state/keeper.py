"""Who may write which state, and how it gets into the store: never on the event loop, one writer for a key, tried again when it fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

from asrlife_server.config import State as Settings
from asrlife_server.refusal import about
from asrlife_server.state.entry import NOTHING, SESSION, Address, ConflictError, Entry, Mark, Store, StoreError
from asrlife_server.state.loading import Ask, Loaded, load, unread
from asrlife_server.state.residents import Draft, Resident, Residents
from asrlife_server.state.stores import opened
from asrlife_server.waiting import within

_THREADS = 4
_LONGEST = 30.0  # s between two attempts
_SWEEP_EVERY = 60.0  # s
_log = logging.getLogger("asrlife.server")
T = TypeVar("T")


@dataclass(eq=False)
class Claim:
    """What one stream has of an address: where it starts, and whether it is the one that writes."""

    ask: Ask
    resident: Resident
    loaded: Loaded
    writes: bool


@dataclass(frozen=True)
class Outcome:
    """Whether a state is durable: "persisted", "failed" (in memory, tried again) or "lost" (somebody else wrote; not tried again)."""

    kind: Literal["persisted", "failed", "lost"]
    reason: str = ""


class Keeper:
    """One for a server. `counts` says what happened how often: restored, persisted, persist_failed, quarantined, conflicts, lost, swept;
    hits and misses are streams whose state was, or was not, in memory already.

    `observe` is called with each of these names as it happens, on the event loop.
    """

    def __init__(self, settings: Settings, store: Store | None = None, observe: Callable[[str], None] = lambda name: None) -> None:
        self.residents = Residents(settings.resident_bytes)
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._store = store
        self._observe = observe
        self._pool = ThreadPoolExecutor(_THREADS, "asrlife-state")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._swept = float("-inf")
        self._opening = asyncio.Lock()
        self._closed = False
        self._slow = f"the store took longer than {settings.timeout_s:g} s (state.timeout_s)"

    async def call(self, work: Callable[[Store], T]) -> T:
        """Run `work` on the store, in a thread; raises StoreError."""
        if self._closed:
            raise StoreError("the server is stopping")
        loop = asyncio.get_running_loop()
        async with self._opening:
            if self._store is None:
                self._store = await loop.run_in_executor(self._pool, opened, self._settings)
        return await loop.run_in_executor(self._pool, work, self._store)

    async def claim(self, ask: Ask) -> Claim:
        """Load an address for a stream; raises Refusal where the client asked for what cannot be. A store that fails is no refusal."""
        resident = self.residents.pin(ask.address)
        if ask.writes and resident.writer and ask.exclusive:
            self.residents.unpin(resident)
            raise about("ABORTED", "config.adaptation.adaptation_key", f"{ask.address.key!r} is being written by another stream")
        writes = ask.writes and not resident.writer
        if writes:
            resident.writer = ask.session
        with ExitStack() as undo:  # a caller who is cancelled meanwhile holds nothing
            undo.callback(self._let_go, resident, writes)
            self.count("misses" if resident.draft is None else "hits")
            loaded = await self._loaded(ask, resident)
            undo.pop_all()
        if loaded.restored is not None:
            self.count("restored" if loaded.restored else "not_restored")
        self._sweep()
        return Claim(ask, resident, loaded, writes)

    async def commit(self, claim: Claim, draft: Draft) -> Outcome:
        """Keep a writer's newest state; once begun it is carried out even when the caller is cancelled."""
        resident = claim.resident
        if resident.lost:
            return Outcome("lost", resident.reason)
        waits = resident.dirty
        resident.draft, resident.dirty = draft, True
        if waits and resident.reason:  # its retry is under way and takes this draft with it
            self.count("persist_failed")
            return Outcome("failed", resident.reason)
        return await self._in_time(resident, retry=True)

    async def flush(self, claim: Claim) -> Outcome | None:
        """Try what is not durable once more, now; None where everything is."""
        return await self._in_time(claim.resident, retry=False) if claim.resident.dirty else None

    def release(self, claim: Claim, finished: bool) -> None:
        """The stream is over; a session that was `finished` is forgotten."""
        self._let_go(claim.resident, claim.writes)
        if finished and claim.ask.address.key.startswith(SESSION):
            self.forget(claim.ask.address)
            self._spawn(self._deleted(claim.ask.address))

    def forget(self, address: Address) -> None:
        """The store was changed over the head of whoever has the address in memory."""
        resident = self.residents.peek(address)
        if resident is not None:
            resident.reason = "the key was changed by a call while the stream wrote it"
        self.residents.forget(address)

    async def close(self) -> None:
        """Write what is not durable, once more, and close the store; nothing can be read or written from then on."""
        if self._closed:
            return
        for task in [task for task in self._tasks if task.get_name() == _RETRY]:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.timeout_s)
        for resident in self.residents.dirty:
            if (await self._in_time(resident, retry=False)).kind != "persisted":
                self._give_up(resident, resident.reason)
        if self._store is not None:
            try:
                await within(self.call(lambda store: store.close()), self._settings.timeout_s)
            except (StoreError, asyncio.TimeoutError, TimeoutError) as error:
                _log.warning("the store of states did not close: %s", str(error) or self._slow)
        self._closed = True
        self._pool.shutdown(wait=False)

    def count(self, name: str) -> None:
        """Something happened."""
        self.counts[name] += 1
        self._observe(name)

    async def _loaded(self, ask: Ask, resident: Resident) -> Loaded:
        async with resident.lock:
            try:
                reading = self.call(partial(load, ask=ask, known=resident))
                loaded = await within(reading, self._settings.timeout_s)
            except StoreError as error:
                return self._unread(ask, resident, str(error))
            except (asyncio.TimeoutError, TimeoutError):
                return self._unread(ask, resident, self._slow)
            if resident.writer in ("", ask.session):
                self._remember(resident, loaded)
        if "put in quarantine" in loaded.reason:
            self.count("quarantined")
        return loaded

    def _unread(self, ask: Ask, resident: Resident, reason: str) -> Loaded:
        loaded = unread(ask, resident, reason)
        if resident.writer == ask.session and resident.draft is None:
            resident.mark = NOTHING  # whatever the store holds, a clean start must not be written over it
        return loaded

    def _remember(self, resident: Resident, loaded: Loaded) -> None:
        if resident.dirty and resident.draft is not loaded.draft:
            self._give_up(resident, "another server has written it meanwhile")
        resident.mark = loaded.mark
        whole = loaded.restored and (resident.dirty or loaded.draft.entry.version == loaded.mark.version)
        resident.draft = loaded.draft if whole else None

    async def _in_time(self, resident: Resident, retry: bool) -> Outcome:
        """`_written` for callers who wait no longer than the settings say; it goes on behind their back."""
        writing = self._spawn(self._written(resident, retry))
        try:
            return await within(asyncio.shield(writing), self._settings.timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            self.count("persist_failed")
            resident.reason = self._slow
            return Outcome("failed", resident.reason)

    async def _written(self, resident: Resident, retry: bool) -> Outcome:
        async with resident.lock:
            try:
                while resident.dirty and (draft := resident.draft) is not None:
                    resident.mark = await self.call(partial(write, resident=resident, draft=draft))
                    # a stream that does not wait for a slow store may have gone on
                    resident.dirty, resident.reason = resident.draft is not draft, ""
                    self.count("persisted")
            except ConflictError as error:
                return self._conflict(resident, str(error))
            except StoreError as error:
                return self._failed(resident, str(error), retry)
        self.residents.trim()
        return Outcome("persisted")

    def _conflict(self, resident: Resident, reason: str) -> Outcome:
        self.count("conflicts")
        self.residents.forget(resident.address)
        resident.lost, resident.dirty, resident.reason = True, False, reason
        return Outcome("lost", reason)

    def _failed(self, resident: Resident, reason: str, retry: bool) -> Outcome:
        self.count("persist_failed")
        resident.reason = reason
        if retry:
            self._spawn(self._retry(resident), _RETRY)
        return Outcome("failed", reason)

    async def _retry(self, resident: Resident) -> None:
        for attempt in range(self._settings.retries):
            await asyncio.sleep(min(self._settings.retry_s * 2**attempt, _LONGEST))
            if (await self._written(resident, retry=False)).kind != "failed":
                return
        reason, resident.reason = resident.reason, ""  # so that the next utterance tries anew
        if not resident.writer:
            self._give_up(resident, reason)
            self.residents.trim()

    def _give_up(self, resident: Resident, reason: str) -> None:
        resident.dirty = False
        resident.draft = None
        self.count("lost")
        _log.error("a state could not be kept and is gone: %s", reason)

    def _let_go(self, resident: Resident, writes: bool) -> None:
        if writes:
            resident.writer = ""
        if not writes or not resident.dirty or resident.reason:
            self.residents.unpin(resident)
            return
        # a write is under way, or its retry gave up: nothing else would bring the draft to the store
        resident.pins -= 1
        self._spawn(self._written(resident, retry=True))

    def _sweep(self) -> None:
        if time.monotonic() - self._swept > _SWEEP_EVERY:
            self._swept = time.monotonic()
            self._spawn(self._swept_away(time.time() - self._settings.session_ttl_s))

    async def _swept_away(self, before: float) -> None:
        try:
            self.counts["swept"] += await self.call(lambda store: store.sweep(before))
        except StoreError as error:
            _log.warning("old sessions could not be forgotten: %s", error)

    async def _deleted(self, address: Address) -> None:
        try:
            await self.call(lambda store: store.delete(address))
        except StoreError as error:
            _log.warning("a finished session could not be forgotten and will expire: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


_RETRY = "asrlife-state-retry"


def write(store: Store, resident: Resident, draft: Draft) -> Mark:
    """Make a draft the newest version, in the store's thread; raises StoreError, ConflictError where somebody else wrote."""
    entry, blob = _content(store, resident, draft)
    entry = replace(entry, time=time.time())
    resident.tried.add(entry.mark)
    try:
        store.put(resident.address, entry, blob, resident.mark)
    except ConflictError:
        newest = store.history(resident.address)
        if not newest or newest[0].mark not in resident.tried:
            raise
        # an earlier call was carried out although its answer never came
        store.put(resident.address, entry, blob, newest[0].mark)
    resident.tried = set()
    return entry.mark


def _content(store: Store, resident: Resident, draft: Draft) -> tuple[Entry, bytes]:
    """What is to be written; where only the position has changed, no bytes."""
    if resident.mark != NOTHING and draft.entry.version == resident.mark.version:
        newest = next(iter(store.history(resident.address)), None)
        if newest is not None and newest.mark == resident.mark:
            return replace(newest, session=draft.entry.session, utterance=draft.entry.utterance), b""
    return draft.written()
