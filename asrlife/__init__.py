"""Speech recognisers that keep learning after they ship.

>>> import asrlife
>>> model = asrlife.load("embedded:ctc")
>>> model.transcribe([asrlife.read("speech.wav")])[0].text
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asrlife.errors import InputError

if TYPE_CHECKING:
    from asrlife.audio.read import read, write
    from asrlife.audio.waveform import Waveform
    from asrlife.data.condition import Condition
    from asrlife.data.corpus import Corpus
    from asrlife.data.utterance import Utterance
    from asrlife.delta.delta import Delta
    from asrlife.evaluate.report import Report, Score
    from asrlife.models.load import load
    from asrlife.models.speaking import speak
    from asrlife.models.text import load_text
    from asrlife.text.hypothesis import Hypothesis, Word

__version__ = "0.1.0"

# `evaluate` is missing on purpose: the package asrlife.evaluate already has that name.
_HOMES = {
    "Condition": "asrlife.data.condition",
    "Corpus": "asrlife.data.corpus",
    "Delta": "asrlife.delta.delta",
    "Hypothesis": "asrlife.text.hypothesis",
    "Report": "asrlife.evaluate.report",
    "Score": "asrlife.evaluate.report",
    "Utterance": "asrlife.data.utterance",
    "Waveform": "asrlife.audio.waveform",
    "Word": "asrlife.text.hypothesis",
    "load": "asrlife.models.load",
    "load_text": "asrlife.models.text",
    "read": "asrlife.audio.read",
    "speak": "asrlife.models.speaking",
    "write": "asrlife.audio.read",
}

__all__ = [
    "Condition",
    "Corpus",
    "Delta",
    "Hypothesis",
    "InputError",
    "Report",
    "Score",
    "Utterance",
    "Waveform",
    "Word",
    "__version__",
    "load",
    "load_text",
    "read",
    "speak",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'asrlife' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
