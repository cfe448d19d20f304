"""A domain judged: the same utterances heard by the model as it was, as it was fine-tuned, and with the Syn-to-Real vector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.evaluate.entities import EntityRecall, entity_recall
from asrlife.evaluate.evaluation import Rate
from asrlife.evaluate.forgetting import Change
from asrlife.evaluate.wer import Counts, count
from asrlife.recipe.domain.vector import keep, kept
from asrlife.recipe.tuning import Source
from asrlife.text.entity import Entity, read_entities
from asrlife.text.normalise import normalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from asrlife.delta.delta import Delta
    from asrlife.methods.tune import Watch
    from asrlife.models.handle import Recogniser

UNADAPTED, SYNTHETIC, REAL = "unadapted", "synthetic", "+ Syn-to-Real"
_BATCH = 8
Place = Literal["reliability", "generality", "stand-in", "locality"]


@dataclass(frozen=True, eq=False)
class Trial:
    """Utterances of one axis, in words what they are, the entities in them by id, and a digest of all of it."""

    place: Place
    what: str
    utterances: tuple[Utterance, ...]
    entities: Mapping[str, tuple[Entity, ...]]
    digest: str
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, place: Place, what: str, source: Source) -> Trial:
        """Those with text that can be read; raises InputError where none is left."""
        from asrlife.recipe.domain.plan import digest_of

        corpus = source.read()
        found, problems = list[Utterance](), list(corpus.problems)
        for utterance in corpus:
            try:
                if (utterance.text or "").strip():
                    found.append(replace(utterance, audio=utterance.waveform()))
            except InputError as error:
                problems.append(f"{utterance.id}: {error}; left out")
        if not any(normalise(utterance.text or "") for utterance in found):
            raise InputError(f"{source.path}: nothing to judge on: {'; '.join(problems[:2]) or 'no utterance has words'}")
        return cls(place, what, tuple(found), _entities(source.path), digest_of(source.told()), tuple(problems))

    @property
    def seconds(self) -> float:
        """Of sound."""
        return sum(utterance.waveform().duration for utterance in self.utterances)


def _entities(path: Path) -> dict[str, tuple[Entity, ...]]:
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        row = json.loads(line) if line.strip() else {}
        if row.get("entities"):
            found[str(row["id"])] = read_entities(row["entities"], str(row.get("text") or ""), f"{path}:{number}")
    return found


@dataclass(frozen=True, eq=False)
class Heard:
    """What one state of the model made of the utterances of a trial, in their order."""

    trial: Trial
    texts: tuple[str, ...]

    @cached_property
    def counts(self) -> tuple[Counts, ...]:
        """Errors of each."""
        return tuple(count(said.text or "", text) for said, text in zip(self.trial.utterances, self.texts, strict=True))

    @cached_property
    def rate(self) -> Rate:
        """All together, with the 95 % interval."""
        return Rate.of(self.counts)

    @cached_property
    def recall(self) -> EntityRecall | None:
        """Of the entities; None where none are marked."""
        said = [(str(one.text), self.trial.entities.get(one.id, ())) for one in self.trial.utterances]
        return entity_recall(said, self.texts) if any(marks for _, marks in said) else None

    def change(self, before: Heard) -> Change:
        """Against another state, paired by utterance."""
        return Change.of(before.counts, self.counts)


@dataclass(frozen=True, eq=False)
class Judged:
    """By column and trial what was heard, the unadapted model first."""

    trials: tuple[Trial, ...]
    columns: tuple[str, ...]
    heard: Mapping[tuple[str, Place], Heard]

    def trial(self, place: Place) -> Trial | None:
        """That of a place, where there is one."""
        return next((trial for trial in self.trials if trial.place == place), None)

    def of(self, place: Place) -> dict[str, Heard]:
        """All columns of a trial."""
        return {column: self.heard[column, place] for column in self.columns}

    def scores(self) -> dict[str, Any]:
        """For cards and `--json`: by place and column the rate, the paired change and the recall of entities."""
        return {
            trial.place: {"what": trial.what, **{name: self._score(name, trial.place) for name in self.columns}} for trial in self.trials
        }

    def _score(self, column: str, place: Place) -> dict[str, Any]:
        heard, before = self.heard[column, place], self.heard[self.columns[0], place]
        rate = {"wer": heard.rate.value, "low": heard.rate.low, "high": heard.rate.high, "n": heard.rate.n}
        change = heard.change(before)
        paired = {} if column == self.columns[0] else {"change": {"value": change.value, "low": change.low, "high": change.high}}
        return rate | paired | ({} if heard.recall is None else {"entities": heard.recall.to_json()})


def judged(
    model: Recogniser, states: Mapping[str, tuple[Delta | None, str]], trials: Sequence[Trial], work: Path, watch: Watch
) -> Judged:  # fmt: skip
    """Let each state of the model, a delta with its digest or None, hear each trial; what an earlier run heard is kept in `work`."""
    total = len(states) * sum(len(trial.utterances) for trial in trials)
    heard: dict[tuple[str, Place], Heard] = {}
    with watch.stage("judging", total) as advance:
        for number, (column, (delta, digest)) in enumerate(states.items()):
            for trial in trials:
                path = work / "heard" / f"{number}-{trial.place}.json"
                heard[column, trial.place] = _heard(model, delta, trial, path, f"{model.fingerprint()}/{digest}/{trial.digest}", advance)
    return Judged(tuple(trials), tuple(states), heard)


def _heard(
    model: Recogniser, delta: Delta | None, trial: Trial, path: Path, key: str, advance: Callable[[], None]
) -> Heard:  # fmt: skip
    from contextlib import nullcontext

    from asrlife.delta.weights import applied

    found, ids = kept(path, key), [utterance.id for utterance in trial.utterances]
    if list(found) == ids:
        for _ in ids:
            advance()
        return Heard(trial, tuple(found.values()))
    texts = list[str]()
    with nullcontext() if delta is None else applied(model.module, delta):
        for first in range(0, len(ids), _BATCH):
            some = trial.utterances[first : first + _BATCH]
            texts += [one.text for one in model.transcribe([utterance.waveform() for utterance in some], batch_size=_BATCH)]
            for _ in some:
                advance()
    keep(path, key, dict(zip(ids, texts, strict=True)))
    return Heard(trial, tuple(texts))


def check_apart(dev: Trial, others: Sequence[Trial]) -> None:
    """Raise InputError where a sound on which the scale is chosen is also one that is reported on."""
    import hashlib

    def sounds(trial: Trial) -> dict[str, str]:
        return {hashlib.sha256(one.waveform().samples.tobytes()).hexdigest(): one.id for one in trial.utterances}

    own = sounds(dev)
    for other in others:
        if shared := own.keys() & sounds(other).keys():
            names = sorted(own[one] for one in shared)
            raise InputError(
                f"--real-dev: {len(shared)} of its recordings are in the test ({other.what}) too, such as {names[0]}: what the scale is "
                "chosen on cannot be tested on any more; name other recordings, or mark splits"
            )
