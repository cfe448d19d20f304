"""The pictures of a report as SVG that takes its colours and fonts from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asrlife.evaluate.report import Curve, Dots, Score
from asrlife.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Painted with stand-in colours that become CSS variables, so that one picture serves light and dark pages.
_INK, _FAINT = "#010101", "#020202"
_SERIES = tuple(f"#03030{n}" for n in range(8))
_NAMES = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {colour: f"var(--s{n})" for n, colour in enumerate(_SERIES)}
_PAPER = ("#8b96a0", "#3d7fc4", "#d9773f", "#4a9e6d")
_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.")  # told apart without colour, too
_MARKS = {"reset": "v", "retrieved": "^"}
_MOST = 500  # points of a line; more would not be seen
_NAMED = 12  # domains that are named in a picture
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def curve_picture(curve: Curve) -> str:
    """All series as lines, with triangles where something happened and light lines where a domain begins."""

    def paint(axes: Axes) -> None:
        for (name, points), (colour, style) in zip(curve.series.items(), _looks(), strict=False):
            x, y = _thinned(points)
            axes.plot(x, y, color=colour, linestyle=style, linewidth=1.9, label=name)
            for kind, shape in _MARKS.items():
                places = [place for place, what in curve.marks.get(name, ()) if what == kind]
                axes.plot(places, np.interp(places, x, y) if places else [], shape, color=colour, markersize=7)
        _bound(axes, curve.bounds)
        axes.set(xlabel=curve.x, ylabel=curve.y)
        if any(y < 0 for points in curve.series.values() for _, y in points):
            axes.axhline(0, color=_INK, linewidth=0.8)
        else:
            axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        _legend(axes, len(curve.series))

    return _picture(paint, (9.2, 3.9 if curve.bounds else 3.5), curve.title)


def whiskers_picture(scores: Sequence[Score]) -> str:
    """One dot and its interval for each subject."""

    def paint(axes: Axes) -> None:
        for number, (score, (colour, _)) in enumerate(zip(scores, _looks(), strict=False)):
            value = 100 * (score.value or 0)
            if score.low is not None and score.high is not None:
                axes.plot([100 * score.low, 100 * score.high], [number, number], color=colour, linewidth=3, solid_capstyle="round")
            axes.plot([value], [number], "o", color=colour, markersize=9)
        _rows(axes, [score.subject for score in scores])
        axes.set(xlabel=f"{scores[0].metric} (%), with 95 % intervals")

    return _picture(paint, (9.2, 0.9 + 0.42 * len(scores)), f"{scores[0].metric} by method")


def dots_picture(panel: Dots) -> str:
    """A row for each condition, in it a dot or a bar and its interval for each method."""
    height = 0.1 + (0.26 if panel.bars else 0.13) * len(panel.series)

    def paint(axes: Axes) -> None:
        for number, ((name, values), (colour, _)) in enumerate(zip(panel.series.items(), _looks(), strict=False)):
            shift = 0.8 * ((number + 0.5) / len(panel.series) - 0.5)
            found = [(place + shift, *value) for place, value in enumerate(values) if value]
            across, along = [value for _, value, *_ in found], [y for y, *_ in found]
            if panel.bars:
                axes.barh(along, across, 0.72 / len(panel.series), color=colour, alpha=0.45, label=name)
            axes.hlines(along, [low for *_, low, _ in found], [high for *_, high in found], color=colour, linewidth=1.6)
            axes.plot(across, along, "o", color=colour, markersize=5, label=None if panel.bars else name)
        for place in range(1, len(panel.rows)):
            axes.axhline(place - 0.5, color=_FAINT, linewidth=0.5)
        _rows(axes, panel.rows)
        axes.set(xlabel=panel.x)
        if not any(value[2] for values in panel.series.values() for value in values if value):
            axes.set_xlim(0, 100)
        _legend(axes, len(panel.series))

    return _picture(paint, (9.2, 1.2 + max(0.3, height) * len(panel.rows)), panel.title)


def bars_png(panels: Sequence[Dots], path: Path, title: str) -> Path:
    """Panels below each other as a PNG on white, for pages that show no SVG of a report."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [0.9 + 0.32 * len(panel.rows) * len(panel.series) for panel in panels]
    figure = Figure(figsize=(8.6, 0.4 + sum(heights)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0], panels, strict=True):
        _bars(axes, panel)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")
    with atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    return path


def _bars(axes: Axes, panel: Dots) -> None:
    for number, (name, values) in enumerate(panel.series.items()):
        shift = 0.8 * ((number + 0.5) / len(panel.series) - 0.5)
        found = [(place + shift, *value) for place, value in enumerate(values) if value]
        across, colour = [value for _, value, *_ in found], _PAPER[number % len(_PAPER)]
        errors = [[value - low for _, value, low, _ in found], [high - value for _, value, _, high in found]]
        axes.barh([y for y, *_ in found], across, 0.72 / len(panel.series), xerr=errors, color=colour, label=name, ecolor="#333333")
    axes.set_yticks(range(len(panel.rows)), panel.rows)
    axes.set_xlim(0, 1.04 * max([value[2] for values in panel.series.values() for value in values if value], default=0) or 100)
    axes.set(xlabel=panel.x, title=panel.title)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


def _looks() -> Iterator[tuple[str, Any]]:
    """A colour and a line style for each series, no two alike."""
    for number in range(len(_SERIES) * len(_STYLES)):
        yield _SERIES[number % len(_SERIES)], _STYLES[(number + number // len(_SERIES)) % len(_STYLES)]


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    step = -(-len(points) // _MOST) or 1
    kept = [*points[:-1][::step], *points[-1:]]
    return [x for x, _ in kept], [y for _, y in kept]


def _bound(axes: Axes, bounds: Sequence[tuple[float, str]]) -> None:
    if bounds:
        axes.grid(axis="x", visible=False)
    for x, name in bounds:
        axes.axvline(x, color=_FAINT, linewidth=1.2, zorder=0)
        if len(bounds) <= _NAMED:
            offset: dict[str, Any] = {"xytext": (3, -3), "textcoords": "offset points", "va": "top", "fontsize": 8}
            axes.annotate(name, (x, 1), xycoords=("data", "axes fraction"), **offset)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)


def _legend(axes: Axes, count: int) -> None:
    if count:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(count, 6), borderaxespad=0.2)


def _picture(paint: Any, size: tuple[float, float], title: str) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context({**_RC, "svg.hashsalt": title}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.subplots())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Keep the drawing, drop what names other places, scope its ids, and let the page choose colours and fonts."""
    from markupsafe import escape

    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', svg)
    for colour, name in _NAMES.items():
        body = body.replace(colour, name)
    body = re.sub(r"font(-family)?: ([\d.]+px )?[^;\"]*", lambda m: f"font-size: {m[2].strip()}" if m[2] else "", body)
    scope = re.sub(r"\W+", "-", title)
    body = re.sub(r'\bid="', f'id="{scope}-', body)
    body = re.sub(r"""(url\(#|href="#)""", rf"\g<1>{scope}-", body)
    label = escape(title)
    return f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{label}">{body}</svg>'
