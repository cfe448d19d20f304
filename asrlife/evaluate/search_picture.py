"""The picture of a search: the figure of every probe with its interval."""

from __future__ import annotations

from pathlib import Path

from asrlife.evaluate.bench import Probe
from asrlife.evaluate.objective import figure
from asrlife.evaluate.search import Found
from asrlife.files import atomic


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
        axes.vlines(place, low, high, color=_colour(found, probe), linewidth=1.4)
        axes.plot([place], [value], "o", color=_colour(found, probe), markersize=5)
        if roles := found.roles(probe):
            axes.annotate(", ".join(roles), (place, value), textcoords="offset points", xytext=(5, 5), fontsize=8)
    unit = "WER (%)" if found.metric == "wer" else "perplexity"
    axes.set(xlabel="probe" if more else name, ylabel=f"{unit}, 95 % intervals", title=f"{found.way}, {found.items} items")
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3)
    with atomic(path) as file:
        canvas.savefig(file, format="png", metadata={"Software": None})


def _colour(found: Found, probe: Probe) -> str:
    return "#c8553d" if probe is found.winner else "#3d5a98"
