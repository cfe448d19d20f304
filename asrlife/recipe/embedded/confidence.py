"""Confidence as a probability: logistic curves for texts and for words, and for those of the adapted model, fitted on development speech.

They are written on the card. `python -m asrlife.recipe.embedded.confidence MANIFEST asrlife/assets/ctc ...` does it for models that are
there, and prints what it found: on the development split of the manifest, or on sentences of the grammar in development voices for a
model that never heard a human.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from asrlife.audio.waveform import Waveform
from asrlife.data.condition import NOISES, Condition
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.files import atomic
from asrlife.methods.online.fold import run
from asrlife.methods.online.registry import make
from asrlife.models.confidence import Platt, logit, raw
from asrlife.recipe.embedded.speech import RATE, Speech, read_aloud
from asrlife.recipe.recipe import folder as recipes
from asrlife.text.grammar import Grammar
from asrlife.text.hypothesis import Hypothesis

LEVELS = (0.0, 10.0, 20.0)  # dB
FEW_LEVELS = (10.0,)  # for a decoder that writes on and on where it hears nothing
BINS = 10
FOLDS = 5
SENTENCES, SEED = 60, 12  # as the development set of the recipe begins
_BATCH = 32
KINDS = ("utterance", "word")
ADAPTED = ("suta", "dsuta")


@dataclass(frozen=True)
class Evidence:
    """Scores (nats), whether what they belong to was right, and the number of the utterance behind each."""

    scores: np.ndarray
    right: np.ndarray
    owners: np.ndarray


def conditions(levels: Sequence[float]) -> list[Condition]:
    """Clean speech, and every made noise at every level (dB)."""
    return [Condition(), *(Condition(noise, level) for noise, level in product(NOISES, levels))]


def gather(folder: Path, utterances: Sequence[Utterance], heard_in: Sequence[Condition]) -> dict[str, Evidence]:
    """What the model in `folder` makes of the utterances under the conditions, without any curve on its card."""
    model = _without_curves(folder)

    def said() -> Iterator[tuple[int, Hypothesis]]:
        for condition in heard_in:
            waveforms = [condition.apply(utterance).waveform() for utterance in utterances]
            yield from enumerate(model.transcribe(waveforms, batch_size=_BATCH))

    return _evidence(said(), utterances)


def gather_adapted(folder: Path, utterances: Sequence[Utterance], heard_in: Sequence[Condition]) -> dict[str, Evidence]:
    """The same when it adapts by each method of ADAPTED, with the settings of its card; every condition is a stream of its own."""
    model = _without_curves(folder)

    def said() -> Iterator[tuple[int, Hypothesis]]:
        for condition, name in product(heard_in, ADAPTED):
            stream = run(make(name, {}, model), model, [condition.apply(utterance) for utterance in utterances])
            yield from ((owner, hypothesis) for owner, (_, hypothesis, _) in enumerate(stream))

    return _evidence(said(), utterances)


def _without_curves(folder: Path) -> Any:
    import asrlife

    model: Any = asrlife.load(str(folder))
    return replace(model, card={key: value for key, value in model.card.items() if key != "confidence"})


def _evidence(said: Iterable[tuple[int, Hypothesis]], utterances: Sequence[Utterance]) -> dict[str, Evidence]:
    rows: dict[str, list[tuple[float, bool, int]]] = {kind: [] for kind in KINDS}
    for owner, hypothesis in said:
        text = str(utterances[owner].text)
        if hypothesis.tokens:
            rows["utterance"].append((hypothesis.score, hypothesis.text == text, owner))
        rows["word"] += [(score, good, owner) for score, good in _words(hypothesis, text)]
    return {kind: Evidence(*(np.array(column) for column in zip(*found, strict=True))) for kind, found in rows.items() if found}


def _words(hypothesis: Hypothesis, text: str) -> Iterator[tuple[float, bool]]:
    import jiwer

    if not hypothesis.words:
        return
    (chunks,) = jiwer.process_words(text, " ".join(word.text for word in hypothesis.words)).alignments
    good = {place for chunk in chunks if chunk.type == "equal" for place in range(chunk.hyp_start_idx, chunk.hyp_end_idx)}
    yield from ((raw(word), place in good) for place, word in enumerate(hypothesis.words))


def fit(evidence: Evidence) -> Platt:
    """The curve of least log-loss, its targets drawn in a little as Platt (1999) does, by Newton's method."""
    x = np.stack([[logit(score) for score in evidence.scores], np.ones(len(evidence.scores))], 1)
    hits = evidence.right.sum()
    target = np.where(evidence.right, (hits + 1) / (hits + 2), 1 / (len(x) - hits + 2))
    curve = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ curve, -50, 50)))
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        curve = curve - np.linalg.solve(curvature, x.T @ (p - target))
    return Platt(round(float(curve[0]), 4), round(float(curve[1]), 4))


