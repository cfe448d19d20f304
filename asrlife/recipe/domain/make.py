"""From a text to a domain recogniser: read aloud, fine-tune, add Syn-to-Real, judge, report; each stage goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.errors import InputError
from asrlife.recipe.aloud import Made as Speech
from asrlife.recipe.domain import plan, speech
from asrlife.recipe.domain.judge import REAL, SYNTHETIC, UNADAPTED, Judged, Trial, check_apart, judged
from asrlife.recipe.domain.names import DELTA
from asrlife.recipe.domain.plan import Domain
from asrlife.recipe.domain.vector import Chosen, Vector, chosen, summed, vector_of
from asrlife.recipe.tuning import Order, Source, made, opened, settings_of

if TYPE_CHECKING:
    from asrlife.delta.delta import Delta
    from asrlife.methods.tune import Watch
    from asrlife.models.handle import Recogniser
    from asrlife.text.prepare import Prepared

Say = Callable[[str], None]
STAGES = 5


@dataclass(frozen=True, eq=False)
class Done:
    """A domain that is whole: its files, the speech, the tuned delta, what was added to it, and how it was judged."""

    name: str
    text: str
    model: str
    delta: Path
    report: Path
    speech: Speech
    splits: Mapping[str, int]
    tuned: Delta
    vector: Vector | None
    chosen: Chosen | None
    judged: Judged
    wanted: bool = True

    @property
    def vector_in_words(self) -> str:
        """What became of the third stage."""
        if self.vector is None or self.chosen is None:
            return "none ships for this model" if self.wanted else "not wanted"
        return f"{self.vector.origin} vector, scale {self.chosen.scale:g} ({self.chosen.why})"

    def to_json(self) -> dict[str, Any]:
        """For `--json`, report.json and results of recipes."""
        vector = None
        if self.vector is not None and self.chosen is not None:
            vector = {"origin": self.vector.origin, "sha256": self.vector.digest, "scale": self.chosen.scale, "why": self.chosen.why}
            vector |= {"probes": dict(self.chosen.probes)}
        return {
            "name": self.name,
            "model": self.model,
            "delta": str(self.delta),
            "report": str(self.report),
            "text": self.speech.prepared.counts(),
            "speech": self.speech.to_json(),
            "splits": dict(self.splits),
            "columns": list(self.judged.columns),
            "tune": {key: self.tuned.note[key] for key in ("scores", "seconds", "settings", "keep")},
            "syn2real": vector,
            "axes": self.judged.scores(),
            "generality_measured": self.judged.trial("generality") is not None,
        }


@dataclass(frozen=True, eq=False)
class _Ready:
    """What was read, and found good, before anything was written."""

    model: Recogniser
    prepared: Prepared
    order: Order
    vector: Vector | None
    dev: Trial | None
    given: Mapping[str, Trial]
    plan: Mapping[str, Any]

    @property
    def alphabet(self) -> frozenset[str] | None:
        vocabulary = getattr(self.model, "vocabulary", None)
        return None if vocabulary is None else vocabulary.letters


def make(asked: Domain, watch: Watch, say: Say = lambda _: None, fresh: bool = False) -> Done:
    """Make the domain, or what is missing of it; `say` is told a line for each stage.

    What can be refused is refused before anything is written: the text, voices, settings, manifests, a vector of another model, and a
    folder in which a domain of other inputs lies, unless `fresh`.
    """
    ready = _ready(asked, watch)
    plan.begin(asked.out, ready.plan, fresh)
    told, spoken = _Told(say), speech.read(asked, ready.prepared, watch.stage)
    told(f"speech: {_counted(spoken)}; listen: {spoken.page}")
    trials = _trials(asked, ready, watch)
    tuned = made(ready.order, asked.work / plan.SYNTHETIC, watch)
    told(f"fine-tuning: {_tuned(tuned.delta)}")
    choice = None
    if ready.vector is not None:
        choice = chosen(asked, ready.model, tuned.delta, ready.vector, ready.dev.utterances if ready.dev else None, watch)
    told(f"Syn-to-Real: {_added(asked, ready, choice)}")
    found = judged(ready.model, _states(asked, tuned.delta, ready.vector, choice), trials, asked.work, watch)
    told(f"judging: {', '.join(f'{len(trial.utterances)} utterances for {trial.place}' for trial in trials)}")
    files = asked.out / DELTA, asked.out / "report.html"
    done = Done(
        asked.out.name, asked.text.name, ready.model.name, *files, spoken, _splits(spoken), tuned.delta, ready.vector, choice, found,
        asked.vector,
    )  # fmt: skip
    _save(asked, done)
    _report(done)
    told(f"report: {done.report}")
    return done


class _Told:
    """Counts the stages that are told."""

    def __init__(self, say: Say) -> None:
        self._say, self._number = say, 0

    def __call__(self, text: str) -> None:
        self._number += 1
        self._say(f"{self._number}/{STAGES} {text}")


def _ready(asked: Domain, watch: Watch) -> _Ready:
    from asrlife.methods.tune.scope import selection
    from asrlife.recipe.keeping import keeps

    given = _given(asked)
    settings = settings_of(asked.settings)
    keeps(asked.keep, lambda *part: Source(*part).read())
    model = opened(asked.model)
    if hasattr(model, "speller"):
        raise InputError(f"{asked.model} is a language model: a domain needs a recogniser, as embedded:ctc")
    selection(model.module, settings.scope, settings.without, settings.rank)
    vector = vector_of(asked, model)
    dev = None if asked.real_dev is None else Trial.of("generality", "real dev", plan.source(asked.real_dev, "dev", "real-dev"))
    if dev is not None:
        check_apart(dev, list(given.values()))
    vocabulary = getattr(model, "vocabulary", None)
    prepared = speech.prepared_domain(asked, None if vocabulary is None else vocabulary.letters, watch.stage)
    manifest = asked.out / speech.SPEECH / "transcripts.jsonl"
    order = Order(asked.model, Source(manifest, "train"), settings, Source(manifest, "dev"), keep=asked.keep)
    on = None if asked.real_dev is None or asked.scale is not None else plan.source(asked.real_dev, "dev", "real-dev")
    return _Ready(
        model, prepared, order, vector, dev, given, plan.told(asked, model.fingerprint(), None if vector is None else vector.told(), on)
    )


def _given(asked: Domain) -> dict[str, Trial]:
    """The recordings that options name, read."""
    found = {}
    if asked.real is not None:
        found["generality"] = Trial.of("generality", "real speech of the domain", plan.source(asked.real, "test", "real"))
    if asked.general is not None:
        found["locality"] = Trial.of("locality", "speech of other domains", plan.source(asked.general, "test", "general"))
    return found


def _trials(asked: Domain, ready: _Ready, watch: Watch) -> list[Trial]:
    """What is judged on: the synthetic test, and what was given or can stand in for it."""
    manifest = asked.out / speech.SPEECH / "transcripts.jsonl"
    trials = [Trial.of("reliability", "unseen sentences by unseen voices, synthetic", Source(manifest, "test"))]
    if "generality" in ready.given:
        trials.append(ready.given["generality"])
    elif voices := speech.other_voices():
        path = speech.read_other(asked, ready.prepared, voices, watch.stage)
        trials.append(Trial.of("stand-in", f"the same sentences by {voices[0].partition(':')[0]}, synthetic", Source(path)))
    if "locality" in ready.given:
        return [*trials, ready.given["locality"]]
    path = speech.read_general(asked, ready.prepared, ready.alphabet, watch.stage)
    return [*trials, Trial.of("locality", "everyday commands, synthetic, by the voices of the test", Source(path))]


def _states(asked: Domain, tuned: Delta, vector: Vector | None, choice: Chosen | None) -> dict[str, tuple[Delta | None, str]]:
    own = plan.digest(asked.work / plan.SYNTHETIC)
    states: dict[str, tuple[Delta | None, str]] = {UNADAPTED: (None, ""), SYNTHETIC: (tuned, own)}
    if vector is not None and choice is not None:
        states[REAL] = (summed(tuned, vector, choice.scale), f"{own}+{choice.scale}*{vector.digest}")
    return states


def _save(asked: Domain, done: Done) -> None:
    """The delta with its card, unless it is there with the same scores."""
    from asrlife.delta import file
    from asrlife.delta.delta import Delta

    final = done.tuned if done.vector is None or done.chosen is None else summed(done.tuned, done.vector, done.chosen.scale)
    delta = Delta(final.base, final.tensors, _note(asked, done))
    try:
        kept = file.load(done.delta) if done.delta.exists() else None
    except InputError:
        kept = None  # damaged, or its card is missing: made anew
    if kept is None or dict(kept.note) != dict(delta.note):
        file.save(delta, done.delta)


def _note(asked: Domain, done: Done) -> dict[str, Any]:
    """The card: what it was made of, how, and how it was judged."""
    own = {key: done.tuned.note[key] for key in ("method", "of", "evidence", "seed", "scores", "settings", "keep")}
    parents: list[dict[str, Any]] = [own]
    note: dict[str, Any] = {"method": "domain", "of": done.model, "name": done.name, "evidence": done.tuned.note["evidence"]}
    note |= {"seed": asked.seed, "scores": done.judged.scores()}
    if done.vector is not None and done.chosen is not None:
        parents.append({**done.vector.delta.note, "sha256": done.vector.digest})
        note |= {"scale": done.chosen.scale, "scale_chosen": done.chosen.why, "probes": dict(done.chosen.probes)}
    return note | {"parents": parents, "text": done.speech.prepared.counts(), "splits": dict(done.splits)}


def _report(done: Done) -> None:
    from asrlife.recipe.domain.report import report_of

    report_of(done).write(done.report.parent)


def _splits(made: Speech) -> dict[str, int]:
    failed = {id(reading) for reading, _ in made.failures}
    return {part: sum(one.split == part and id(one) not in failed for one in made.plans) for part in ("train", "dev", "test")}


def _counted(made: Speech) -> str:
    counts, splits = made.prepared.counts(), _splits(made)
    lines = f"{counts['lines']} lines ({counts['used']} used, {counts['changed']} changed, {counts['left out']} left out)"
    return f"{lines}; {splits['train']} readings to learn from, {splits['dev']} to choose on, {splits['test']} to test"


def _tuned(delta: Delta) -> str:
    scores = delta.note["scores"]
    dev: Mapping[str, float] = scores.get("dev_wer") or {}
    rates = f"dev WER {100 * dev['before']:.1f} to {100 * dev['after']:.1f} %, " if dev else ""
    stopped = f" ({scores['stopped']})" if scores["stopped"] else ""
    return f"{rates}step {scores['best_step']} of {scores['steps']}{stopped}, {delta.note['seconds']:.0f} s"


def _added(asked: Domain, ready: _Ready, choice: Chosen | None) -> str:
    if ready.vector is None or choice is None:
        return "not wanted" if not asked.vector else f"no vector ships for {asked.model}; going on without"
    return f"{ready.vector.origin} vector, scale {choice.scale:g} ({choice.why})"
