"""Intervals for word error rates by resampling utterances."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from asrlife.errors import InputError
from asrlife.evaluate.wer import Counts, word_error_rate

_TAILS = (2.5, 97.5)  # percent: the interval holds 95 %


def interval(counts: Sequence[Counts], samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the word error rate over `samples` corpora drawn with replacement (Bisani and Ney, ICASSP 2004)."""
    errors, words = _arrays(counts)
    draws = _draws(len(counts), samples, seed)
    return _bounds(draws @ errors, draws @ words)


def ratio_interval(parts: Sequence[float], wholes: Sequence[float], samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of sum(parts) / sum(wholes), the two given by utterance, as `interval` draws them.

    Raises InputError where the two differ in length or the wholes are all 0.
    """
    if len(parts) != len(wholes):
        raise InputError(f"{len(parts)} parts of {len(wholes)} wholes; give both for each utterance")
    if not sum(wholes):
        raise InputError("there is nothing to divide by, so that there is no ratio; give utterances that count")
    draws = _draws(len(parts), samples, seed)
    return _bounds(draws @ np.array(parts, float), draws @ np.array(wholes, float))


def paired(a: Sequence[Counts], b: Sequence[Counts], samples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """WER of `b` minus WER of `a` (below 0: `b` is better) and its 95 % interval; both draw the same utterances.

    The two must be over the same utterances in the same order; others raise InputError.
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} utterances cannot be paired; score both on the same ones")
    (errors_a, words), (errors_b, words_b) = _arrays(a), _arrays(b)
    if not np.array_equal(words, words_b):
        raise InputError("the two were scored against different references; score both on the same utterances in the same order")
    draws = _draws(len(a), samples, seed)
    low, high = _bounds(draws @ (errors_b - errors_a), draws @ words)
    return word_error_rate(b) - word_error_rate(a), low, high


def _arrays(counts: Sequence[Counts]) -> tuple[np.ndarray, np.ndarray]:
    word_error_rate(counts)  # raises where there are no words
    return np.array([c.errors for c in counts], float), np.array([c.words for c in counts], float)


@lru_cache(maxsize=4)  # the figures of one report are over the same few numbers of utterances
def _draws(n: int, samples: int, seed: int) -> np.ndarray:
    """How often each of `n` utterances is in each drawn corpus, (samples, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples).astype(np.float64)


def _bounds(errors: np.ndarray, words: np.ndarray) -> tuple[float, float]:
    some = words > 0  # a drawn corpus of empty references alone has no rate
    low, high = np.percentile(errors[some] / words[some], _TAILS)
    return float(low), float(high)