def crossed(evidence: Evidence) -> np.ndarray:
    """The probability of each score by a curve that was fitted without its utterance, in whatever condition."""
    found = np.zeros(len(evidence.scores))
    for fold in range(FOLDS):
        held = evidence.owners % FOLDS == fold
        curve = fit(Evidence(evidence.scores[~held], evidence.right[~held], evidence.owners[~held]))
        found[held] = [curve.of(score) for score in evidence.scores[held]]
    return found


def expected_error(probabilities: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over bins of equal width: the mean distance of what was claimed from what was so."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = [abs(float(np.sum(probabilities[bins == each] - right[bins == each]))) for each in range(BINS)]
    return sum(gaps) / len(right)


def measured(evidence: Evidence) -> dict[str, Any]:
    """The curve, and the error without it and with one that never saw the utterance."""
    before = expected_error(np.exp(np.minimum(evidence.scores, 0.0)), evidence.right)
    error = {"before": round(before, 4), "after": round(expected_error(crossed(evidence), evidence.right), 4)}
    return {**asdict(fit(evidence)), "count": len(evidence.right), "right": round(float(evidence.right.mean()), 4), "error": error}


def calibrate(folder: Path, utterances: Sequence[Utterance]) -> Mapping[str, Any]:
    """Fit the curves of the model in `folder`, as it is and adapted, write them on its card, and return the card.

    A model that says nothing gets none.
    """
    levels = FEW_LEVELS if folder.name == "whisper" else LEVELS
    heard_in = conditions(levels)
    plain, adapted = (
        {kind: measured(evidence) for kind, evidence in found(folder, utterances, heard_in).items()} for found in (gather, gather_adapted)
    )
    path = folder / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    if len(plain) < len(KINDS):
        return card
    told = f"{len(utterances)} development utterances, clean and in {', '.join(NOISES)} at {', '.join(f'{level:g}' for level in levels)} dB"
    card["confidence"] = {**plain, "fitted_on": told}
    if len(adapted) == len(KINDS):
        card["confidence"]["adapted"] = {**adapted, "methods": list(ADAPTED)}
    with atomic(path, "w") as file:
        file.write(json.dumps(card, indent=2) + "\n")
    return card


def utterances_of(speech: Speech, count: int = SENTENCES) -> list[Utterance]:
    """The first utterances of a set."""
    return [Utterance(str(each), Waveform(speech[each], RATE), speech.texts[each]) for each in range(min(count, len(speech)))]


def synthetic() -> list[Utterance]:
    """Development sentences in development voices."""

    @contextmanager
    def unseen(_task: str, _total: int | None) -> Iterator[Callable[[], None]]:
        yield lambda: None

    grammar = Grammar.read(recipes() / "embedded" / "grammar.yaml")
    return utterances_of(read_aloud(grammar, "dev", SENTENCES, SEED, set(), unseen))


def main(arguments: Sequence[str]) -> None:
    """Calibrate the models in the folders behind the manifest."""
    manifest, *folders = map(Path, arguments)
    for folder in folders:
        utterances = synthetic() if folder.name == "ctc-tts" else list(Corpus.read(manifest).split("dev"))
        print(folder.name, json.dumps(calibrate(folder, utterances)["confidence"]))


if __name__ == "__main__":
    main(sys.argv[1:])
