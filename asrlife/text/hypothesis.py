"""What a recogniser says it heard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """One word with its place in the audio (s) and a confidence within 0..1."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Hypothesis:
    """A transcript with its tokens and words; `score` is the mean log-probability per step, in nats.

    `confidence` is the probability that the whole text is right, None where the model's card does not calibrate it.
    """

    text: str
    tokens: tuple[int, ...]
    words: tuple[Word, ...]
    score: float
    confidence: float | None = None
