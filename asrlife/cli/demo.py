"""asrlife demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrlife.cli import console
from asrlife.cli.options import Model

if TYPE_CHECKING:
    from asrlife.cli.demo_set import NoisySet
    from asrlife.client import Client
    from asrlife.client.events import Final
    from asrlife.evaluate.evaluation import Evaluation, Run
    from asrlife.evaluate.report import Report

METHODS = ("none", "suta", "dsuta")
_COST = "Streamed to a server on this machine; the cost is the server's seconds for fast, interim and adapted texts."
_WHY = "the server keeps the weights"


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Gets report.html, report.json, server.log and the speech that was made.")
    ] = Path("runs/demo"),
    utterances: Annotated[int, typer.Option(metavar="N", min=2, help="Length of the stream.")] = 40,
    model: Model = "embedded:ctc",
    port: Annotated[int | None, typer.Option(metavar="P", show_default="a free one", help="Port of the server.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Chooses sentences and noise.")] = 0,
) -> None:
    """Stream noisy speech to a server three times and compare word error rates.

    Starts a server on this machine, streams the same noisy utterances without
    adaptation, with SUTA and with Dynamic SUTA, shows the transcripts as they
    come, writes a report, and stops the server. Safe to repeat. The speech is
    real where ../shared/data stands beside the project, else synthetic.

    Example: asrlife demo --out demo
    """
    from asrlife.cli import child
    from asrlife.cli.demo_set import noisy_set

    child.check(port)  # before any work
    noisy = noisy_set(out / "speech", utterances, seed)
    console.note(f"{len(noisy.corpus)} utterances, {noisy.speech}, in {noisy.condition.name}")
    console.note(f"starting a server with {model} ...")
    with child.server(model, port, out / "server.log") as address:
        console.note(f"streaming to {address}")
        evaluation = _streamed(address, noisy, model)
    report = _told(evaluation.report())
    page = report.write(out)
    console.out().print()
    report.show(console.out())
    print(f"report: {page}")


def _told(report: Report) -> Report:
    """The report of an evaluation, with what is different on a server."""
    scores = [replace(score, note=_WHY) if score.value is None else score for score in report.scores]
    notes = [f"Locality was not measured: {_WHY}." if note.startswith("Locality was not") else note for note in report.notes]
    return replace(report, title="Adaptation over gRPC", scores=scores, notes=[_COST, *notes])


def _streamed(address: str, noisy: NoisySet, model: str) -> Evaluation:
    from asrlife.client import Client
    from asrlife.evaluate.evaluation import Evaluation

    with Client(address) as client:
        runs = tuple(_run(client, noisy, method) for method in METHODS)
    return Evaluation(model, noisy.speech, noisy.condition, runs, noisy.corpus.problems)


def _run(client: Client, noisy: NoisySet, method: str) -> Run:
    from asrlife.cli.live import Transcripts
    from asrlife.cli.score import run_of
    from asrlife.cli.sending import Sending, sent, told

    sending = Sending(utterances=noisy.corpus.utterances)
    said = {utterance.id: utterance.text or "" for utterance in noisy.corpus}
    numbers = {utterance.id: number for number, utterance in enumerate(noisy.corpus, 1)}

    def head(start: float, end: float) -> str:
        return f"{method:<5} {numbers.get(sending.owner(start, end) or '', 0):>3}/{len(said)}  "

    def aside(final: Final, text: str) -> tuple[str, str] | None:
        return _missed(said, sending.owner(final.start, final.end), text)

    with Transcripts(console.out(), method != "none", head, aside) as shown:
        heard = told(sent(client, sending, method, {}, realtime=False), shown.add, console.warn)
    return run_of(method, sending, heard)


def _missed(said: Mapping[str, str], owner: str | None, text: str) -> tuple[str, str] | None:
    from asrlife.text.normalise import normalise

    reference = said.get(owner or "", "")
    return None if normalise(reference) == normalise(text) else ("said", reference)
