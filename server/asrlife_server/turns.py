"""Who is served next."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from asrlife_server.jobs import Job, Owner

_LEAST_MS = 100  # what a job counts at least, also one without sound
_ROOM = 64
T = TypeVar("T")


class Shares(Generic[T]):
    """Those who wait for one thing that they use in turn, so that each gets as much of it as any other while it has use for it.

    Start-time fair queueing (Goyal, Vin and Cheng, 1996): whoever begins at the least virtual time is next, and begins again so much
    later as it got. Who was away begins at the time that it is now: it has saved nothing up. Who comes back soon still owes what it got.
    """

    def __init__(self) -> None:
        self.waiting: OrderedDict[str, T] = OrderedDict()  # of those that begin at one time the first is next
        self._begins: dict[str, int] = {}
        self._owing: dict[str, int] = {}  # when those begin that are away, should they come back by then
        self._now = 0
        self._room = _ROOM  # for those that owe, until they are looked through

    def join(self, name: str, one: T) -> T:
        """Wait from now on; who waits already is given back."""
        if name not in self.waiting:
            self._begins[name] = max(self._now, self._owing.pop(name, 0))
            self.waiting[name] = one
        return self.waiting[name]

    def ordered(self) -> list[str]:
        """All that wait, the next one first."""
        return sorted(self.waiting, key=self._begins.__getitem__)

    def next(self, but: set[str]) -> str | None:
        """The next one `but` those."""
        return min((name for name in self.waiting if name not in but), key=self._begins.__getitem__, default=None)

    def charge(self, name: str, cost: int) -> None:
        """It has got so much."""
        self._now = max(self._now, self._begins[name])
        self._begins[name] += cost
        self.waiting.move_to_end(name)

    def leave(self, name: str) -> None:
        """Wait no longer."""
        del self.waiting[name]
        self._owing[name] = self._begins.pop(name)
        if len(self._owing) > self._room:
            self._owing = {each: begins for each, begins in self._owing.items() if begins > self._now}
            self._room = max(_ROOM, 2 * len(self._owing))

    def forgive(self) -> None:
        """Nobody owes anything: there was enough for all."""
        self._owing.clear()


class Turns:
    """Jobs that wait. Tenants share by seconds of the sound worked on, a tenant's streams likewise; a stream's jobs keep their order.

    However many jobs or streams others have, and however long their utterances are: of two tenants that have work waiting all the while,
    and of two streams of one tenant, neither gets more than the other by more than their longest jobs.
    """

    def __init__(self) -> None:
        self._tenants: Shares[Shares[deque[Job[Any]]]] = Shares()
        self._count = 0

    def __len__(self) -> int:
        """Jobs that wait, and those given up since that nobody has come across."""
        return self._count

    def put(self, job: Job[Any]) -> None:
        """Behind the other jobs of its stream."""
        self._tenants.join(job.owner.tenant, Shares()).join(job.owner.stream, deque()).append(job)
        self._count += 1

    def take(self, most: int) -> list[Job[Any]]:
        """The next job and, up to `most` in all, others that may share its call: the first of each stream, in the order of their turns."""
        taken: list[Job[Any]] = []
        for owner in self._order():
            job = self._first(owner)
            if job is not None and (not taken or job.task.key == taken[0].task.key):
                taken.append(job)
                self._charge(job)
            self._forget(owner)
            if taken and (taken[0].task.key is None or len(taken) == most):
                break
        return taken

    def drained(self) -> Iterator[Job[Any]]:
        """Every job, taken out."""
        while jobs := self.take(1):
            yield jobs[0]

    def idle(self) -> None:
        """There was nothing to do: what was done before counts no more."""
        self._tenants.forgive()

    def _order(self) -> Iterator[Owner]:
        """Each stream once; what one is charged on the way counts."""
        streams: dict[str, Iterator[str]] = {}
        through: set[str] = set()
        while (tenant := self._tenants.next(through)) is not None:
            if tenant not in streams:
                streams[tenant] = iter(self._tenants.waiting[tenant].ordered())
            if (stream := next(streams[tenant], None)) is None:
                through.add(tenant)
            else:
                yield Owner(tenant, stream)

    def _first(self, owner: Owner) -> Job[Any] | None:
        jobs = self._jobs(owner)
        while jobs and jobs[0].future.cancelled():
            jobs.popleft()
            self._count -= 1
        return jobs[0] if jobs else None

    def _jobs(self, owner: Owner) -> deque[Job[Any]]:
        return self._tenants.waiting[owner.tenant].waiting[owner.stream]

    def _charge(self, job: Job[Any]) -> None:
        """Take out the first job of a stream."""
        cost = max(_LEAST_MS, round(1000 * job.task.seconds))
        self._jobs(job.owner).popleft()
        self._count -= 1
        self._tenants.waiting[job.owner.tenant].charge(job.owner.stream, cost)
        self._tenants.charge(job.owner.tenant, cost)

    def _forget(self, owner: Owner) -> None:
        if not self._jobs(owner):
            streams = self._tenants.waiting[owner.tenant]
            streams.leave(owner.stream)
            if not streams.waiting:
                self._tenants.leave(owner.tenant)
