"""Learn-and-forget: word error rates on a new domain against those on an old one, a point for each way of tuning."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.data.utterance import Utterance
from asrlife.evaluate.bootstrap import paired
from asrlife.evaluate.evaluation import Rate
from asrlife.evaluate.wer import Counts, count
from asrlife.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from asrlife.models.handle import Recogniser

_BATCH = 8
_COLOURS = ("#222222", "#c8553d", "#3d5a98", "#b07d12", "#7b3f8c", "#2f8c9c", "#c03a78", "#5b6e2f", "#0b6e4f", "#8c6d62", "#6a8fd0")
_MARKS = "osD^vPX*hdp<"


@dataclass(frozen=True)
class Change:
    """WER after minus before on the same utterances, with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, before: Sequence[Counts], after: Sequence[Counts]) -> Change:
        """Paired by utterance."""
        return cls(*paired(before, after))


@dataclass(frozen=True)
class Point:
    """One way of tuning: WER on the new and on the old domain, both as differences to the base too; `detail` is what is worth keeping."""

    label: str
    new: Rate
    old: Rate
    learnt: Change
    forgotten: Change
    detail: dict[str, Any]

    @classmethod
    def of(
        cls, label: str, base: tuple[Sequence[Counts], Sequence[Counts]], tuned: tuple[Sequence[Counts], Sequence[Counts]], **detail: Any
    ) -> Point:
        """From the counts on (new, old) before and after."""
        (new_before, old_before), (new, old) = base, tuned
        rates = Rate.of(tuple(new)), Rate.of(tuple(old))
        return cls(label, *rates, Change.of(new_before, new), Change.of(old_before, old), detail)


def counts(
    model: Recogniser, utterances: Sequence[Utterance], advance: Callable[[], None] = lambda: None, batch: int = _BATCH
) -> tuple[Counts, ...]:
    """Errors of the model on each utterance, `batch` of them at a time."""
    found: list[Counts] = []
    for first in range(0, len(utterances), batch):
        some = utterances[first : first + batch]
        heard = model.transcribe([utterance.waveform() for utterance in some], batch_size=batch)
        found += [count(utterance.text or "", hypothesis.text) for utterance, hypothesis in zip(some, heard, strict=True)]
        for _ in some:
            advance()
    return tuple(found)


def told(points: Sequence[Point], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain values; rates are fractions."""
    return {**facts, "points": [asdict(point) for point in points]}


def write(points: Sequence[Point], folder: Path, title: str, facts: dict[str, Any]) -> Path:
    """Write forgetting.png and forgetting.json into `folder`; the picture's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "forgetting.json", "w") as file:
        json.dump(told(points, facts), file, indent=1, ensure_ascii=False, allow_nan=False)
    return picture(points, folder / "forgetting.png", title)


def picture(points: Sequence[Point], path: Path, title: str) -> Path:
    """A PNG: each point with its label and its 95 % intervals as bars; better is left and below. The first point is the base."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 6.0), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, point in enumerate(points):
        _paint(axes, point, number)
    if points:
        axes.axhline(100 * points[0].old.value, color="#999999", linewidth=0.8, linestyle="--", zorder=0)
        axes.axvline(100 * points[0].new.value, color="#999999", linewidth=0.8, linestyle="--", zorder=0)
    axes.set(xlabel="WER on the new domain (%): left is learnt", ylabel="WER on the old domain (%): up is forgotten", title=title)
    axes.title.set_fontsize(11)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    with atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    return path


def _paint(axes: Axes, point: Point, number: int) -> None:
    x, y, colour = 100 * point.new.value, 100 * point.old.value, _COLOURS[number % len(_COLOURS)]
    across = [[x - 100 * point.new.low], [100 * point.new.high - x]]
    along = [[y - 100 * point.old.low], [100 * point.old.high - y]]
    axes.errorbar(
        [x], [y], xerr=across, yerr=along, fmt=_MARKS[number % len(_MARKS)], color=colour, markersize=7, elinewidth=1.1, capsize=2,
        label=point.label,
    )  # fmt: skip
    axes.annotate(point.label, (x, y), xytext=(6, 5 + 9 * (number % 2)), textcoords="offset points", fontsize=8, color=colour)
