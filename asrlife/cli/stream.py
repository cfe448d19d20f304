"""asrlife stream."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrlife.cli import console
from asrlife.cli.connecting import Connection, connecting
from asrlife.cli.options import AsJson, Changes
from asrlife.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from asrlife.cli.sending import Sending
    from asrlife.client import Client, Transcript

_MICROPHONE = "mic"
_MOST = 256  # streams at once; a thread each


@dataclass(frozen=True)
class How:
    """What every stream of the command is asked for; `adapt` "" leaves the method to the server, `key` is whose state it goes on from."""

    adapt: str
    settings: dict[str, str]
    realtime: bool
    key: str = ""


@connecting
def stream(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...", help="Sound files, manifests (.jsonl) whose utterances are sent one by one, or mic, the microphone."
        ),
    ],
    adapt: Annotated[
        str,
        typer.Option(
            show_default="the server's",
            help="none, suta, dsuta, auto ... (see `asrlife info methods`), or default: what the card recommends.",
        ),
    ] = "",
    changes: Changes = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="Send at the speed of speech, not as fast as the server takes it.")] = False,
    key: Annotated[
        str, typer.Option(metavar="NAME", help="Go on from what the server keeps under this key, and keep what is learnt.")
    ] = "",
    at_once: Annotated[
        int, typer.Option(min=1, max=_MOST, help="Streams at the same time: a source each, or a manifest's rows in so many parts.")
    ] = 1,
    as_json: AsJson = False,
    *,
    connection: Connection,
) -> None:
    """Send sound to a server and show its words as they come.

    The server finds the pauses of a sound file; the rows of a manifest are
    utterances as they are. With adaptation, a fast text comes first and the
    adapted one follows; a line "was" shows the fast one where they differ.
    Ctrl-C ends the microphone, and the last words still come.
    A row that cannot be read is reported and the others are sent:
    exit code 0, or 2 when none could be.

    Example: asrlife stream speech.wav --adapt dsuta --realtime
    """
    if key and at_once > 1:
        raise InputError(f"--key {key}: one stream at a time writes a key, others would only read it; leave --at-once out")
    how = How(adapt, settings_of_stream(adapt, changes or []), realtime, key)
    with _opened(sources, at_once) as sendings:
        heard = _all_heard(sendings, connection, how, at_once, console.err() if as_json else console.out())
    problems = [problem for _, sending in sendings for problem in sending.problems]
    for problem in problems:
        console.fail(problem)
    if as_json:
        _emit(sendings, heard)
    if problems and not any(sending.spans for _, sending in sendings):
        raise typer.Exit(2)


def settings_of_stream(adapt: str, changes: Sequence[str]) -> dict[str, str]:
    """Settings for the server, which checks them; "suta.lr=0.001" is lr of suta."""
    settings = {}
    for change in changes:
        key, equals, value = (part.strip() for part in change.partition("="))
        method, dot, name = key.rpartition(".")
        if not equals or not name:
            raise InputError(f"--set {change}: should be key=value, as in lr=0.001")
        if dot and method != adapt:
            chosen = f"it is {adapt!r}" if adapt else "the server chooses it; add --adapt"
            raise InputError(f"--set {change}: {method!r} is not the method of this stream; {chosen}")
        settings[name] = value
    return settings


@contextmanager
def _opened(sources: Sequence[Path], at_once: int) -> Iterator[list[tuple[str, Sending]]]:
    """What is sent, with the source it comes from; Ctrl-C ends a microphone in place of the command."""
    from asrlife.cli.sending import Sending

    if Path(_MICROPHONE) not in sources:
        yield [(str(source), part) for source in sources for part in Sending.of(source).shared(at_once)]
        return
    if len(sources) > 1:
        raise InputError("the microphone is a stream of its own: name it alone")
    from asrlife.client.microphone import microphone

    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield [(_MICROPHONE, Sending(live=microphone(stop)))]
    finally:
        signal.signal(signal.SIGINT, before)


def _all_heard(
    sendings: Sequence[tuple[str, Sending]], connection: Connection, how: How, at_once: int, shown_on: Console
) -> list[Transcript]:
    def hear(number: int) -> Transcript:
        source, sending = sendings[number]
        return _heard(client, sending, how, shown_on, f"{number + 1}:{Path(source).name}  " if len(sendings) > 1 else "")

    with connection.client() as client, ThreadPoolExecutor(at_once) as pool:
        # one stream stays in this thread, where Ctrl-C comes
        return list(map(hear, range(len(sendings)))) if at_once == 1 else list(pool.map(hear, range(len(sendings))))


def _heard(client: Client, sending: Sending, how: How, shown_on: Console, name: str) -> Transcript:
    from asrlife.cli.live import Transcripts
    from asrlife.cli.sending import sent, told

    def head(start: float, end: float) -> str:
        return f"{name}{start:7.2f} {end:7.2f}  "

    # a moving part of the screen has room for one stream
    with Transcripts(shown_on, how.adapt != "none", head, moves=not name) as shown:
        return told(sent(client, sending, how.adapt, how.settings, how.realtime, how.key), shown.add, console.warn)


def _emit(sendings: Sequence[tuple[str, Sending]], heard: Sequence[Transcript]) -> None:
    found = [(source, {**_document(s, h), "problems": s.problems}) for (source, s), h in zip(sendings, heard, strict=True)]
    console.emit(found[0][1] if len(found) == 1 else {"streams": [{"source": source, **document} for source, document in found]})


def _document(sending: Sending, heard: Transcript) -> dict[str, Any]:
    rows = []
    for spoken in heard.utterances:
        row: dict[str, Any] = {"id": sending.owner(spoken.start, spoken.end)} if sending.spans else {}
        row |= {"final": spoken.final, "refined": spoken.refined, "start": spoken.start, "end": spoken.end}
        rows.append({**row, "events": [{"kind": event.kind, **event.detail} for event in spoken.events]})
    return {"utterances": rows, "text": heard.text}
