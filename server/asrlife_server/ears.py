"""The ears of streams: one network for all of them, and a memory for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from asrlife_server.endpointing import Judge


class Silero:
    """The network of all ears, with the weights of silero-vad's wheel."""

    def __init__(self) -> None:
        from silero_vad import load_silero_vad

        from asrlife_server.silero import Network

        self.network = Network(load_silero_vad()._model)  # the stateless 16 kHz network inside the wrapper

    def ear(self) -> Ear:
        """A judge for one stream."""
        return Ear(self)


class Ear:
    """Judges the windows of one stream, in their order."""

    def __init__(self, silero: Silero) -> None:
        from asrlife_server.silero import CONTEXT

        self.network = silero.network
        self.memory = self.network.nothing()
        self._context = np.zeros(CONTEXT, np.float32)

    def __call__(self, window: np.ndarray) -> float:
        """The probability of speech in a window (512,)."""
        return judged([self], [[window]])[0][0]

    def framed(self, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Windows (512,), each with what came before it (576,)."""
        sound, size, margin = np.concatenate([self._context, *windows]), len(windows[0]), len(self._context)
        self._context = sound[-margin:]
        return [sound[at : at + margin + size] for at in range(0, len(sound) - margin, size)]


def judged(judges: Sequence[Judge | None], windows: Sequence[Sequence[np.ndarray]]) -> list[list[float]]:
    """The probability of speech in each window of several streams; what their memories have no part in is worked out in one call.

    A stream's figures depend on who is in the call with it by rounding alone (some 1e-7).
    """
    ears = [row for row, judge in enumerate(judges) if isinstance(judge, Ear) and windows[row]]
    heard = dict(zip(ears, _together([judges[row] for row in ears], [windows[row] for row in ears]), strict=True)) if ears else {}
    return [
        heard[row] if row in heard else [judge(window) for window in own] if judge is not None else []
        for row, (judge, own) in enumerate(zip(judges, windows, strict=True))
    ]


def _together(ears: Sequence[Any], windows: Sequence[Sequence[np.ndarray]]) -> list[list[float]]:
    import torch

    order = sorted(range(len(ears)), key=lambda row: -len(windows[row]))  # those with most windows first: each turn is of the first ones
    framed = [ears[row].framed(windows[row]) for row in order]
    turns = [sum(len(own) > turn for own in framed) for turn in range(len(framed[0]))]
    network, found, done = ears[0].network, [list[float]() for _ in ears], 0
    with torch.no_grad():
        features = network.features(torch.from_numpy(np.stack([framed[place][turn] for turn, n in enumerate(turns) for place in range(n)])))
        hidden, cell = (torch.cat(parts) for parts in zip(*(ears[row].memory for row in order), strict=True))
        for n in turns:
            speech, (new, kept) = network.speech(features[done : done + n], (hidden[:n], cell[:n]))
            hidden, cell, done = torch.cat([new, hidden[n:]]), torch.cat([kept, cell[n:]]), done + n
            for row, value in zip(order, speech.tolist(), strict=False):
                found[row].append(value)
    for place, row in enumerate(order):
        ears[row].memory = hidden[place : place + 1], cell[place : place + 1]
    return found
