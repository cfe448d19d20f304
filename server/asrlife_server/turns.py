"""Who is served next."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from asrlife_server.jobs import Job, Owner


class Turns:
    """Jobs that wait. Tenants take turns, in a tenant's turn its streams do, and a stream's jobs keep their order.

    However many jobs or streams others have, a stream waits for one turn of every other tenant and of every other stream of its own.
    """

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[str, deque[Job[Any]]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Jobs that wait, and those given up since that nobody has come across."""
        return self._count

    def put(self, job: Job[Any]) -> None:
        """Behind the other jobs of its stream; a stream that has none comes behind the other streams."""
        self._tenants.setdefault(job.owner.tenant, OrderedDict()).setdefault(job.owner.stream, deque()).append(job)
        self._count += 1

    def take(self, most: int) -> list[Job[Any]]:
        """The next job and, up to `most` in all, others that may share its call: the first of each stream, in the order of their turns."""
        taken: list[Job[Any]] = []
        seen: list[Owner] = []
        for owner in self._order():
            seen.append(owner)
            job = self._first(owner)
            if job is not None and (not taken or job.task.key == taken[0].task.key):
                taken.append(job)
                if job.task.key is None or len(taken) == most:
                    break
        for job in taken:
            self._pop(job.owner)
        for owner in seen:
            self._forget(owner)
        return taken

    def drained(self) -> Iterator[Job[Any]]:
        """Every job, taken out."""
        while jobs := self.take(1):
            yield jobs[0]

    def _order(self) -> Iterator[Owner]:
        for streams in zip_longest(*self._tenants.values()):
            yield from (Owner(tenant, stream) for tenant, stream in zip(self._tenants, streams, strict=True) if stream is not None)

    def _first(self, owner: Owner) -> Job[Any] | None:
        jobs = self._tenants[owner.tenant][owner.stream]
        while jobs and jobs[0].future.cancelled():
            jobs.popleft()
            self._count -= 1
        return jobs[0] if jobs else None

    def _pop(self, owner: Owner) -> None:
        """Take out the first job of a stream, whose next turn comes behind all others'."""
        self._tenants[owner.tenant][owner.stream].popleft()
        self._count -= 1
        self._tenants[owner.tenant].move_to_end(owner.stream)
        self._tenants.move_to_end(owner.tenant)

    def _forget(self, owner: Owner) -> None:
        streams = self._tenants[owner.tenant]
        if not streams[owner.stream]:
            del streams[owner.stream]
        if not streams:
            del self._tenants[owner.tenant]
