"""Standard output for results, standard error for everything else."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from rich.text import Text

Advance = Callable[[], None]


def out() -> Console:
    """The console of results."""
    return Console(file=sys.stdout, highlight=False)


def err() -> Console:
    """The console of progress and warnings."""
    return Console(file=sys.stderr, highlight=False)


def fail(message: str) -> None:
    """Say why nothing came of it, in one line."""
    print(f"asrlife: error: {' '.join(message.split())}", file=sys.stderr)


def warn(message: str) -> None:
    """Say in one line what the reader should know."""
    print(f"asrlife: warning: {' '.join(message.split())}", file=sys.stderr)


def note(message: str) -> None:
    """Say in one line what is going on."""
    print(message, file=sys.stderr)


def emit(document: Any) -> None:
    """Print one JSON document."""
    json.dump(document, sys.stdout, ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def catalogue(rows: Iterable[tuple[Text, Text]]) -> None:
    """Print names with what there is to say of each beside them."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, text)
    out().print(table)


@contextmanager
def results_only() -> Iterator[None]:
    """Send what libraries print to standard error, so that standard output holds results alone."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def progress(task: str, total: int | None) -> Iterator[Advance]:
    """Show a bar on a terminal and nothing elsewhere; the value advances it by one."""
    console = err()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        identifier = bar.add_task(task, total=total)
        yield lambda: bar.advance(identifier)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        (warn if record.levelno >= logging.WARNING else note)(record.getMessage())


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print what the library logs, each warning once."""
    logger, handler, seen = logging.getLogger("asrlife"), _Lines(), set[str]()
    handler.addFilter(lambda record: not (record.getMessage() in seen or seen.add(record.getMessage())))  # type: ignore[func-returns-value]
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
