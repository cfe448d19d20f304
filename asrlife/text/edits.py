"""Fewest edits of letters between texts, and where one corresponds to the beginning of another."""

from __future__ import annotations


def edits(text: str, other: str, anywhere: bool = False) -> list[int]:
    """For each n = 0 .. len(other) the fewest insertions, deletions and substitutions that make `text` of other[:n] (Levenshtein, 1966).

    With `anywhere`, of whatever stretch of `other` that ends at n (Sellers, 1980).
    """
    row = [0] * (len(other) + 1) if anywhere else list(range(len(other) + 1))
    for count, letter in enumerate(text, 1):
        before, row = row, [count]
        for place, against in enumerate(other, 1):
            row.append(min(before[place - 1] + (letter != against), before[place] + 1, row[place - 1] + 1))
    return row


def corresponding(begin: str, end: str, other: str) -> int:
    """How much of `other` corresponds to `begin` in begin + end: its first split with the fewest edits on both sides together."""
    ahead, behind = edits(begin, other), edits(end[::-1], other[::-1])[::-1]
    both = [one + two for one, two in zip(ahead, behind, strict=True)]
    return both.index(min(both))
