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
    return rate_interval(*_arrays(counts), samples, seed)


def rate_interval(amounts: np.ndarray, sizes: np.ndarray, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """As `interval`, of sum(amounts) / sum(sizes) for any amounts (n,) and sizes (n,) by item: errors of words, nats of tokens."""
    drawn = draws(len(amounts), samples, seed)
    return _bounds(drawn @ amounts, drawn @ sizes)


def paired(a: Sequence[Counts], b: Sequence[Counts], samples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """WER of `b` minus WER of `a` (below 0: `b` is better) and its 95 % interval; both draw the same utterances.

    The two must be over the same utterances in the same order; others raise InputError.
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} utterances cannot be paired; score both on the same ones")
    (errors_a, words), (errors_b, words_b) = _arrays(a), _arrays(b)
    if not np.array_equal(words, words_b):
        raise InputError("the two were scored against different references; score both on the same utterances in the same order")
    return rate_difference(errors_a, errors_b, words, samples, seed)


def rate_difference(a: np.ndarray, b: np.ndarray, sizes: np.ndarray, samples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """As `paired`, of sum(b) / sum(sizes) minus sum(a) / sum(sizes) for amounts (n,) of the same items."""
    low, high = rate_interval(b - a, sizes, samples, seed)
    return float(b.sum() / sizes.sum() - a.sum() / sizes.sum()), low, high


def _arrays(counts: Sequence[Counts]) -> tuple[np.ndarray, np.ndarray]:
    word_error_rate(counts)  # raises where there are no words
    return np.array([c.errors for c in counts], float), np.array([c.words for c in counts], float)


@lru_cache(maxsize=4)  # the figures of one report are over the same few numbers of utterances
def draws(n: int, samples: int, seed: int) -> np.ndarray:
    """How often each of `n` utterances is in each drawn corpus, (samples, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples).astype(np.float64)


def _bounds(errors: np.ndarray, words: np.ndarray) -> tuple[float, float]:
    some = words > 0  # a drawn corpus of empty references alone has no rate
    low, high = np.percentile(errors[some] / words[some], _TAILS)
    return float(low), float(high)
