"""How far tuning has come, for whoever wants to show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Watch(Protocol):
    """Told about each stage and, in between, about losses and scores."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[Callable[[], None]]:
        """A stage of so many parts, each of which ends with a call of the value."""

    def tell(self, text: str) -> None:
        """What is to stand beside the bar."""


class Quiet:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[], None]]:
        """A stage that nobody sees."""
        yield lambda: None

    def tell(self, text: str) -> None:
        """Nothing."""
