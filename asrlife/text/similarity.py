"""How alike two sets of sentences are, by their words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence


def similarities(target: Sequence[str], others: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The cosine, 0..1, between the tf-idf vectors of `target` and of each of `others`, each set of sentences one document.

    tf is a word's share of its document, idf = ln((1 + N) / (1 + df)) + 1 over the N documents (smoothed as in scikit-learn).
    """
    documents = {"": _words(target)} | {name: _words(texts) for name, texts in others.items()}
    found = Counter(word for document in documents.values() for word in document)
    idf = {word: math.log((1 + len(documents)) / (1 + count)) + 1 for word, count in found.items()}
    vectors = {name: {word: count * idf[word] for word, count in document.items()} for name, document in documents.items()}
    return {name: _cosine(vectors[""], vectors[name]) for name in others}


def _words(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in text.lower().split())


def _cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    lengths = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
    return sum(value * b.get(word, 0.0) for word, value in a.items()) / lengths if lengths else 0.0
