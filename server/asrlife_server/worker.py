"""A thread that runs models."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asrlife_server.jobs import Job, settle
from asrlife_server.refusal import Refusal
from asrlife_server.turns import Turns

Tell = Callable[[int, Sequence[Job[Any]]], None]  # the jobs of a call that begins, and their kind
_log = logging.getLogger("asrlife.server")


@dataclass(frozen=True)
class Rules:
    """A call takes up to `most` jobs of one key; one that could take more waits up to `wait` s for them.

    `limit` bounds the jobs that wait; `threads` is torch's number of threads inside a call.
    """

    most: int = 1
    wait: float = 0.0
    limit: int = 4096
    threads: int = 1


class Worker:
    """Serves jobs of `kinds`, the first kind before the second, with a twin of `model` that is its own.

    Should its thread die, what it was at fails with UNAVAILABLE and another thread takes its place.
    """

    def __init__(self, kinds: Sequence[int], model: Any, rules: Rules, tell: Tell) -> None:
        self._tell = tell
        self._model = model
        self._rules = rules
        self._queues = {kind: Turns() for kind in kinds}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = self._started()

    def put(self, kind: int, job: Job[Any]) -> None:
        """Queue a job; a full queue refuses with RESOURCE_EXHAUSTED."""
        with self._changed:
            if self._closed:
                raise Refusal("UNAVAILABLE", "the server is stopping")
            if sum(map(len, self._queues.values())) >= self._rules.limit:
                raise Refusal("RESOURCE_EXHAUSTED", f"{self._rules.limit} jobs are waiting for the model; try again later")
            self._queues[kind].put(job)
            self._changed.notify()

    def close(self) -> None:
        """Drop what waits, let the running call end, and join the thread."""
        with self._changed:
            self._closed = True
            for queue in self._queues.values():
                for job in queue.drained():
                    job.future.cancel()
            self._changed.notify()
        self._thread.join()

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="asrlife-worker", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        import torch

        torch.set_num_threads(self._rules.threads)  # counts per thread
        model = self._model.twin()
        while jobs := self._next():
            try:
                settle(jobs, model)
            finally:  # nothing is left over unless the thread dies
                self._bury(jobs)

    def _next(self) -> list[Job[Any]]:
        """The jobs of the next call; none when the worker closes."""
        while True:
            with self._changed:
                if not any(self._queues.values()):
                    for queue in self._queues.values():
                        queue.idle()
                self._changed.wait_for(lambda: self._closed or any(self._queues.values()))
                if self._rules.wait:
                    self._changed.wait_for(
                        lambda: self._closed or max(map(len, self._queues.values())) >= self._rules.most, self._rules.wait
                    )
                if self._closed:
                    return []
                kind, queue = next((kind, queue) for kind, queue in self._queues.items() if queue)
                taken = queue.take(self._rules.most)
            if begun := [job for job in taken if job.future.set_running_or_notify_cancel()]:
                self._tell(kind, begun)
                return begun

    def _bury(self, jobs: Sequence[Job[Any]]) -> None:
        lost = [job for job in jobs if not job.future.done()]
        if lost:
            _log.critical("a worker died; %d streams lose what it was at, and another takes its place", len(lost))
            self._thread = self._started()
        for job in lost:
            text = f"what ran this stream's model died; open the stream again (session_id={job.owner.stream})"
            job.future.set_exception(Refusal("UNAVAILABLE", text, retry_s=1))
