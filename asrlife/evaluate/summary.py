"""An evaluation as a report: tables, axes, curves and the words that went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from asrlife.evaluate.evaluation import Evaluation, Outcome, Pair, Rate, Run
from asrlife.evaluate.report import Axis, Curve, Report, Score, Table, Transcript
from asrlife.evaluate.wer import align, character_error_rate
from asrlife.text.normalise import normalise

_SHOWN = 12  # utterances whose words are shown
_NAMED = 10  # problems that are named
_SCORING = (
    "WER and CER: jiwer on the Whisper English normaliser, errors and words summed over utterances; compound words are not merged, "
    "and digits said in a row are one word.",
    "Brackets hold 95 % intervals over 1000 resamplings of utterances; differences resample both methods' utterances together.",
    "Reliability: WER of the final transcripts. Generality: WER of each utterance before any step on it, under what was learnt from the "
    "ones before. Locality: WER of clean speech under the weights at the end of the stream, and of the source model.",
    "Cost: seconds of computing for each second of audio (RTF), on the machine that made this report.",
)
_EMBEDDED = (
    "The model is one of the small embedded ones, made for learning and testing: no public pretrained checkpoint was to be had. "
    "Judge real work on a real checkpoint."
)


def summarise(evaluation: Evaluation) -> Report:
    """Everything the evaluation holds, in the order in which a reader wants it."""
    runs = evaluation.runs
    return Report(
        title="Recognition and adaptation",
        scores=[score for run in runs for score in _scores(run, _unmeasured(evaluation))],
        tables=[_rates(runs), *([_differences(evaluation.paired)] if evaluation.paired else [])],
        curves=_curves(runs),
        notes=list(_notes(evaluation)),
        facts=_facts(evaluation),
        transcripts=list(_transcripts(runs)),
        data={"evaluation": evaluation.to_json(), "utterances": evaluation.utterances()},
    )


def _facts(evaluation: Evaluation) -> dict[str, str]:
    run = evaluation.runs[0]
    size = f"{len(run.outcomes)} utterances, {run.total.words} words, {run.audio_seconds / 60:.1f} min"
    condition = evaluation.condition
    heard = condition.name if condition.noise is None else f"{condition.name} (seed {condition.seed})"
    return {"Model": evaluation.model, "Manifest": evaluation.manifest, "Condition": heard, "Scored": size}


def _unmeasured(evaluation: Evaluation) -> str:
    """Why locality has no figure, where it has none."""
    clean = evaluation.condition.noise is None
    return "no source domain given (the stream is clean)" if clean else "no utterance was finished by every method"


def _scores(run: Run, unmeasured: str) -> Iterator[Score]:
    yield _score("reliability", run.reliability, run.adapt)
    yield _score("generality", run.generality, run.adapt)
    if run.locality is None:
        yield Score("locality", "WER", None, 0, None, None, run.adapt, note=unmeasured)
    else:
        after, source = Rate.of(run.locality.after), Rate.of(run.locality.source)
        yield _score("locality", after, run.adapt, source.value)
    yield Score("cost", "RTF", run.rtf, len(run.outcomes), None, None, run.adapt)


def _score(axis: Axis, rate: Rate, subject: str, baseline: float | None = None) -> Score:
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


def _curves(runs: Sequence[Run]) -> list[Curve]:
    count = min(len(run.outcomes) for run in runs)
    if count < 2:
        return []
    window = max(5, count // 8)
    curves = [_curve("WER over time", "WER so far (%)", runs)]
    return curves + ([_curve("WER in a moving window", f"WER (%) of the last {window}", runs, window)] if count >= 2 * window else [])


def _curve(title: str, label: str, runs: Sequence[Run], window: int | None = None) -> Curve:
    """A point for each utterance, over the last `window` ones or all so far; marked where a run was reset."""
    series = {run.adapt: _points(run.outcomes, window) for run in runs}
    marks = {}
    for run in runs:
        points = series[run.adapt]
        late = run.outcomes[len(run.outcomes) - len(points) :]
        marks[run.adapt] = [x for (x, _), outcome in zip(points, late, strict=True) if "reset" in outcome.events]
    return Curve(title, "minutes of audio", label, series, marks)


def _points(outcomes: Sequence[Outcome], window: int | None) -> list[tuple[float, float]]:
    minutes = np.cumsum([outcome.seconds for outcome in outcomes]) / 60
    errors = np.cumsum([0, *(outcome.counts.errors for outcome in outcomes)])
    words = np.cumsum([0, *(outcome.counts.words for outcome in outcomes)])
    ends = np.arange(window or 1, len(outcomes) + 1)
    starts = ends - window if window else np.zeros_like(ends)
    rates = 100 * (errors[ends] - errors[starts]) / np.maximum(words[ends] - words[starts], 1)
    return [(float(x), float(y)) for x, y in zip(minutes[ends - 1], rates, strict=True)]


def _transcripts(runs: Sequence[Run]) -> Iterator[Transcript]:
    heard: list[dict[str, Outcome]] = [{outcome.id: outcome for outcome in run.outcomes} for run in runs]
    for outcome in runs[0].outcomes[:_SHOWN]:
        places = {
            run.adapt: align(outcome.reference, found[outcome.id].hypothesis)
            for run, found in zip(runs, heard, strict=True)
            if outcome.id in found
        }
        yield Transcript(outcome.id, normalise(outcome.reference), places)


def _notes(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.model.startswith("embedded:"):
        yield _EMBEDDED
    yield from _SCORING
    if any(run.locality is None for run in evaluation.runs):
        yield f"Locality was not measured: {_unmeasured(evaluation)}."
    problems = evaluation.problems
    for problem in problems[:_NAMED]:
        yield f"Problem: {problem}"
    if len(problems) > _NAMED:
        yield f"Problems: {len(problems) - _NAMED} more, all named in report.json."
