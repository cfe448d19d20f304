"""Sound bytes made unsound, many times for each seed that hypothesis gives."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)
_EACH = 50  # cases for one seed: drawing costs more than a case
_TELLING = [
    b"\0" * 4,
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\1\0\0\0",
    b"\0\0\xc0\x7f",
    b"\xff\xf8",
    b"data",
    b"{",
    b'"',
    b"NaN",
]
_ROOM = 24 * 2**20  # bytes that a run may need beside what it has after a tenth of its cases; measured: below 3 MiB

reads_memory = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")


def spoilt(data: bytes, rng: Random) -> bytes:
    """`data` with up to four pieces written over, put in, taken out, repeated or cut off."""
    for _ in range(rng.randrange(5)):
        piece = rng.choice(_TELLING) if rng.random() < 0.5 else rng.randbytes(rng.randint(1, 24))
        at = rng.randrange(len(data) + 1) if rng.random() < 0.5 else rng.randrange(min(len(data), 64) + 1)
        end = at + len(piece)
        kind = rng.randrange(5)
        if kind == 0:
            data = data[:at] + piece + data[end:]
        elif kind == 1:
            data = data[:at] + piece + data[at:]
        elif kind == 2:
            data = data[:at] + data[end:]
        elif kind == 3:
            data = data[:at] + data[at:end] * 3 + data[end:]
        else:
            data = data[:at]
    return data


def survives(cases: int, case: Callable[[Random], None], each: int = _EACH) -> None:
    """Run `case` so many times; what fails names its seed, which gives it again. Memory must not grow behind the first tenth."""
    done, start = 0, 0

    @settings(max_examples=cases // each, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(SEEDS)
    def run(seed: int) -> None:
        nonlocal done, start
        rng = Random(seed)
        for _ in range(each):
            case(rng)
        done += each
        if not start and done >= cases // 10:
            start = _resident()

    run()
    assert done >= cases
    assert _resident() - start < _ROOM


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
