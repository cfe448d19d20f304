"""The picture: bars with intervals for each way, a panel for each axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asrlife.evaluate.pictures import bars_png
from asrlife.evaluate.report import Dots
from asrlife.recipe.teach_a_name.judge import Figure, Verdict

_PANELS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "Reliability and generality": (
        "% of utterances",
        {
            "taught: name written": "taught utterances:\nname written",
            "other: name written": "other voices, sentences:\nname written",
            "other: closeness of the name": "other voices, sentences:\ncloseness in letters",
        },
    ),
    "Locality: the name where it was not said": (
        "% of utterances",
        {"alike: false insertions": "words that sound like it", "rest: false insertions": "everyday sentences"},
    ),
    "Locality: word error rate": ("WER (%)", {"alike: WER": "words that sound like it", "rest: WER": "everyday sentences"}),
}


def picture(verdicts: Sequence[Verdict], path: Path, title: str) -> Path:
    """Write the PNG; a panel in which nothing was counted is left out."""
    figures = {verdict.way: verdict.figures() for verdict in verdicts}
    panels = []
    for name, (unit, rows) in _PANELS.items():
        here = {key: label for key, label in rows.items() if all(key in found for found in figures.values())}
        if any(found[key].value for found in figures.values() for key in here):
            series = {way: [_bar(found[key]) for key in here] for way, found in figures.items()}
            panels.append(Dots(name, unit, list(here.values()), series, bars=True))
    return bars_png(panels, path, title)


def _bar(figure: Figure) -> tuple[float, float, float]:
    value = 100 * figure.value
    return value, min(value, 100 * figure.low), max(value, 100 * figure.high)
