"""The picture of sequential editing: what is left of edits and of the rest of a model, over the number of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asrlife.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = ("the edit", "paraphrases", "neighbours", "the subject's other facts", "unrelated facts", "instructions")
_COLOURS = ("#c8553d", "#0b6e4f", "#3d5a98", "#8a6d3b", "#6b4c9a", "#444444", "#b03a78", "#2a9d8f")
Points = Sequence[Mapping[str, Any]]


def sequence_picture(title: str, found: Mapping[str, Sequence[Points]], path: Path) -> None:
    """Write a PNG: a panel for each thing that is asked, a curve for each editor, a mean over seeds with the 95 % interval of one seed, or
    all seeds as thin lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 6.4), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for panel, name in zip(figure.subplots(2, 3, sharex=True, sharey=True).flat, PANELS, strict=True):
        for colour, (editor, runs) in zip(_COLOURS, found.items(), strict=False):
            _curve(panel, name, editor, runs, colour)
        panel.set_title(name, fontsize=10)
        panel.set_ylim(-3, 103)
        panel.grid(alpha=0.25)
    axes = figure.axes
    for panel in axes[3:]:
        panel.set_xlabel("edits made, one after the other")
    for panel in (axes[0], axes[3]):
        panel.set_ylabel("right (%)")
    axes[0].legend(fontsize=8, loc="lower left")
    figure.suptitle(title, fontsize=12)
    with atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def _curve(panel: Axes, name: str, editor: str, runs: Sequence[Points], colour: str) -> None:
    places = [point["edits"] for point in runs[0] if name in point]
    if not places:
        return
    values = np.array([[100 * point[name]["value"] for point in run if name in point] for run in runs])
    panel.plot(places, values.mean(0), "-o", markersize=3, color=colour, label=editor)
    if len(runs) > 1:
        panel.plot(places, values.T, "-", linewidth=0.6, alpha=0.5, color=colour)
        return
    bounds = np.array([[100 * point[name]["low"], 100 * point[name]["high"]] for point in runs[0] if name in point])
    panel.fill_between(places, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.12, linewidth=0)
