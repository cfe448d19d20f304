"""What was measured, as rows and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from asrlife.evaluate.wer import count
from load.paced import Heard, Speech

Row = dict[str, Any]
_DELAYS = {"partial": "first_partial", "final": "final", "speech": "after_speech", "refined": "refinement"}
_WIDTHS = {"streams": 8, "system": 25, "lost": 5, "wer": 7, **{f"{name}_ms": 18 for name in _DELAYS}, "server": 8, "client": 8}


def summary(heard: Sequence[Heard], speeches: Sequence[Speech]) -> Row:
    """One line of what was measured."""
    counts = [count(speech.text, one.text) for speech, one in zip(speeches, heard, strict=True)]
    errors, words = sum(each.errors for each in counts), sum(each.words for each in counts)
    row: Row = {"streams": len(heard), "finals": sum(len(one.finals) for one in heard), "wer": round(100 * errors / max(1, words), 1)}
    for name, field in _DELAYS.items():
        row[f"{name}_ms"] = percentiles([value for one in heard for value in getattr(one, field)])
    row["skipped"] = sum(reason == "budget" for one in heard for reason in one.skipped)
    return row | {"lost": [one.lost for one in heard if one.lost]}


def percentiles(values: Sequence[float]) -> list[int] | None:
    """p50, p95 and p99 in ms; None of nothing."""
    return [round(1000 * float(value)) for value in np.percentile(values, (50, 95, 99))] if values else None


def text(row: Row) -> str:
    """A row on one line."""
    return "  ".join(f"{name} {_short(value)}" for name, value in row.items())


def table(systems: Sequence[Row]) -> str:
    """Every system at every number of streams, those of one number beside each other, and the most streams that each held."""
    rows = [{**row, "system": one["system"]} for one in systems for row in one["rows"]]
    lines = ["".join(f"{name:>{width}}" for name, width in _WIDTHS.items()) + "  (delays p50/p95/p99; CPU-s per s of sound)"]
    lines += [_line(row) for row in sorted(rows, key=lambda row: int(row["streams"]))]
    return "\n".join([*lines, "most streams in time: " + ", ".join(f"{one['system']} {one['most_streams']}" for one in systems)])


def _line(row: Row) -> str:
    cpu = {name: f"{row[f'{name}_cpu_s'] / row['sound_s']:.3f}" for name in ("server", "client")}
    cells = {**row, **cpu, "lost": len(row["lost"])}
    return "".join(f"{_short(cells[name]):>{width}}" for name, width in _WIDTHS.items())


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return "/".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)
