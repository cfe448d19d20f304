"""The picture of a comparison of language models: what the scale does on development questions, and the figures that are reported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.evaluate.text import Comparison, Verdict
from asrlife.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AXES: Mapping[Any, tuple[str, str]] = {"reliability": ("#0b6e4f", "-"), "generality": ("#c8553d", "--"), "locality": ("#3d5a98", ":")}


def picture(comparison: Comparison, search: Mapping[str, Mapping[float, Verdict]], chosen: Mapping[str, float], path: Path) -> None:
    """Write a PNG: a curve for each searched subject at the left, a row of dots with intervals for each probe at the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(search)
    rows = len(comparison.verdicts[0].outcomes)
    figure = Figure(figsize=(4.2 * count + 7.5, max(3.6, 0.55 * rows + 1.6)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count + 1, width_ratios=[1.0] * count + [1.9], squeeze=False)[0]
    for panel, (label, trials) in zip(panels, search.items(), strict=False):
        _curve(panel, label, trials, chosen[label])
    _dots(panels[-1], comparison)
    figure.suptitle(comparison.title, fontsize=11)
    with atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def _curve(axes: Axes, label: str, trials: Mapping[float, Verdict], scale: float) -> None:
    for axis, (colour, style) in _AXES.items():
        points = [(place, 100 * mean) for place, verdict in sorted(trials.items()) if (mean := verdict.mean(axis)) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, marker="o", markersize=3, color=colour, label=axis)
    axes.axvline(scale, color="#888888", linewidth=0.8)
    axes.set(xlabel=f"scale (chosen: {scale:g})", ylabel="right, development questions (%)", ylim=(-3, 103), title=label)
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)


def _dots(axes: Axes, comparison: Comparison) -> None:
    names = [f"{o.probe.axis[:3]}. {o.probe.name}" for o in comparison.verdicts[0].outcomes]
    for number, verdict in enumerate(comparison.verdicts):
        shift = 0.7 * ((number + 0.5) / len(comparison.verdicts) - 0.5)
        colour = f"C{number}"
        for row, outcome in enumerate(verdict.outcomes):
            low, high = outcome.interval()
            axes.hlines(row + shift, 100 * low, 100 * high, color=colour, linewidth=1.4)
        places = [row + shift for row in range(len(names))]
        axes.plot([100 * o.share for o in verdict.outcomes], places, "o", color=colour, markersize=4.5, label=verdict.subject)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(-3, 103), xlabel="right, reported questions (%), 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
