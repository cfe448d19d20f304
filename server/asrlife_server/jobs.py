"""Pieces of model work: what they are, whose they are, and how several are done in one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")
_log = logging.getLogger("asrlife.server")


@dataclass(frozen=True, eq=False)
class Task(Generic[T]):
    """Work on `item`. `together` takes the recogniser of the thread that it runs on and the items of all tasks of one call.

    Tasks with the same `key` may share a call, and each gets what it would get alone; one with key None always goes alone. `seconds` of
    sound are what it counts in its owner's share of the machine.
    """

    item: Any
    together: Callable[[Any, Sequence[Any]], Sequence[T]]
    key: Hashable | None = None
    seconds: float = 0.0

    @classmethod
    def calling(cls, call: Callable[[], T]) -> Task[T]:
        """A call that needs no recogniser."""
        return cls(None, lambda model, items: [call()])

    def alone(self, model: Any) -> T:
        """Do it here and now."""
        return self.together(model, [self.item])[0]


class Owner(NamedTuple):
    """Whose turn a job takes."""

    tenant: str = ""
    stream: str = ""


@dataclass(frozen=True)
class Done(Generic[T]):
    """What a task returned, and its share of the time (s) that its call ran."""

    value: T
    seconds: float


@dataclass(frozen=True, eq=False)
class Job(Generic[T]):
    """A task in a queue."""

    task: Task[T]
    owner: Owner
    future: Future[Done[T]] = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)

    @property
    def waited(self) -> float:
        """Seconds since it was queued."""
        return time.monotonic() - self.queued


def settle(jobs: Sequence[Job[Any]], model: Any) -> None:
    """Do jobs in one call; where it fails, each half by itself, so that in the end only those fail that fail alone."""
    began = time.perf_counter()
    try:
        values = jobs[0].task.together(model, [job.task.item for job in jobs])
        for job, value in zip(jobs, values, strict=True):
            job.future.set_result(Done(value, (time.perf_counter() - began) / len(jobs)))
        return
    except Exception as error:  # whatever a task raises belongs to the stream that asked for it
        if len(jobs) == 1:
            jobs[0].future.set_exception(error)
            return
        _log.warning("a batch of %d failed, its halves are tried by themselves: %s", len(jobs), error)
    # outside of the handler, which holds on to the memory of the call that failed
    _relieve()
    half = len(jobs) // 2
    settle(jobs[:half], model)
    settle(jobs[half:], model)


def exhausted(error: Exception) -> bool:
    """Whether memory ran out, the device's or the machine's."""
    import torch

    told = isinstance(error, RuntimeError) and ("out of memory" in str(error).lower() or "can't allocate memory" in str(error))
    return told or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def _relieve() -> None:
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
