"""Transcripts as they come: what is under way moves on a terminal, what is done stays as a line."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from asrlife.client.events import Adapted, Event, Final, Interim, Opened, Refined

Head = Callable[[float, float], str]  # start and end in s -> what a line begins with
Aside = Callable[[Final, str], tuple[str, str] | None]  # the final and its best text -> a name and a text for a second line
_ROWS = 4  # of what is under way


def was(final: Final, text: str) -> tuple[str, str] | None:
    """The fast text, where adaptation changed it."""
    return None if text == final.text else ("was", final.text)


class Transcripts:
    """Shows the events of one stream; `adapts` says whether a final waits for its refinement, until the server has said it.

    `moves`: on a terminal, what is under way is shown and changes.
    """

    def __init__(self, console: Console, adapts: bool, head: Head, aside: Aside = was, moves: bool = True) -> None:
        self._console = console
        self._adapts = adapts
        self._head = head
        self._aside = aside
        self._interim: Interim | None = None
        self._finals: dict[int, Final] = {}
        self._live = Live(console=console, transient=True, refresh_per_second=8) if console.is_terminal and moves else None

    def __enter__(self) -> Transcripts:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for index in sorted(self._finals):
            self._done(index, None)
        if self._live:
            self._live.stop()

    def add(self, event: Event) -> None:
        """Show one event; kinds that carry no text pass by."""
        if isinstance(event, Opened):
            self._adapts = event.method != "none"
        elif isinstance(event, Interim):
            self._interim = event
        elif isinstance(event, Final):
            self._interim = None
            self._finals[event.index] = event
            if not self._adapts:
                self._done(event.index, None)
        elif isinstance(event, Refined):
            self._done(event.index, event.text)
        elif isinstance(event, Adapted) and event.kind == "skipped":
            self._done(event.index, None)
        self._refresh()

    def _refresh(self) -> None:
        if self._live:
            self._live.update(self._under_way())

    def _done(self, index: int, refined: str | None) -> None:
        final = self._finals.pop(index, None)
        if final is None:
            return
        self._refresh()  # before the line is printed, or its older self stays under it
        text = final.text if refined is None else refined
        head = self._head(final.start, final.end)
        self._print(head, text)
        if (second := self._aside(final, text)) is not None:
            self._print(f"{second[0] + '  ':>{len(head)}}", second[1], "dim")

    def _print(self, head: str, text: str, style: str = "") -> None:
        self._console.print(_line(head, text, style), soft_wrap=not self._console.is_terminal)

    def _under_way(self) -> Group:
        waiting = [_line(self._head(f.start, f.end), f"{f.text} ...", "italic") for f in list(self._finals.values())[-_ROWS:]]
        if self._interim is not None:
            waiting.append(_line(self._head(self._interim.start, self._interim.end), self._interim.text, "italic dim"))
        return Group(*waiting)


def _line(head: str, text: str, style: str = "") -> Text:
    return Text.assemble((head, style or "cyan"), (text or "(nothing)", style))
