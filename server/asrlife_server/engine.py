"""Where model work is done: one thread listens, one recognises, one adapts, so that no step of adaptation holds up a final.

Threads and not processes: torch lets go of the interpreter inside its kernels, weights and a device's memory are there once, and states
are handed over as they are. What kills a whole process (a fault in a kernel) ends this server, whose states are in its store.
All threads have one priority: one that the system holds back holds the interpreter back too (measured: an event loop half a second late).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import IntEnum
from functools import partial
from typing import Any, TypeVar

from asrlife_server.config import Batching
from asrlife_server.jobs import Done, Job, Owner, Task
from asrlife_server.metrics import Observe
from asrlife_server.worker import Rules, Worker

T = TypeVar("T")
NOBODY = Owner()
_EARS = 32  # streams whose sound is judged together: a window of one takes five times as long as each of 16
_BATCH = 16  # utterances, where a device does several at once


class Priority(IntEnum):
    """What a job is for: listening, a final and an interim result, which waits for finals, and adaptation."""

    HEAR = 0
    FINAL = 1
    INTERIM = 2
    ADAPT = 3


class Late(Exception):
    """A job had not begun when it should have."""


class Engine:
    """Runs tasks on `model`, those of one kind in turns of their owners, and several in one call as `batching` says.

    `limit` bounds the jobs that wait for each thread; `threads` is torch's number of threads inside a call. `observe` is told, on those
    threads, how many jobs ran together and how long each of them had waited (s), with the name of their priority.
    """

    def __init__(
        self,
        model: Any,
        batching: Batching | None = None,
        limit: int = 4096,
        threads: int = 1,
        observe: Observe = lambda row, value, label: None,
    ) -> None:
        self._observe = observe
        batching = batching or Batching()
        pays = _BATCH if getattr(getattr(model, "device", None), "type", "cpu") != "cpu" else 1
        rules = partial(Rules, wait=batching.wait_ms / 1000, limit=limit, threads=threads)
        listening = self._worker([Priority.HEAR], model, Rules(_EARS, limit=limit))
        recognising = self._worker([Priority.FINAL, Priority.INTERIM], model, rules(batching.recognitions or pays))
        adapting = self._worker([Priority.ADAPT], model, rules(batching.adaptations or pays))
        self._workers = {Priority.HEAR: listening, Priority.FINAL: recognising, Priority.INTERIM: recognising, Priority.ADAPT: adapting}

    def submit(self, priority: Priority, work: Task[T] | Callable[[], T], owner: Owner = NOBODY) -> Future[Done[T]]:
        """Queue `work`; cancelling the future before the job begins takes it out. A full queue refuses with RESOURCE_EXHAUSTED."""
        job = Job(work if isinstance(work, Task) else Task.calling(work), owner)
        self._workers[Priority(priority)].put(priority, job)
        return job.future

    async def run(self, priority: Priority, work: Task[T] | Callable[[], T], owner: Owner = NOBODY, before: float | None = None) -> Done[T]:
        """Wait for `work` without holding the event loop; cancelling the wait cancels a job that has not begun.

        Raises Late for a job that has not begun `before` that time of the loop.
        """
        future = self.submit(priority, work, owner)
        waiting = asyncio.wrap_future(future)
        try:
            if before is not None:
                await asyncio.wait([waiting], timeout=max(0.0, before - asyncio.get_running_loop().time()))
                if future.cancel():
                    raise Late
            return await waiting
        finally:
            waiting.cancel()

    def close(self) -> None:
        """Drop what waits, let the running calls end, and join the threads."""
        for worker in set(self._workers.values()):
            worker.close()

    def _worker(self, kinds: Sequence[Priority], model: Any, rules: Rules) -> Worker:
        return Worker(kinds, model, rules, self._tell)

    def _tell(self, kind: int, jobs: Sequence[Job[Any]]) -> None:
        label = Priority(kind).name.lower()
        self._observe("batch_size", len(jobs), label)
        for job in jobs:
            self._observe("batch_wait_seconds", job.waited, label)
