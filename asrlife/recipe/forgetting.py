"""The step "forgetting": several ways of tuning on one new domain, each judged on it and on an old one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from asrlife.errors import InputError
from asrlife.recipe.registry import Place, Step
from asrlife.recipe.schema import Settings
from asrlife.recipe.tuning import BarWatch, Order, Source, made, placed, settings_of

if TYPE_CHECKING:
    from asrlife.data.utterance import Utterance
    from asrlife.evaluate.forgetting import Point
    from asrlife.evaluate.wer import Counts
    from asrlife.models.handle import Recogniser

BASE = "base"


class Set(Settings):
    """A manifest and the part of it that is meant."""

    manifest: str
    split: str | None = None
    limit: PositiveInt | None = None

    def source(self, place: Place) -> Source:
        """Where it lies."""
        return Source(place.path(self.manifest), self.split, self.limit)


class Way(Settings):
    """One way of tuning: settings over the common ones, and forgetting controls."""

    tune: Mapping[str, Any] = {}
    keep: tuple[str, ...] = ()


class Forgetting(Step):
    """Tune `model` on `train` in each of `ways`, the settings `tune` common to all; WER on `new` and on `old`, base first.

    `dev` chooses the best weights of each way; without it those at the end count, so that every way has learnt as long.
    Writes out:FOLDER/LABEL.safetensors for each way, forgetting.png and forgetting.json.
    """

    kind: Literal["forgetting"]
    train: Set
    new: Set
    old: Set
    ways: Mapping[str, Way] = Field(min_length=1)
    dev: Set | None = None
    model: str = "embedded:ctc-tts"
    tune: Mapping[str, Any] = {}
    folder: str = "forgetting"
    title: str = "Learning and forgetting"
    threads: PositiveInt = 1

    def run(self, place: Place) -> Mapping[str, Any]:
        """Tune, judge, draw; deltas that an earlier run made are kept."""
        import torch

        from asrlife.evaluate import forgetting
        from asrlife.models.load import load

        torch.set_num_threads(self.threads)
        model = load(self.model)
        sets = [list(worded(each.source(place).read().utterances, name)) for name, each in (("new", self.new), ("old", self.old))]
        base = self._judged(model, sets, place, BASE)
        points = [forgetting.Point.of(BASE, base, base)]
        for label, way in self.ways.items():
            points.append(self._point(model, label, way, sets, base, place))
        facts = {"model": self.model, "title": self.title, "tune": dict(self.tune), "sets": self._sizes(sets)}
        picture = forgetting.write(points, place.out / self.folder, self.title, facts)
        return {
            "picture": str(picture),
            "json": str(picture.with_suffix(".json")),
            "points": {point.label: line(point) for point in points},
        }

    def _point(
        self, model: Recogniser, label: str, way: Way, sets: Sequence[Sequence[Utterance]],
        base: tuple[Sequence[Counts], Sequence[Counts]], place: Place,
    ) -> Point:  # fmt: skip
        from asrlife.delta.weights import applied
        from asrlife.evaluate.forgetting import Point

        dev = None if self.dev is None else self.dev.source(place)
        settings = settings_of({**self.tune, **way.tune})
        order = Order(self.model, self.train.source(place), settings, dev, keep=placed(way.keep, place))
        found = made(order, self._path(place, label), BarWatch(place.bar, label))
        with applied(model.module, found.delta):
            after = self._judged(model, sets, place, label)
        note = found.delta.note
        detail = {"seconds": note["seconds"], "norm": round(found.delta.norm(), 4), "keep": list(way.keep), "tune": dict(way.tune)}
        return Point.of(label, base, after, **detail, scores=note["scores"])

    def _judged(
        self, model: Recogniser, sets: Sequence[Sequence[Utterance]], place: Place, label: str
    ) -> tuple[Sequence[Counts], Sequence[Counts]]:
        from asrlife.evaluate.forgetting import counts

        new, old = sets
        with place.bar(f"{label}: testing", len(new) + len(old)) as advance:
            return counts(model, new, advance), counts(model, old, advance)

    def _path(self, place: Place, label: str) -> Path:
        if not label.replace("-", "").replace("+", "").replace("_", "").isalnum() or label == BASE:
            raise InputError(f"ways: {label!r} names a file: use letters, digits, -, _ and +, and not {BASE!r}")
        return place.out / self.folder / f"{label}.safetensors"

    def _sizes(self, sets: Sequence[Sequence[Utterance]]) -> dict[str, Any]:
        named = zip(("new", "old"), sets, (self.new, self.old), strict=True)
        return {name: {"utterances": len(found), **each.model_dump()} for name, found, each in named}


def worded(utterances: Sequence[Utterance], name: str) -> list[Utterance]:
    """Those with text, in memory once for all ways; InputError where none is left."""
    found = [replace(utterance, audio=utterance.waveform()) for utterance in utterances if (utterance.text or "").strip()]
    if not found:
        raise InputError(f"{name}: no utterance has a text to score against")
    return found


def line(point: Point) -> str:
    """A point for people."""

    def shown(name: str, rate: Any, change: Any) -> str:
        return f"{name} {100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}] ({100 * change.value:+.1f})"

    return f"{shown('new', point.new, point.learnt)}; {shown('old', point.old, point.forgotten)}"
