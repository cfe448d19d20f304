"""Word and character errors through jiwer, on the Whisper normaliser."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

from asrlife.errors import InputError
from asrlife.text.normalise import normalise


@dataclass(frozen=True)
class Counts:
    """How the words of a hypothesis align with the reference's, and how many characters (spaces among them) are wrong; counts add up."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    character_errors: int = 0
    characters: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def words(self) -> int:
        """Words of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substituted, deleted and inserted words."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class Aligned:
    """One place of an alignment: a reference word, a hypothesis word, or both; the absent one is empty."""

    kind: Literal["hit", "substitution", "deletion", "insertion"]
    reference: str
    hypothesis: str


def count(reference: str, hypothesis: str) -> Counts:
    """Align the two after normalising them; a reference that normalises to nothing makes every hypothesis word an insertion."""
    import jiwer

    reference, hypothesis = normalise(reference), normalise(hypothesis)
    words, characters = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
    wrong = characters.substitutions + characters.deletions + characters.insertions
    return Counts(words.hits, words.substitutions, words.deletions, words.insertions, wrong, len(reference))


def align(reference: str, hypothesis: str) -> tuple[Aligned, ...]:
    """Pair the normalised words of the two in order, along jiwer's alignment."""
    import jiwer

    result = jiwer.process_words(normalise(reference), normalise(hypothesis))
    said, heard = result.references[0], result.hypotheses[0]
    places: list[Aligned] = []
    for chunk in result.alignments[0]:
        left, right = said[chunk.ref_start_idx : chunk.ref_end_idx], heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "insert":
            places += [Aligned("insertion", "", word) for word in right]
        elif chunk.type == "delete":
            places += [Aligned("deletion", word, "") for word in left]
        else:
            kind: Literal["hit", "substitution"] = "hit" if chunk.type == "equal" else "substitution"
            places += [Aligned(kind, *pair) for pair in zip(left, right, strict=True)]
    return tuple(places)


def word_error_rate(counts: Iterable[Counts]) -> float:
    """Errors over reference words of all utterances together; raises InputError where the references hold no words."""
    total = sum(counts, Counts())
    if not total.words:
        raise InputError("the references hold no words, so that there is no word error rate; give utterances with text")
    return total.errors / total.words


def character_error_rate(counts: Iterable[Counts]) -> float:
    """Wrong characters over reference characters of all utterances together; raises InputError where the references hold none."""
    total = sum(counts, Counts())
    if not total.characters:
        raise InputError("the references hold no characters, so that there is no character error rate; give utterances with text")
    return total.character_errors / total.characters
