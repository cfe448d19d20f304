"""The one thread that runs models, fed by a bounded queue in which recognition goes before adaptation."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, TypeVar

from asrlife_server.metrics import Observe
from asrlife_server.refusal import Refusal

T = TypeVar("T")


class Priority(IntEnum):
    """Order of service; equals are served first come, first served."""

    HEAR = 0
    FINAL = 1
    INTERIM = 2
    ADAPT = 3


@dataclass(frozen=True)
class Done(Generic[T]):
    """What a job returned, and how long it ran (s)."""

    value: T
    seconds: float


class Engine:
    """Runs jobs one at a time on one thread, so that a model's weights have one user at any moment.

    `limit` bounds the jobs that wait; `threads` is torch's number of threads inside a job. `observe` is told, on that thread, how many jobs
    ran together and how long each of them had waited (s), with the name of their priority.
    """

    def __init__(self, limit: int, threads: int = 1, observe: Observe = lambda row, value, label: None) -> None:
        self._observe = observe
        self._limit = limit
        self._threads = threads
        self._jobs: list[tuple[int, int, float, Future[Any], Callable[[], Any]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="asrlife-engine", daemon=True)
        self._thread.start()

    def submit(self, priority: Priority, call: Callable[[], T]) -> Future[Done[T]]:
        """Queue `call`; cancelling the future before the job begins takes it out. A full queue refuses with RESOURCE_EXHAUSTED."""
        future: Future[Done[T]] = Future()
        with self._changed:
            if self._closed:
                raise Refusal("UNAVAILABLE", "the server is stopping")
            if len(self._jobs) >= self._limit:
                raise Refusal("RESOURCE_EXHAUSTED", f"{self._limit} jobs are waiting for the model; try again later")
            heapq.heappush(self._jobs, (priority, next(self._order), time.perf_counter(), future, call))
            self._changed.notify()
        return future

    async def run(self, priority: Priority, call: Callable[[], T]) -> Done[T]:
        """Wait for `call` without holding the event loop; cancelling the wait cancels a job that has not begun."""
        return await asyncio.wrap_future(self.submit(priority, call))

    def close(self) -> None:
        """Drop what waits, let the running job end, and join the thread."""
        with self._changed:
            self._closed = True
            for _, _, _, future, _ in self._jobs:
                future.cancel()
            self._jobs.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        import torch

        torch.set_num_threads(self._threads)  # counts per thread
        while (job := self._next()) is not None:
            _perform(*job)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return None
            priority, _, since, future, call = heapq.heappop(self._jobs)
        label = Priority(priority).name.lower()
        self._observe("batch_size", 1.0, label)
        self._observe("batch_wait_seconds", time.perf_counter() - since, label)
        return future, call


def _perform(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    began = time.perf_counter()
    try:
        value = call()
    except Exception as error:  # whatever a job raises belongs to the stream that asked for it
        future.set_exception(error)
    else:
        future.set_result(Done(value, time.perf_counter() - began))
