"""Which of many edits a text is about, by what stands in it: subjects first, then words by how rare they are."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from asrlife.data.edit import EditRequest

_WORDS = re.compile(r"\w+")


class Index:
    """Requests to search. Similarity is the cosine of the sets of words of a text and of a statement, weighted by

    1 + ln((1 + N) / (1 + n)) for a word in n of N statements; a word in none of them weighs most, and takes similarity away.
    """

    def __init__(self, requests: Sequence[EditRequest]) -> None:
        self.requests = tuple(requests)

    def ranked(self, text: str) -> list[EditRequest]:
        """All requests, those whose subject stands in the text first, the longest subject before others, then by similarity."""
        return [self.requests[place] for place in self._order(text)]

    def nearest(self, text: str, least: float = 0.0) -> EditRequest | None:
        """The first of them if its subject stands in the text, or if it has a word of it and is at least `least` alike; else None."""
        if not self.requests:
            return None
        first = self.requests[self._order(text)[0]]
        alike = self.similarity(text, first)
        return first if _stands(first.subject, text) or (alike > 0 and alike >= least) else None

    def similarity(self, text: str, request: EditRequest) -> float:
        """0 (no word in common) to 1."""
        one, other = _words(text), _words(request.statement)
        lengths = math.sqrt(self._weight(one) * self._weight(other))
        return self._weight(one & other) / lengths if lengths else 0.0

    def _order(self, text: str) -> list[int]:
        def key(place: int) -> tuple[int, float]:
            request = self.requests[place]
            return (-len(request.subject) if _stands(request.subject, text) else 0, -self.similarity(text, request))

        return sorted(range(len(self.requests)), key=key)

    def _weight(self, words: frozenset[str]) -> float:
        """The sum of squared weights."""
        total = len(self.requests)
        return sum((1 + math.log((1 + total) / (1 + self._counts[word]))) ** 2 for word in words)

    @cached_property
    def _counts(self) -> Counter[str]:
        return Counter(word for request in self.requests for word in _words(request.statement))


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORDS.findall(text.lower()))


def _stands(subject: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text, re.IGNORECASE) is not None
