"""silero-vad with the model of its wheel (MIT): one network for all streams, each of which has an ear with a memory of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from asrlife_server.endpointing import WINDOW, Judge


class Silero:
    """The network of all ears."""

    def __init__(self) -> None:
        from silero_vad import load_silero_vad

        self.network = load_silero_vad()._model  # the stateless 16 kHz network inside the wrapper, whose one memory streams would share
        self.context = int(self.network.context_size_samples)
        for count in (1, 1, 1, 2, 2, 3):  # the JIT compiles on its first calls, and again for the first batch
            judged([self.ear() for _ in range(count)], [[np.zeros(WINDOW, np.float32)]] * count)

    def ear(self) -> Ear:
        """A judge for one stream."""
        return Ear(self)


class Ear:
    """Judges the windows of one stream, in their order."""

    def __init__(self, silero: Silero) -> None:
        import torch

        self.silero = silero
        self.context = torch.zeros(1, silero.context)
        self.memory = torch.zeros(2, 1, 128)

    def __call__(self, window: np.ndarray) -> float:
        """The probability of speech in a window (512,)."""
        return judged([self], [[window]])[0][0]


def judged(judges: Sequence[Judge | None], windows: Sequence[Sequence[np.ndarray]]) -> list[list[float]]:
    """The probability of speech in each window of several streams, the first windows of all in one call, then the second ones.

    A stream's figures depend on who is in the call with it by rounding alone (some 1e-7).
    """
    found: list[list[float]] = [[] for _ in judges]
    for turn in range(max(map(len, windows), default=0)):
        rows = [row for row, own in enumerate(windows) if len(own) > turn]
        here = [row for row in rows if isinstance(judges[row], Ear)]
        values = _together([judges[row] for row in here], [windows[row][turn] for row in here]) if here else []
        for row, value in zip(here, values, strict=True):
            found[row].append(value)
        for row in rows:
            judge = judges[row]
            if judge is not None and not isinstance(judge, Ear):
                found[row].append(judge(windows[row][turn]))
    return found


def _together(ears: Sequence[Any], windows: Sequence[np.ndarray]) -> list[float]:
    import torch

    with torch.no_grad():
        heard = torch.cat([torch.cat([ear.context for ear in ears]), torch.from_numpy(np.stack(windows))], 1)
        speech, memory = ears[0].silero.network(heard, torch.cat([ear.memory for ear in ears], 1))
    for row, ear in enumerate(ears):
        ear.context, ear.memory = heard[row : row + 1, -ear.silero.context :], memory[:, row : row + 1]
    return [float(value) for value in speech.flatten()]
