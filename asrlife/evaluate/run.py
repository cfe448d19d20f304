"""Fold methods over a corpus and measure what they did."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from asrlife.data.condition import Condition
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.evaluate.evaluation import Evaluation, Locality, Outcome, Run
from asrlife.evaluate.wer import Counts, count

if TYPE_CHECKING:
    from asrlife.methods.online.method import Event, Method
    from asrlife.methods.online.state import State
    from asrlife.models.handle import Recogniser

_RATE = 16_000
_LOCALITY = 40  # clean utterances that show whether the source domain was kept


def evaluate(
    model: Recogniser, corpus: Corpus, methods: Mapping[str, Method], condition: Condition = Condition(), progress: bool = False
) -> Evaluation:
    """Fold each method over the utterances under the condition, by the `step` the server takes, and score it.

    An utterance that cannot be read, has no text, or makes a step raise InputError is left out and named in `problems`; a corpus of which
    nothing is left raises InputError. Where the condition is not clean, locality compares clean speech before and after the stream.
    """
    if not methods:
        raise InputError("no method to evaluate; name at least one, such as none")
    problems = dict.fromkeys(corpus.problems)
    folds = {name: _fold(model, method, _heard(corpus, condition, problems, name, progress), problems) for name, method in methods.items()}
    for name, fold in folds.items():
        if not any(outcome.counts.words for outcome in fold.outcomes):
            cause = next(iter(problems), "no reference holds a word")
            raise InputError(f"{corpus.source or 'the corpus'}: {name} could score no utterance ({cause}); fix the manifest")
    locality = {} if condition.noise is None else _locality(model, corpus, folds)
    runs = tuple(Run(name, tuple(fold.outcomes), fold.cpu, fold.wall, locality.get(name)) for name, fold in folds.items())
    return Evaluation(model.name, str(corpus.source or "in memory"), condition, runs, tuple(problems))


@dataclass
class _Fold:
    """What a method did so far, and the state it ends with."""

    state: State
    outcomes: list[Outcome] = field(default_factory=list)
    cpu: float = 0.0
    wall: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu += time.process_time() - cpu
            self.wall += time.perf_counter() - wall


def _fold(model: Recogniser, method: Method, utterances: Iterable[Utterance], problems: dict[str, None]) -> _Fold:
    fold = _Fold(method.start(model))
    for utterance in utterances:
        try:
            with fold.timed():
                hypothesis, fold.state, events = method.step(model, fold.state, utterance)
        except InputError as error:
            problems[f"{utterance.id}: {error}"] = None
            continue
        fold.outcomes.append(_outcome(utterance, hypothesis.text, events))
    return fold


def _heard(corpus: Corpus, condition: Condition, problems: dict[str, None], name: str, progress: bool) -> Iterator[Utterance]:
    """Yield what can be scored, as it sounds under the condition, in memory at 16 kHz; name the rest in `problems`."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if progress and not console.is_terminal:
        console.print(f"{name}: {len(corpus)} utterances", highlight=False)
    quiet = not (progress and console.is_terminal)
    for utterance in track(corpus.utterances, name, console=console, transient=True, disable=quiet):
        if utterance.text is None:
            problems[f"{utterance.id}: has no text to score against; left out"] = None
            continue
        try:
            yield _loaded(condition.apply(utterance))
        except InputError as error:
            problems[f"{utterance.id}: {error}"] = None


def _loaded(utterance: Utterance) -> Utterance:
    return replace(utterance, audio=utterance.waveform(_RATE))


def _outcome(utterance: Utterance, text: str, events: Iterable[Event]) -> Outcome:
    reference, events = utterance.text or "", tuple(events)
    before = next((str(event.detail["before"]) for event in events if "before" in event.detail), text)
    counts, kinds = count(reference, text), tuple(event.kind for event in events)
    earlier = counts if before == text else count(reference, before)
    return Outcome(utterance.id, reference, text, before, counts, earlier, utterance.waveform(_RATE).duration, kinds)


def _locality(model: Recogniser, corpus: Corpus, folds: Mapping[str, _Fold]) -> dict[str, Locality]:
    """Score clean versions of the first utterances under the source's weights and under those each method ends with."""
    import torch

    from asrlife.methods.online.state import carried

    done = set.intersection(*({outcome.id for outcome in fold.outcomes} for fold in folds.values()))
    clean = [_loaded(utterance) for utterance in corpus if utterance.id in done][:_LOCALITY]
    source = _decoded(model, clean) if clean else ()
    if not any(counts.words for counts in source):
        return {}
    kept = {}
    for name, fold in folds.items():
        own = [model.module.get_parameter(parameter).detach().reshape(-1) for parameter in fold.state.names]
        same = not own or torch.equal(torch.cat(own), carried(fold.state))
        kept[name] = Locality(source if same else _decoded_with(model, fold.state, clean), source)
    return kept


def _decoded_with(model: Recogniser, state: State, utterances: list[Utterance]) -> tuple[Counts, ...]:
    from asrlife.delta.weights import trainable
    from asrlife.methods.online.state import carried

    with trainable(model.module, state.names) as flat:
        flat.load(carried(state))
        return _decoded(model, utterances)


def _decoded(model: Recogniser, utterances: list[Utterance]) -> tuple[Counts, ...]:
    """One by one, as a step decodes."""
    heard = model.transcribe([utterance.waveform(_RATE) for utterance in utterances], batch_size=1)
    return tuple(count(utterance.text or "", hypothesis.text) for utterance, hypothesis in zip(utterances, heard, strict=True))
