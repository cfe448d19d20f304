"""Results as they are shown: JSON, a terminal, and one page of HTML that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asrlife.files import atomic

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

    from asrlife.evaluate.wer import Aligned

Axis = Literal["reliability", "generality", "locality", "cost"]
AXES: Mapping[Axis, str] = {
    "reliability": "what should change did",
    "generality": "what should follow did",
    "locality": "the rest did not",
    "cost": "what it took",
}
PERCENT = frozenset({"WER", "CER", "exact match", "answer named", "no word of the list"})
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 80


@dataclass(frozen=True)
class Score:
    """One figure on one axis for one subject (a method), over `n` utterances, with its 95 % interval where there is one.

    `value` None means not measured, and `note` says why; `baseline` is the same figure of the model before it was changed.
    """

    axis: Axis
    metric: str
    value: float | None
    n: int
    low: float | None
    high: float | None
    subject: str
    baseline: float | None = None
    note: str = ""

    def show(self) -> str:
        """For people: rates in percent, the interval after them, the baseline in brackets."""
        if self.value is None:
            return "not measured"
        text = _figure(self.value, self.metric)
        if self.low is not None and self.high is not None:
            text += f" [{_figure(self.low, self.metric)}, {_figure(self.high, self.metric)}]"
        return text if self.baseline is None else f"{text}\n(was {_figure(self.baseline, self.metric)})"


@dataclass(frozen=True)
class Table:
    """Rows of text under columns; the first column names the row.

    `marks`, where there are any, say of each cell whether it is "best" of its row, or "better" or "worse" than what it is compared with.
    `prose` is a table of words rather than numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    marks: Sequence[Sequence[str]] = ()
    prose: bool = False


@dataclass(frozen=True)
class Curve:
    """Series of points (x, y) under one pair of axis labels.

    `marks` say at which x something happened to a series, and what ("reset", "retrieved"); `bounds` at which x a domain begins, and its
    name.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    marks: Mapping[str, Sequence[tuple[float, str]]] = field(default_factory=dict)
    bounds: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Dots:
    """For each row and series a value with its interval, (value, low, high); None where there is none. `bars` stand on zero."""

    title: str
    x: str
    rows: Sequence[str]
    series: Mapping[str, Sequence[tuple[float, float, float] | None]]
    bars: bool = False


@dataclass(frozen=True)
class Transcript:
    """One utterance as it was said and as each method heard it, word by word."""

    id: str
    reference: str
    heard: Mapping[str, Sequence[Aligned]]


@dataclass(frozen=True)
class Report:
    """What was measured; the three axes are always shown, and one without a figure says that it was not measured.

    `facts` head the page, and `data` is kept in report.json as it is.
    """

    title: str
    scores: Sequence[Score]
    tables: Sequence[Table]
    curves: Sequence[Curve]
    notes: Sequence[str]
    facts: Mapping[str, str] = field(default_factory=dict)
    transcripts: Sequence[Transcript] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    panels: Sequence[Dots] = ()

    def axes(self) -> Table:
        """One row for each subject, one column for each axis."""
        subjects = list(dict.fromkeys(score.subject for score in self.scores))
        cells = {(score.subject, score.axis): score.show() for score in self.scores}
        metrics = {score.axis: score.metric for score in self.scores}
        units = {axis: f"\n{metric} %" if metric in PERCENT else f"\n{metric}" for axis, metric in metrics.items()}
        columns = ["", *(axis + units.get(axis, "") for axis in AXES)]
        rows = [[subject, *(cells.get((subject, axis), "not measured") for axis in AXES)] for subject in subjects or ["-"]]
        return Table("Three axes and the cost", columns, rows)

    def to_json(self) -> dict[str, Any]:
        """Everything the report shows, as plain values."""
        groups: dict[str, Sequence[Any]] = {"scores": self.scores, "tables": self.tables, "curves": self.curves, "panels": self.panels}
        shown = {name: [asdict(value) for value in values] for name, values in groups.items()}
        return {"title": self.title, "facts": dict(self.facts), **shown, "notes": list(self.notes), **self.data}

    def write(self, folder: Path | str) -> Path:
        """Write report.json and report.html into `folder`; returns the page's path."""
        from asrlife.evaluate.page import render

        folder = Path(folder)
        with atomic(folder / "report.json", "w") as file:
            json.dump(self.to_json(), file, indent=1, ensure_ascii=False, allow_nan=False)
        with atomic(folder / "report.html", "w") as file:
            file.write(render(self))
        return folder / "report.html"

    def show(self, console: Console) -> None:
        """Print tables, axes, curves as bars of text, and notes, 80 columns wide at most."""
        width = min(console.width, _WIDTH)
        console.print(f"[bold]{_plain(self.title)}[/bold]", width=width)
        for name, value in self.facts.items():
            console.print(f"{_plain(name)}: {_plain(value)}", width=width, highlight=False)
        for table in (*self.tables, self.axes()):
            show_table(table, console, width)
        for curve in self.curves:
            _draw(curve, console, width)
        for note in self.notes:
            console.print(f"- {_plain(note)}", width=width, highlight=False, style="dim")


def _figure(value: float, metric: str) -> str:
    return f"{100 * value:.1f}" if metric in PERCENT else f"{value:.3g}"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


_STYLES = {"best": "bold", "better": "green", "worse": "red"}


def show_table(table: Table, console: Console, width: int = _WIDTH) -> None:
    """Print as one grid, or as several below each other, each with the first column, where all columns do not fit."""
    for number, columns in enumerate(_parts(table, width)):
        console.print(_grid(table, columns, first=not number), width=width)


def _parts(table: Table, width: int) -> list[list[int]]:
    """Which columns stand beside each other within `width`."""
    cells = [table.columns, *table.rows]
    widths = [max(len(line) for row in cells for line in row[column].split("\n")) for column in range(len(table.columns))]
    parts = [[0]]
    for column in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[place] + 2 for place in (*parts[-1], column)) > width:
            parts.append([0])
        parts[-1].append(column)
    return parts


def _grid(table: Table, columns: Sequence[int], first: bool) -> Grid:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    grid = Grid(title=_plain(table.title) if first else None, title_justify="left", title_style="bold", **style)
    for column in columns:
        grid.add_column(_plain(table.columns[column]), justify="right" if column and not table.prose else "left", overflow="fold")
    for number, row in enumerate(table.rows):
        marks = table.marks[number] if table.marks else [""] * len(row)
        grid.add_row(*(Text(row[column], style=_STYLES.get(marks[column], "")) for column in columns))
    return grid


def _draw(curve: Curve, console: Console, width: int) -> None:
    values = [y for points in curve.series.values() for _, y in points]
    if not values:
        return
    low, high = min(values), max(values)
    console.print(f"[bold]{_plain(curve.title)}[/bold]", width=width)
    label = max(map(len, curve.series))
    for name, points in curve.series.items():
        heights = _heights([y for _, y in points], width - label - 10)
        bars = "".join(_BARS[min(7, int(8 * (y - low) / ((high - low) or 1)))] for y in heights)
        console.print(f"{_plain(name):<{label}} {bars} {points[-1][1]:.1f}" if points else name, width=width, highlight=False)
    console.print(f"{curve.y}: {low:.1f} to {high:.1f}, over {curve.x}", width=width, highlight=False, style="dim")


def _heights(values: Sequence[float], count: int) -> list[float]:
    """At most `count` of the values, evenly spaced, the last among them."""
    step = max(1.0, len(values) / count)
    return [values[min(len(values) - 1, int((place + 1) * step) - 1)] for place in range(min(count, len(values)))]
