"""An evaluation as a report: tables, axes, curves and the words that went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asrlife.evaluate.curves import against, over_time
from asrlife.evaluate.evaluation import Evaluation, Outcome, Pair, Rate, Run
from asrlife.evaluate.grid import rows_of, tables
from asrlife.evaluate.report import Axis, Report, Score, Table, Transcript
from asrlife.evaluate.wer import align, character_error_rate
from asrlife.text.normalise import normalise

_SHOWN = 12  # utterances whose words are shown
_NAMED = 10  # problems that are named
SCORED = (
    "WER and CER: jiwer on the Whisper English normaliser, errors and words summed over utterances; compound words are not merged, "
    "and digits said in a row are one word."
)
_SCORING = (
    SCORED,
    "Brackets hold 95 % intervals over 1000 resamplings of utterances; differences resample both methods' utterances together. "
    "In the tables by condition the lowest rate of a row is bold, and a difference is coloured where its interval, over ten utterances or "
    "more, leaves out 0.",
    "Reliability: WER of the final transcripts. Generality: WER of each utterance before any step on it, under what was learnt from the "
    "ones before. Locality: WER of clean speech under the weights at the end of the stream, and of the source model.",
    "Cost: seconds of computing for each second of audio (RTF), on the machine that made this report.",
)
EMBEDDED = (
    "The model is one of the small embedded ones, made for learning and testing: no public pretrained checkpoint was to be had. "
    "Judge real work on a real checkpoint."
)


def summarise(evaluation: Evaluation) -> Report:
    """Everything the evaluation holds, in the order in which a reader wants it."""
    runs, rows = evaluation.runs, rows_of(evaluation)
    change = against([evaluation], "Change in WER over time")
    return Report(
        title="Recognition and adaptation",
        scores=[score for run in runs for score in _scores(run, unmeasured(evaluation))],
        tables=[_rates(runs), *([_differences(evaluation.paired)] if evaluation.paired else []), *(tables(rows) if len(rows) > 1 else [])],
        curves=[*over_time(runs), *([change] if change else [])],
        notes=list(_notes(evaluation)),
        facts=_facts(evaluation),
        transcripts=list(transcripts(runs, _SHOWN)),
        data={"evaluation": evaluation.to_json(), "utterances": evaluation.utterances()},
    )


def _facts(evaluation: Evaluation) -> dict[str, str]:
    heard = {"Model": evaluation.model, "Manifest": evaluation.manifest, "Condition": heard_in(evaluation)}
    return {**heard, "Scored": scored(evaluation)}


def heard_in(evaluation: Evaluation) -> str:
    """The condition, or the domains of a stream, in words."""
    condition = evaluation.condition
    if condition is None:
        return f"{len(evaluation.domains)} domains ({', '.join(evaluation.domains)}), {evaluation.excerpts} excerpts"
    return condition.name if condition.clean else f"{condition.name} (seed {condition.seed})"


def scored(evaluation: Evaluation) -> str:
    """How much was scored, in words."""
    run = evaluation.runs[0]
    return f"{len(run.outcomes)} utterances, {run.total.words} words, {run.audio_seconds / 60:.1f} min"


def unmeasured(evaluation: Evaluation) -> str:
    """Why locality has no figure, where it has none."""
    clean = evaluation.condition is not None and evaluation.condition.clean
    return "no source domain given (the stream is clean)" if clean else "no utterance was finished by every method"


def _scores(run: Run, why: str) -> Iterator[Score]:
    yield score("reliability", run.reliability, run.adapt)
    yield score("generality", run.generality, run.adapt)
    if run.locality is None:
        yield Score("locality", "WER", None, 0, None, None, run.adapt, note=why)
    else:
        after, source = Rate.of(run.locality.after), Rate.of(run.locality.source)
        yield score("locality", after, run.adapt, source.value)
    yield Score("cost", "RTF", run.rtf, len(run.outcomes), None, None, run.adapt)


def score(axis: Axis, rate: Rate, subject: str, baseline: float | None = None) -> Score:
    """A rate as a figure of a report."""
    return Score(axis, "WER", rate.value, rate.n, rate.low, rate.high, subject, baseline)


def _rates(runs: Sequence[Run]) -> Table:
    columns = ("Method", "WER %", "95 % interval", "CER %", "Sub", "Del", "Ins", "RTF", "Resets")
    return Table("Word error rate", columns, [_rate_row(run) for run in runs])


def _rate_row(run: Run) -> tuple[str, ...]:
    rate, total = run.reliability, run.total
    shares = (f"{100 * rate.value:.1f}", f"{100 * rate.low:.1f} to {100 * rate.high:.1f}", f"{100 * character_error_rate([total]):.1f}")
    numbers = (total.substitutions, total.deletions, total.insertions)
    return (run.adapt, *shares, *map(str, numbers), f"{run.rtf:.3g}", str(run.resets))


def _differences(pairs: Sequence[Pair]) -> Table:
    columns = ("Compared", "Change in WER, points", "95 % interval", "Verdict")
    return Table("Paired differences", columns, [_difference_row(pair) for pair in pairs])


def _difference_row(pair: Pair) -> tuple[str, ...]:
    verdict = f"{pair.b} is better" if pair.high < 0 else f"{pair.a} is better" if pair.low > 0 else "not settled"
    bounds = f"{100 * pair.low:+.1f} to {100 * pair.high:+.1f}"
    return (f"{pair.a} to {pair.b}", f"{100 * pair.wer_difference:+.1f}", bounds, verdict)


def transcripts(runs: Sequence[Run], most: int, stream: str = "") -> Iterator[Transcript]:
    """The words of the first utterances, aligned with what was said."""
    heard: list[dict[str, Outcome]] = [{outcome.id: outcome for outcome in run.outcomes} for run in runs]
    for outcome in runs[0].outcomes[:most]:
        places = {
            run.adapt: align(outcome.reference, found[outcome.id].hypothesis)
            for run, found in zip(runs, heard, strict=True)
            if outcome.id in found
        }
        name = ", ".join(part for part in (stream, outcome.domain, outcome.id) if part)
        yield Transcript(name, normalise(outcome.reference), places)


def _notes(evaluation: Evaluation) -> Iterator[str]:
    yield from notes(evaluation.model)
    if any(run.locality is None for run in evaluation.runs):
        yield f"Locality was not measured: {unmeasured(evaluation)}."
    yield from named(evaluation.problems)


def notes(model: str) -> Iterator[str]:
    """How the figures were made, and what not to take the model for."""
    if model.startswith("embedded:"):
        yield EMBEDDED
    yield from _SCORING


def named(problems: Sequence[str]) -> Iterator[str]:
    """The first problems, and how many more there are."""
    for problem in problems[:_NAMED]:
        yield f"Problem: {problem}"
    if len(problems) > _NAMED:
        yield f"Problems: {len(problems) - _NAMED} more, all named in report.json."
