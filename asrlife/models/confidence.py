"""From mean log-probabilities to probabilities of being right, where a model's card says how (Platt 1999)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp, expm1, log
from typing import Any

from asrlife.text.hypothesis import Hypothesis, Word

_LEAST, _MOST = -30.0, -1e-7  # nats; the logit of what lies outside is infinite


@dataclass(frozen=True)
class Platt:
    """A logistic curve over the logit of a raw probability."""

    scale: float
    offset: float

    def of(self, score: float) -> float:
        """The probability within 0..1 for a raw log-probability in nats."""
        return 1 / (1 + exp(-max(-700.0, self.scale * logit(score) + self.offset)))


def logit(score: float) -> float:
    """log(p / (1 - p)) of p = exp(score), with p kept off 0 and 1."""
    score = min(max(score, _LEAST), _MOST)
    return score - log(-expm1(score))


def calibrated(hypothesis: Hypothesis, card: Mapping[str, Any], adapted: bool = False) -> Hypothesis:
    """The hypothesis with confidences that are probabilities; as it is where the card's "confidence" does not say how.

    What was said with `adapted` weights has curves of its own where the card has them: to minimise entropy is to become surer, right or
    not.
    """
    told = card.get("confidence", {})
    curves = told.get("adapted", told) if adapted else told
    if "utterance" not in curves or "word" not in curves:
        return hypothesis
    whole, single = (Platt(float(curves[kind]["scale"]), float(curves[kind]["offset"])) for kind in ("utterance", "word"))
    words = tuple(replace(word, confidence=single.of(raw(word))) for word in hypothesis.words)
    return replace(hypothesis, words=words, confidence=whole.of(hypothesis.score) if hypothesis.tokens else None)


def raw(word: Word) -> float:
    """The log-probability in nats that a word's uncalibrated confidence stands for."""
    return log(word.confidence) if word.confidence > 0 else _LEAST
