"""A domain in figures: what it learnt, what followed, what was forgotten, and what became of the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from asrlife.evaluate.report import Axis, Dots, Report, Score, Table, Transcript
from asrlife.evaluate.summary import EMBEDDED, SCORED, named
from asrlife.evaluate.wer import align
from asrlife.recipe.domain.judge import Heard, Judged, Place
from asrlife.text.normalise import normalise

if TYPE_CHECKING:
    from asrlife.recipe.aloud import Made
    from asrlife.recipe.domain.make import Done

NAMES: Mapping[Place, str] = {
    "reliability": "reliability", "generality": "generality", "stand-in": "another engine", "locality": "locality",
}  # fmt: skip
NO_REAL = "no recordings of the domain were given (--real)"
_SHOWN, _LINES, _WORDS, _EXCERPT = 12, 60, 15, 70


def report_of(done: Done) -> Report:
    """Everything, in the order in which a reader wants it."""
    judged = done.judged
    return Report(
        title=f"Domain: {done.name}",
        scores=list(_scores(done)),
        tables=[rates(judged), *entities(judged), *_missed(judged), *_account(done.speech)],
        curves=[],
        notes=list(_notes(done)),
        facts=_facts(done),
        transcripts=list(_transcripts(judged)),
        data={"domain": done.to_json(), "utterances": list(_utterances(judged))},
        panels=[_bars(judged), *_recall_bars(judged)],
    )


def rates(judged: Judged) -> Table:
    """WER with its interval by axis and column, and below it the paired difference to the unadapted model."""
    rows, marks = [], []
    for trial in judged.trials:
        heard = judged.of(trial.place)
        before = heard[judged.columns[0]]
        cells = [_cell(one, None if one is before else before) for one in heard.values()]
        rows.append([NAMES[trial.place], *(text for text, _ in cells)])
        marks.append(["", *(mark for _, mark in cells)])
    if judged.trial("generality") is None:
        rows.insert(1, [NAMES["generality"], *["not measured"] * len(judged.columns)])
        marks.insert(1, [""] * (1 + len(judged.columns)))
    return Table("Word error rate (%), below it the change", ["", *judged.columns], rows, marks)


def _cell(heard: Heard, before: Heard | None) -> tuple[str, str]:
    rate = heard.rate
    text = f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    if before is None:
        return text, ""
    change = heard.change(before)
    mark = "better" if change.high < 0 else "worse" if change.low > 0 else ""
    return f"{text}\n{100 * change.value:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]", mark


def entities(judged: Judged) -> Iterator[Table]:
    """Recall of entities by label and column, for each trial that marks some."""
    for trial in judged.trials:
        recalls = {column: heard.recall for column, heard in judged.of(trial.place).items() if heard.recall is not None}
        if not recalls:
            continue
        first = next(iter(recalls.values()))
        labels = list(first.labels) if len(first.labels) > 1 else []
        rows = [["all" if labels else next(iter(first.labels)), *(_recalled(found.overall) for found in recalls.values())]]
        rows += [[label, *(_recalled(found.labels[label]) for found in recalls.values())] for label in labels]
        yield Table(f"Entities recalled (%), {NAMES[trial.place]}", ["", *recalls], rows)


def _recalled(found: Any) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _scores(done: Done) -> Iterator[Score]:
    judged, seconds = done.judged, float(done.tuned.note["seconds"])
    for number, column in enumerate(judged.columns):
        for axis in ("reliability", "generality", "locality"):
            yield _score(judged, axis, column)
        cost = 0.0 if number == 0 else seconds
        yield Score("cost", "s of tuning", cost, done.splits["train"], None, None, column)


def _score(judged: Judged, axis: Axis, column: str) -> Score:
    place: Place = axis  # type: ignore[assignment] # "cost" is no place, and is not asked for
    if judged.trial(place) is None:
        return Score(axis, "WER", None, 0, None, None, column, note=NO_REAL)
    rate, first = judged.heard[column, place].rate, judged.columns[0]
    base = None if column == first else judged.heard[first, place].rate.value
    return Score(axis, "WER", rate.value, rate.n, rate.low, rate.high, column, base)


def _bars(judged: Judged) -> Dots:
    series = {}
    for column in judged.columns:
        found = [judged.heard[column, trial.place].rate for trial in judged.trials]
        series[column] = [(100 * rate.value, 100 * rate.low, 100 * rate.high) for rate in found]
    return Dots("Before and after", "WER (%), with 95 % intervals", [NAMES[t.place] for t in judged.trials], series, bars=True)


def _recall_bars(judged: Judged) -> Iterator[Dots]:
    found = {column: heard.recall for column, heard in judged.of("reliability").items() if heard.recall is not None}
    if not found:
        return
    labels = list(next(iter(found.values())).labels)
    series = {
        column: [(100 * r.value, 100 * r.low, 100 * r.high) for r in (one.labels[k] for k in labels)] for column, one in found.items()
    }
    yield Dots("Entities recalled in the test of the domain", "recall (%), with 95 % intervals", labels, series, bars=True)


def _missed(judged: Judged) -> Iterator[Table]:
    heard = judged.of("reliability")
    words = {column: _missed_words(one) for column, one in heard.items()}
    said = Counter(word for one in heard[judged.columns[0]].trial.utterances for word in normalise(one.text or "").split())
    last = words[judged.columns[-1]]
    ranked = sorted(last, key=lambda word: (-last[word], -said[word], word))[:_WORDS]
    if ranked:
        rows = [[word, str(said[word]), *(str(words[column][word]) for column in judged.columns)] for word in ranked]
        yield Table("Words missed most", ["", "said", *judged.columns], rows)
    if (recall := heard[judged.columns[-1]].recall) is not None and recall.missed:
        yield Table(
            f"Entities missed most, {judged.columns[-1]}", ["", "missed"], [[phrase, str(times)] for phrase, times in recall.missed]
        )


def _missed_words(heard: Heard) -> Counter[str]:
    pairs = zip(heard.trial.utterances, heard.texts, strict=True)
    places = [place for said, text in pairs for place in align(said.text or "", text)]
    return Counter(place.reference for place in places if place.kind in ("substitution", "deletion"))


def _account(speech: Made) -> Iterator[Table]:
    counts = speech.prepared.counts()
    yield Table("What became of the text", list(counts), [[str(value) for value in counts.values()]])
    noted = sorted((fate for fate in speech.prepared.fates if fate.verdict != "used"), key=lambda fate: fate.verdict != "left out")
    rows = [[str(fate.line), fate.verdict, "; ".join(fate.why), _short(fate.excerpt)] for fate in noted[:_LINES]]
    rows += [[str(plan.line or ""), "not read", why, _short(plan.text)] for plan, why in speech.failures[:_LINES]]
    if rows:
        yield Table("Lines changed or left out", ["line", "", "why", "text"], rows, prose=True)


def _short(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "..."


def _transcripts(judged: Judged) -> Iterator[Transcript]:
    heard = judged.of("reliability")
    for number, said in enumerate(heard[judged.columns[0]].trial.utterances[:_SHOWN]):
        places = {column: align(said.text or "", one.texts[number]) for column, one in heard.items()}
        yield Transcript(said.id, normalise(said.text or ""), places)


def _utterances(judged: Judged) -> Iterator[dict[str, Any]]:
    for trial in judged.trials:
        heard = judged.of(trial.place)
        for number, said in enumerate(trial.utterances):
            yield {"set": trial.place, "id": said.id, "said": said.text, **{name: one.texts[number] for name, one in heard.items()}}


def _facts(done: Done) -> dict[str, str]:
    counts, splits = done.speech.prepared.counts(), done.splits
    return {
        "Model": done.model,
        "Text": f"{done.text}: {counts['lines']} lines, {counts['left out']} left out, {counts['sentences']} sentences",
        "Learnt from": f"{splits['train']} readings; {splits['dev']} chose the weights",
        "Tested on": "; ".join(f"{NAMES[trial.place]}: {len(trial.utterances)}, {trial.what}" for trial in done.judged.trials),
        "Syn-to-Real": done.vector_in_words,
        "Delta": str(done.delta),
    }


def verdicts(judged: Judged) -> Iterator[str]:
    """What the intervals allow to be said of the last column, an axis a line."""
    last = judged.columns[-1]
    for trial in judged.trials:
        change = judged.heard[last, trial.place].change(judged.heard[judged.columns[0], trial.place])
        word = "better than" if change.high < 0 else "worse than" if change.low > 0 else "not settled against"
        yield f"{NAMES[trial.place]}: {word} the unadapted model ({100 * change.value:+.1f} points of WER)"


def _notes(done: Done) -> Iterator[str]:
    yield from verdicts(done.judged)
    if done.judged.trial("generality") is None:
        yield f"Generality was not measured: {NO_REAL}. Whether real speech of the domain gained is not known."
    yield "The test has sentences and voices that were not learnt from; sentences drawn from one grammar share its templates all the same."
    yield from named([problem for trial in done.judged.trials for problem in trial.problems])
    if done.model.startswith("embedded:"):
        yield EMBEDDED
    yield SCORED
