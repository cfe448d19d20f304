"""What of an interim result can be promised: local agreement (Liu et al. 2020; Macháček et al. 2023) over an utterance's hypotheses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from asrlife.text.hypothesis import Hypothesis


class Agreement:
    """The words that two successive hypotheses of an utterance begin with alike are stable: later ones are shown behind them."""

    def __init__(self) -> None:
        self._index = -1
        self._shown: tuple[str, ...] = ()
        self._stable = 0  # words
        self._told = Hypothesis("", (), (), 0.0)

    def taken(self, index: int, hypothesis: Hypothesis) -> tuple[Hypothesis, int]:
        """What to show of a new hypothesis of utterance `index`, and how many characters of its text are stable."""
        if index != self._index:
            self._index, self._shown, self._stable = index, (), 0
        shown = self._behind(hypothesis)
        words = tuple(shown.text.split(" ")) if shown.text else ()
        agreed = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(words, self._shown, strict=False)))
        self._shown, self._told, self._stable = words, shown, max(self._stable, agreed)
        return shown, len(" ".join(words[: self._stable]))

    def _behind(self, hypothesis: Hypothesis) -> Hypothesis:
        """The hypothesis, its beginning put back to what is stable."""
        words, kept = hypothesis.text.split(), self._shown[: self._stable]
        if tuple(words[: self._stable]) == kept:
            return replace(hypothesis, text=" ".join(words))
        start = nearest_end(kept, words)
        timed = (*self._told.words[: self._stable], *hypothesis.words[start:])
        whole = len(self._told.words) == len(self._shown) and len(hypothesis.words) == len(words)
        return replace(hypothesis, text=" ".join((*kept, *words[start:])), words=timed if whole else hypothesis.words)


def nearest_end(kept: Sequence[str], words: Sequence[str]) -> int:
    """How many of `words` say what `kept` says: the prefix at the least edit distance, of equals the one nearest in length."""
    row = list(range(len(words) + 1))
    for count, word in enumerate(kept, 1):
        before, row = row, [count]
        for at, other in enumerate(words):
            row.append(min(before[at] + (word != other), before[at + 1] + 1, row[at] + 1))
    return min(range(len(row)), key=lambda end: (row[end], abs(end - len(kept))))
