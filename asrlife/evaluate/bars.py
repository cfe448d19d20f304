"""Bars of leave-one-out experiments: a group for each domain, the mean of all first, a bar for each kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from asrlife.evaluate.leave_one_out import Board
from asrlife.evaluate.report import Axis
from asrlife.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#9a9a9a", "#5b6e9c", "#c8a24a", "#c8553d", "#e0806b", "#f0ada0", "#0b6e4f")
_GAP = 0.2


def bars(board: Board, path: Path, title: str) -> Path:
    """A PNG of the WER on real speech of the domain that was left out, and, below, of the others (locality); 95 % intervals as lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = ("mean", *board.domains)
    figure = Figure(figsize=(max(8.0, 2.0 * len(groups)), 7.2), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=[1.7, 1.0])
    _paint(above, board, "generality", groups)
    _paint(below, board, "locality", groups)
    above.set(title=title, ylabel="WER (%), real speech\nof the domain left out")
    below.set(ylabel="WER (%), real speech\nof the other domains")
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=9, frameon=False)
    with atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    return path


def _paint(axes: Axes, board: Board, axis: Axis, groups: tuple[str, ...]) -> None:
    rows, order = board.rows(axis), board.rows("generality")
    width = (1 - _GAP) / len(rows)
    for number, row in enumerate(rows):
        rates = [board.rate(axis, row, None if group == "mean" else group) for group in groups]
        places = [place - (1 - _GAP) / 2 + (number + 0.5) * width for place in range(len(groups))]
        heights = [100 * rate.value for rate in rates]
        spread = [
            [max(0.0, h - 100 * r.low) for h, r in zip(heights, rates, strict=True)],
            [max(0.0, 100 * r.high - h) for h, r in zip(heights, rates, strict=True)],
        ]
        axes.bar(places, heights, width, color=_COLOURS[order.index(row) % len(_COLOURS)], label=row)
        axes.errorbar(places, heights, yerr=spread, fmt="none", ecolor="#333333", elinewidth=0.8)
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
