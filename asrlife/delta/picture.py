"""A delta drawn: layers from the input upwards, roles side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asrlife.delta.roles import ROLES
from asrlife.delta.summary import Cell
from asrlife.files import atomic


def draw(cells: Sequence[Cell], path: Path, title: str) -> None:
    """Write a PNG with a heat map of how far each layer and role moves, and a second one of cosines where the cells have them.

    Lengths are relative to the base's weights where they are known, else of a mean entry, on a logarithmic scale.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys((cell.part, cell.layer) for cell in cells))
    columns = sorted({cell.role for cell in cells}, key=ROLES.index)
    relative = all(cell.relative is not None for cell in cells)
    lengths = {(cell.part, cell.layer, cell.role): cell.relative if relative else cell.rms for cell in cells}
    angles = {(cell.part, cell.layer, cell.role): cell.cosine for cell in cells}
    panels: list[tuple[Any, str, bool]] = [
        (lengths, "length / length of the base" if relative else "root mean square of the entries", True)
    ]
    if any(angle is not None for angle in angles.values()):
        panels.append((angles, "cosine", False))
    size = (1.6 + len(panels) * (1.1 + 0.72 * len(columns)), 1.9 + 0.26 * len(rows))
    figure = Figure(figsize=size, layout="constrained", dpi=144)
    canvas = FigureCanvasAgg(figure)
    for axes, (values, label, logarithmic) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(figure, axes, [[values.get((*row, column)) for column in columns] for row in rows], label, logarithmic)
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(rows)), [_named(*row) for row in rows], fontsize=8)
    figure.suptitle(title, fontsize=10)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    with atomic(path) as file:
        file.write(buffer.getvalue())


def _panel(figure: Any, axes: Any, grid: list[list[float | None]], label: str, logarithmic: bool) -> None:
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize

    values = np.array([[np.nan if value is None or (logarithmic and not value) else value for value in row] for row in grid], float)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    scale = LogNorm(min(low, high / 1.01), high) if logarithmic else Normalize(-1, 1)
    image = axes.imshow(values, norm=scale, cmap="viridis" if logarithmic else "RdBu_r", aspect="auto", interpolation="nearest")
    axes.set_facecolor("#eeeeee")
    axes.set_title(label, fontsize=9)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = scale(value) if logarithmic else abs(value)
            bright = shade > 0.6 if logarithmic else shade < 0.6
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=6, color="black" if bright else "white")
    figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)


def _named(part: str, layer: int | None) -> str:
    return part if layer is None else f"{part} {layer}"
