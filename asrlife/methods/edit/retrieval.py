"""Which of many edits a text is about, by what stands in it: subjects first, then words by how rare they are."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from asrlife.data.edit import EditRequest

_WORDS = re.compile(r"\w+")


class Index:
    """Requests to search. Similarity is the cosine of the sets of words of a text and of a statement, weighted by

    1 + ln((1 + N) / (1 + n)) for a word in n of N statements; a word in none of them weighs most, and takes similarity away.
    """

    def __init__(self, requests: Sequence[EditRequest]) -> None:
        self.requests = tuple(requests)
        self._words = [_words(request.statement) for request in requests]
        self._counts = Counter(word for words in self._words for word in words)
        self._lengths = [math.sqrt(self._weight(words)) for words in self._words]

    def ranked(self, text: str) -> list[EditRequest]:
        """All requests, those whose subject stands in the text first, the longest subject before others, then by similarity."""
        alike = self.similarities(text)
        order = sorted(range(len(alike)), key=lambda place: (-_standing(self.requests[place].subject, text), -alike[place]))
        return [self.requests[place] for place in order]

    def nearest(self, text: str, least: float = 0.0) -> EditRequest | None:
        """The first of them if its subject stands in the text, or if it has a word of it and is at least `least` alike; else None."""
        alike = self.similarities(text)
        keys = [(_standing(request.subject, text), one) for request, one in zip(self.requests, alike, strict=True)]
        if not keys:
            return None
        best = max(range(len(keys)), key=keys.__getitem__)
        stands, one = keys[best]
        return self.requests[best] if stands or (one > 0 and one >= least) else None

    def similarities(self, text: str) -> list[float]:
        """0 (no word in common) to 1 for each request."""
        words = _words(text)
        length = math.sqrt(self._weight(words))
        shared = (self._weight(words & others) for others in self._words)
        return [each / (length * other) if each else 0.0 for each, other in zip(shared, self._lengths, strict=True)]

    def _weight(self, words: Iterable[str]) -> float:
        """The sum of squared weights."""
        total = 1 + len(self._words)
        return sum((1 + math.log(total / (1 + self._counts[word]))) ** 2 for word in words)


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORDS.findall(text.lower()))


def _standing(subject: str, text: str) -> int:
    """The length of a subject that stands in a text as words of its own; 0 for one that does not."""
    found = subject.lower() in text.lower() and re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text, re.IGNORECASE)
    return len(subject) if found else 0
