"""Heat maps of causal traces: tokens or parts of the sound from above, layers from the left, a panel for each thing that is restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asrlife.evaluate.tracing import WHOLE, Averaged, named, shown
from asrlife.files import atomic
from asrlife.methods.edit.audio_tracing import AudioTrace, Part
from asrlife.methods.edit.tracing import Kind, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {
    "states": "Purples", "feed-forward": "Greens", "attention": "Reds", "encoder": "Blues", "decoder": "Purples", "cross-attention": "Reds",
}  # fmt: skip
_NAMED: dict[Kind | Part, str] = {
    "states": "state", "feed-forward": "output of the feed-forward", "attention": "output of attention", "encoder": "state of the encoder",
    "decoder": "state of the decoder", "cross-attention": "output of cross-attention",
}  # fmt: skip
_ROW, _WIDTH = 0.22, 3.4  # inches


@dataclass(frozen=True)
class _Panel:
    """One heat map: `values` (rows, layers) in points of probability."""

    kind: Kind | Part
    rows: Sequence[str]
    values: np.ndarray
    window: int

    @property
    def axis(self) -> str:
        return "restored layer" if self.window == 1 else f"middle of {self.window} restored layers"


def prompt_picture(traces: Sequence[Trace], path: Path, window: int = 1) -> None:
    """Write a PNG of one prompt, its subject marked with stars, with a panel for each trace; `window` is that of all but states."""
    first = traces[0]
    rows = [f"{shown(token)}{'*' if place in first.subject else ''}" for place, token in enumerate(first.tokens)]
    panels = [_Panel(one.kind, rows, 100 * one.effect.numpy(), _own(one.kind, window)) for one in traces]
    _draw(panels, path, f"P({first.answer}) is {first.clean:.3f} clean, {first.corrupted:.3f} with noise on the subject *")


def mean_picture(averages: Sequence[Averaged], path: Path) -> None:
    """Write a PNG of means over facts, with a panel for each kind."""
    panels = []
    for one in averages:
        names = [f"{role}{'*' if 'subject token' in role else ''}" for role in one.rows]
        values = np.array([[effect.mean for effect in effects] for effects in one.rows.values()])
        panels.append(_Panel(one.kind, names, 100 * values, one.window))
    total = averages[0].total
    bounds = f"{100 * total.mean:.1f} [{100 * total.low:.1f}, {100 * total.high:.1f}]"
    _draw(panels, path, f"Mean over {total.facts} facts; the noise on the subject * costs {bounds} points")


def word_picture(trace: AudioTrace, path: Path, window: int = 1) -> None:
    """Write a PNG of one word in a recording: parts of the sound in the encoder, tokens in the decoder; what had noise has a star."""
    sound = [named(one, trace.span) for one in trace.windows]
    panels = [
        _Panel(part, sound if part == "encoder" else [shown(token) for token in trace.tokens], 100 * effect.numpy(), _own(part, window))
        for part, effect in trace.effects.items()
    ]
    clean, noisy = (f"{value:.3f}" for value in (trace.clean, trace.corrupted))
    span = f"noise from {trace.span[0]:.2f} to {trace.span[1]:.2f} s"
    _draw(panels, path, f"P({trace.answer}) of “{trace.heard.word}” is {clean} clean, {noisy} with {span} *")


def _own(kind: Kind | Part, window: int) -> int:
    return 1 if kind in WHOLE else window


def _draw(panels: Sequence[_Panel], path: Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    longest = max(len(name) for panel in panels for name in panel.rows)
    height = 1.5 + _ROW * max(len(panel.rows) for panel in panels)
    figure = Figure(figsize=((_WIDTH + 0.07 * longest) * len(panels), max(2.6, height)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _heat(figure, axes, panel)
    figure.suptitle(title, fontsize=10)
    with atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def _heat(figure: Figure, axes: Axes, panel: _Panel) -> None:
    high = max(float(panel.values.max()), 0.1)
    image: Any = axes.imshow(panel.values, cmap=_COLOURS[panel.kind], vmin=0.0, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=8)
    step = -(-panel.values.shape[1] // 12)
    axes.set_xticks(range(0, panel.values.shape[1], step))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(panel.axis, fontsize=8)
    axes.set_title(f"{_NAMED[panel.kind]} restored", fontsize=9)
    below = float(panel.values.min()) < -0.01 * high  # drawn as none
    bar = figure.colorbar(image, ax=axes, extend="min" if below else "neither")
    bar.set_label("indirect effect, points of probability", fontsize=8)
    bar.ax.tick_params(labelsize=7)
