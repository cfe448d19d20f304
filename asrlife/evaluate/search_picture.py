"""The picture of a search: the figure of every probe with its interval."""

from __future__ import annotations

from pathlib import Path

from asrlife.evaluate.objective import figure
from asrlife.evaluate.search import Found, spelt
from asrlife.files import atomic

_MARKS = {"winner": ("#c8553d", "o"), "default": ("#0b6e4f", "D"), "base": ("#3d5a98", "s"), "runner-up": ("#b08d2e", "^")}
"""Colour and marker of what a probe is, the first that fits."""


def picture(found: Found, path: Path) -> None:
    """Write a PNG: over the one setting that was searched, or over the probes in their order where there were several."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(6.4, 4.0), layout="constrained", dpi=110)
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    (name, *more), percent = list(found.limits), 100.0 if found.metric == "wer" else 1.0
    probes = [probe for probe in found.probes if more or probe.values is not None]
    places = [float(number) if probe.values is None or more else probe.values[name] for number, probe in enumerate(probes, 1)]
    for place, probe in sorted(zip(places, probes, strict=True), key=lambda pair: pair[0]):
        low, value, high = (percent * figure(found.metric, edge) for edge in (probe.bounds[0], probe.mean, probe.bounds[1]))
        roles = found.roles(probe)
        colour, marker = next((_MARKS[role] for role in _MARKS if role in roles), ("#8aa0b8", "o"))
        label = f"{', '.join(roles)}: {spelt(probe)}" if roles else None
        axes.vlines(place, low, high, color=colour, linewidth=1.4)
        axes.plot([place], [value], marker, color=colour, markersize=6 if roles else 4, label=label)
    axes.legend(fontsize=8, frameon=False)
    unit = "WER (%)" if found.metric == "wer" else "perplexity"
    axes.set(xlabel="probe" if more else name, ylabel=f"{unit}, 95 % intervals", title=f"{found.way}, {found.items} items")
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3)
    with atomic(path) as file:
        canvas.savefig(file, format="png", metadata={"Software": None})
