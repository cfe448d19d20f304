"""asrlife evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson, Changes, Model

if TYPE_CHECKING:
    from asrlife.evaluate.evaluation import Evaluation


def evaluate(
    manifest: Annotated[Path, typer.Argument(help='JSONL, one utterance a line: {"id", "audio", "text"}.')],
    model: Model = "embedded:ctc",
    adapt: Annotated[
        str | None,
        typer.Option(
            metavar="A[,A...]",
            show_default="none,default; none with --delta",
            help="Methods to compare: none, suta, dsuta, auto ... (see `asrlife info methods`). "
            "LABEL=METHOD:K=V;K=V is one with settings of its own; default is what the model's card recommends.",
        ),
    ] = None,
    changes: Changes = None,
    delta: Annotated[
        Path | None,
        typer.Option(metavar="FILE|NAME", help="What `asrlife tune` left, or a domain: score every method without it and with it."),
    ] = None,
    scale: Annotated[float, typer.Option(metavar="S", help="How far the weights move along the delta.")] = 1.0,
    noise: Annotated[
        str | None,
        typer.Option(metavar="FILE|DIR|NAME", help="Noise to mix in; needs --snr. Made ones: white, pink, babble, hum, machine."),
    ] = None,
    snr: Annotated[float | None, typer.Option(metavar="DB", help="Speech over noise in dB; smaller is noisier.")] = None,
    room: Annotated[
        str | None, typer.Option(metavar="FILE|DIR|room", help="Impulse response to put the speech into; room is a made one.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help='Only rows with this "split".')] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N utterances.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Chooses the excerpts of noise, and made noises and rooms.")] = 0,
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write DIR/report.html and DIR/report.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure word error rates of adaptation methods on a manifest.

    Every method hears the same utterances in the same order with the same
    noise. The table has WER with its 95 % interval, CER, the kinds of errors
    and the cost; differences between methods are paired by utterance. In JSON,
    rates are fractions. A row that cannot be used is reported and the others
    are scored: exit code 0, or 2 when none could be. With --delta each method
    runs twice, on the model and on the model moved by the delta.

    Example: asrlife evaluate test.jsonl --adapt none,suta,dsuta --noise pink --snr 10 --report out
    Example: asrlife evaluate test.jsonl --adapt "none,slow=dsuta:fast_steps=0,dsuta" --room room
    Example: asrlife evaluate test.jsonl --delta cardiology.safetensors --scale 0.8
    """
    from asrlife.recipe.domain.names import delta_of

    with console.results_only():
        chosen = adapt or ("none,default" if delta is None else "none")
        evaluation = _evaluated(
            manifest, model, (chosen, changes or []), (noise, snr, seed, room), (split, limit), (delta_of(delta), scale)
        )
    for problem in evaluation.problems:
        console.warn(problem)
    page = None if report is None else evaluation.report().write(report)
    if as_json:
        console.emit(evaluation.to_json())
    else:
        evaluation.report().show(console.out())
        if page is not None:
            print(f"report: {page}")


def _evaluated(
    manifest: Path,
    model: str,
    methods: tuple[str, list[str]],
    heard: tuple[str | None, float | None, int, str | None],
    part: tuple[str | None, int | None],
    moved: tuple[Path | None, float],
) -> Evaluation:
    from asrlife.data.condition import Condition
    from asrlife.recipe import evaluation
    from asrlife.recipe.adaptation import split

    condition, (adapt, changes) = Condition(*heard), methods
    corpus, show = evaluation.corpus_of(manifest, *part), console.err().is_terminal
    return evaluation.evaluate(model, corpus, split(adapt), changes, condition, show, *moved)
