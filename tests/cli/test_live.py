from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console

from asrlife.cli.live import Transcripts
from asrlife.client.events import Adapted, Event, Final, Interim, Refined


def final(index: int, text: str) -> Final:
    return Final(index, text, float(index), index + 1.0, 0.5)


def refined(index: int, text: str) -> Refined:
    return Refined(index, text, 0.5, None, None, 1, 1)


def shown(events: Sequence[Event], adapts: bool, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=terminal, highlight=False)
    with Transcripts(console, adapts, lambda start, end: f"{start:.0f}-{end:.0f}  ") as transcripts:
        for event in events:
            transcripts.add(event)
    return file.getvalue()


def test_without_adaptation_a_final_is_the_last_word() -> None:
    assert shown([Interim(0, "he", 0, 1, 0.5), final(0, "hello"), final(1, "")], adapts=False) == "0-1  hello\n1-2  (nothing)\n"


def test_with_adaptation_the_refined_text_stands_and_the_fast_one_follows_where_it_differs() -> None:
    events = [final(0, "helo"), final(1, "you"), refined(0, "hello"), refined(1, "you")]
    assert shown(events, adapts=True) == "0-1  hello\nwas  helo\n1-2  you\n"


def test_what_is_not_refined_is_shown_as_it_was() -> None:
    skipped = Adapted(0, "skipped", "no speech", {}, 0)
    assert shown([final(0, "uh"), skipped, final(1, "late")], adapts=True) == "0-1  uh\n1-2  late\n"


def test_text_is_never_markup_and_long_text_is_not_cut_off_a_terminal() -> None:
    text = "[bold]x[/bold] " + "word " * 40
    assert shown([final(0, text)], adapts=False) == f"0-1  {text}\n"


def test_a_terminal_shows_what_is_under_way_and_keeps_what_is_done() -> None:
    written = shown([Interim(0, "hel", 0, 1, 0.5), final(0, "helo"), refined(0, "hello")], adapts=True, terminal=True)
    assert "hello" in written
