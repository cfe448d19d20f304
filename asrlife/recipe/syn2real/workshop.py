"""The tunings of an experiment, each made once and kept: real and synthetic speech of any domains, alone or together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.data.corpus import Corpus
from asrlife.delta import file
from asrlife.delta.delta import Delta, Dense
from asrlife.delta.weights import applied
from asrlife.recipe.syn2real.domains import Heard
from asrlife.recipe.tuning import CHECKPOINT, BarWatch

if TYPE_CHECKING:
    from asrlife.methods.tune import Settings
    from asrlife.models.handle import Recogniser
    from asrlife.recipe.registry import Bar


@dataclass(frozen=True, eq=False)
class Workshop:
    """A model, the domains and the settings of one seed; deltas lie in `folder` and are made anew where they are of other settings."""

    model: Recogniser
    domains: Mapping[str, Heard]
    settings: Settings
    folder: Path
    bar: Bar
    base: str

    def real(self, names: Sequence[str]) -> Delta:
        """The base tuned on the real speech of these domains."""
        return self._tuned("real", names, self._real(names))

    def synthetic(self, names: Sequence[str]) -> Delta:
        """The base tuned on the synthetic speech of these domains."""
        return self._tuned("synthetic", names, self._synthetic(names))

    def vector(self, names: Sequence[str]) -> Delta:
        """Syn-to-Real of these domains: real - synthetic (arXiv 2406.02925)."""
        return self.real(names) - self.synthetic(names)

    def mixed(self, names: Sequence[str], dev: Corpus) -> Delta:
        """The base tuned on real and synthetic speech of these domains together, the best weights chosen on `dev`."""
        return self._tuned("mixed", names, [*self._real(names), *self._synthetic(names)], dev)

    def continued(self, names: Sequence[str], target: str, dev: Corpus, slower: float = 0.1) -> Delta:
        """`mixed`, tuned on with the target's synthetic speech at `slower` times the rate, the best weights chosen on `dev`."""
        start = self.mixed(names, dev)
        settings = replace(self.settings, rate=self.settings.rate * slower)
        return start + self._tuned(f"continued-{target}-after-mixed", names, self._synthetic([target]), dev, settings, start)

    def _real(self, names: Sequence[str]) -> list[Any]:
        return list(chain.from_iterable(self.domains[name].real["train"] for name in names))

    def _synthetic(self, names: Sequence[str]) -> list[Any]:
        return list(chain.from_iterable(self.domains[name].synthetic for name in names))

    def _tuned(
        self, kind: str, names: Sequence[str], rows: Sequence[Any], dev: Corpus | None = None, settings: Settings | None = None,
        start: Delta | None = None,
    ) -> Delta:  # fmt: skip
        """A kept delta of this name and these settings, or a new one; a run that was cut off goes on."""
        settings = settings or self.settings
        path = self.folder / f"{kind}-{'+'.join(names)}.safetensors"
        asked = {"settings": asdict(settings), "ids": [row.id for row in rows], "dev": None if dev is None else [row.id for row in dev]}
        asked = json.loads(json.dumps({"base": self.base, "kind": kind, **asked}))
        if path.exists() and (kept := file.load(path)).note.get("asked") == asked:
            return kept
        with moved(self.model, start):
            found = self._taught(path, Corpus(tuple(rows)), dev, settings)
        delta = Delta(self.base, found.tensors, {**found.note, "asked": asked})
        file.save(delta, path)
        return delta

    def _taught(self, path: Path, corpus: Corpus, dev: Corpus | None, settings: Settings) -> Delta:
        from asrlife.methods.tune import tune

        path.parent.mkdir(parents=True, exist_ok=True)
        kept = path.with_name(path.stem + CHECKPOINT)
        found = tune(self.model, corpus, dev, settings, resume=kept, watch=BarWatch(self.bar, path.stem))
        kept.unlink(missing_ok=True)
        return found.delta


def moved(model: Recogniser, delta: Delta | None) -> AbstractContextManager[None]:
    """The model with a delta on it, or as it is."""
    return nullcontext() if delta is None else applied(model.module, delta)


def mean(deltas: Sequence[Delta]) -> Delta:
    """The mean of several deltas."""
    total = deltas[0]
    for delta in deltas[1:]:
        total = total + delta
    return total * (1 / len(deltas))


def packed(vectors: Sequence[Delta], note: Mapping[str, Any]) -> Delta:
    """The mean of vectors in half precision, small enough to ship."""
    found = mean(vectors)
    tensors = {name: Dense(change.dense().half()) for name, change in found.tensors.items()}
    return Delta(found.base, tensors, {"method": "syn2real", **note})


Hearing = Callable[[Delta | None, Sequence[Any]], tuple[tuple[int, ...], tuple[int, ...]]]


def hearing(model: Recogniser, batch: int = 8) -> Hearing:
    """A function that tells errors and words of each utterance under a delta, plainly: lower case, no numbers written as digits.

    The usual normaliser would make one number, and so one word, of a string of spoken digits.
    """
    import jiwer

    def heard(delta: Delta | None, utterances: Sequence[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        errors: list[int] = []
        words: list[int] = []
        with moved(model, delta):
            for first in range(0, len(utterances), batch):
                some = utterances[first : first + batch]
                for row, said in zip(some, model.transcribe([row.waveform() for row in some], batch_size=batch), strict=True):
                    found = jiwer.process_words(str(row.text).lower(), said.text.lower())
                    errors.append(found.substitutions + found.deletions + found.insertions)
                    words.append(found.hits + found.substitutions + found.deletions)
        return tuple(errors), tuple(words)

    return heard
