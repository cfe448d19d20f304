from __future__ import annotations

import numpy as np
import pytest
import torch
from silero_vad import load_silero_vad

from asrlife.audio.speak import speak
from asrlife.errors import InputError
from asrlife_server.ears import Silero, judged
from asrlife_server.silero import WINDOW, Network


def test_an_ear_hears_what_the_library_hears():
    sound = speak("turn on the kitchen light please").resampled(16_000).samples
    sound = np.concatenate([np.zeros(8000, np.float32), sound, np.random.default_rng(0).normal(0, 0.01, 8000).astype(np.float32)])
    windows = list(sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW))
    theirs = load_silero_vad()
    with torch.no_grad():
        expected = [float(theirs(torch.from_numpy(window), 16_000)) for window in windows]
    ear, found = Silero().ear(), list[float]()
    for at in range(0, len(windows), 3):
        found += judged([ear], [windows[at : at + 3]])[0]
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(found) > 0.9 and min(found) < 0.05


class Other:
    """A network whose weights have the same names and which answers something else."""

    def __init__(self, drop=""):
        self.own = load_silero_vad()._model
        self.drop = drop

    def state_dict(self):
        return {name: value for name, value in self.own.state_dict().items() if name != self.drop}

    def __call__(self, sound, memory):
        return self.own(sound, memory)[0] + 0.01, memory


@pytest.mark.parametrize("drop", ["", "encoder.3.reparam_conv.bias"])
def test_another_release_with_another_network_is_refused(drop):
    with pytest.raises(InputError, match="pip install 'silero-vad>=6,<7'"):
        Network(Other(drop))
