"""A report as one page of HTML: style and pictures inside, no script, nothing to load."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.evaluate.report import AXES, PERCENT, Curve, Report, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Painted with stand-in colours that become CSS variables, so that one picture serves light and dark pages.
_INK, _FAINT = "#010101", "#020202"
_SERIES = tuple(f"#03030{n}" for n in range(8))
_NAMES = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {colour: f"var(--s{n})" for n, colour in enumerate(_SERIES)}
_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.")  # told apart without colour, too
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


def render(report: Report) -> str:
    """The whole page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    main = [score for score in report.scores if score.axis == "reliability" and score.value is not None]
    return environment.get_template("report.html.j2").render(
        report=report,
        axes=AXES,
        main=main,
        percent=PERCENT,
        missing=sorted({f"{score.axis.capitalize()} was not measured: {score.note}." for score in report.scores if score.note}),
        whiskers=Markup(_whiskers(main)) if main else "",
        curves=[(curve, Markup(_curve(curve))) for curve in report.curves],
    )


def _curve(curve: Curve) -> str:
    """An SVG of all series, with triangles where they were marked."""

    def paint(axes: Axes) -> None:
        for number, (name, points) in enumerate(curve.series.items()):
            colour, style = _SERIES[number % len(_SERIES)], _STYLES[number % len(_STYLES)]
            x, y = [p[0] for p in points], [p[1] for p in points]
            axes.plot(x, y, color=colour, linestyle=style, linewidth=1.9, label=name)
            marks = [point for point in points if point[0] in set(curve.marks.get(name, ()))]
            axes.plot([p[0] for p in marks], [p[1] for p in marks], "v", color=colour, markersize=7)
        axes.set(xlabel=curve.x, ylabel=curve.y)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        if curve.series:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(curve.series), borderaxespad=0.2)

    return _picture(paint, (9.2, 3.5), curve.title)


def _whiskers(scores: Sequence[Score]) -> str:
    """An SVG with one dot and its interval for each subject."""

    def paint(axes: Axes) -> None:
        for number, score in enumerate(scores):
            colour, value = _SERIES[number % len(_SERIES)], 100 * (score.value or 0)
            if score.low is not None and score.high is not None:
                axes.plot([100 * score.low, 100 * score.high], [number, number], color=colour, linewidth=3, solid_capstyle="round")
            axes.plot([value], [number], "o", color=colour, markersize=9)
        axes.set_yticks(range(len(scores)), [score.subject for score in scores])
        axes.set_ylim(len(scores) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.set(xlabel=f"{scores[0].metric} (%), with 95 % intervals")

    return _picture(paint, (9.2, 0.9 + 0.42 * len(scores)), f"{scores[0].metric} by method")


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
