"""What a machine spends on a run: CPU-seconds of the server's processes, load, cores."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cores() -> int:
    """Cores that this process, and those it starts, may use."""
    return len(os.sched_getaffinity(0))


def load() -> float:
    """The load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def below() -> float:
    """CPU-seconds so far of every process that descends from this one and still runs."""
    found = dict(filter(None, map(_read, Path("/proc").glob("[0-9]*"))))
    wanted, total = {os.getpid()}, 0.0
    while wanted:
        wanted = {process for process, (parent, _) in found.items() if parent in wanted}
        total += sum(found[process][1] for process in wanted)
    return total


def _read(folder: Path) -> tuple[int, tuple[int, float]] | None:
    """A process, its parent and its CPU-seconds; None where it has just gone."""
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()  # the name, in brackets, may hold anything
    except OSError:
        return None
    return int(folder.name), (int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS)
