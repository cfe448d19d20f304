"""Entity recall: of the drug names, titles or doses that were said, how many a recogniser wrote; and how many nobody said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from asrlife.errors import InputError
from asrlife.evaluate.bootstrap import rate_interval
from asrlife.text.entity import Entity
from asrlife.text.normalise import normalise

Phrase = tuple[str, ...]
Reference = tuple[str, Sequence[Entity]]  # a sentence and its entities
Form = Callable[[str], Phrase]


@dataclass(frozen=True)
class Recall:
    """`recalled` of `said` entities with the 95 % interval of their ratio, and `false` insertions: entities written that nobody said."""

    said: int
    recalled: int
    false: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """recalled / said."""
        return self.recalled / self.said

    def to_json(self) -> dict[str, Any]:
        """The figures; recall and its interval as fractions."""
        return {"recall": self.value, "low": self.low, "high": self.high, "said": self.said, "recalled": self.recalled, "false": self.false}


@dataclass(frozen=True)
class EntityRecall:
    """The recall of all entities together and of each label, and the phrases that were missed or inserted most, with their counts."""

    overall: Recall
    labels: dict[str, Recall]
    missed: tuple[tuple[str, int], ...]
    inserted: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        labels = {label: recall.to_json() for label, recall in self.labels.items()}
        return {**self.overall.to_json(), "labels": labels, "missed": dict(self.missed), "inserted": dict(self.inserted)}


def entity_recall(references: Sequence[Reference], hypotheses: Sequence[str], samples: int = 1000) -> EntityRecall:
    """Score what was heard against what was said and which of its words are entities.

    recall = sum_u sum_e min(said_u(e), heard_u(e)) / sum_u sum_e said_u(e) over utterances u and phrases e: said counts the marked
    entities, heard the phrases in the hypothesis. Both are compared in the Whisper normal form (arXiv 2212.04356), so that "five" is "5";
    where that runs an entity together with its neighbours ("one five" is "15"), the utterance is compared as plain words. An entity is
    heard when its words stand together; where several could begin at a word the longest counts, and no word counts twice, so that
    "insulin" is not heard in "insulin glargine" when both are entities. A false insertion is a phrase of any reference's entities that a
    hypothesis has more often than its own reference, marked there or not. The interval draws utterances with replacement, `samples`
    times. Raises InputError for lists of different lengths, marks outside a sentence, and no entities at all.
    """
    if len(references) != len(hypotheses):
        raise InputError(f"{len(references)} references and {len(hypotheses)} hypotheses; give one hypothesis for each reference")
    _check(references)
    lexica: dict[Form, frozenset[Phrase]] = {
        form: frozenset(phrase for _, phrase in _marked(references, form)) for form in (_normal, _plain)
    }
    rows = [_row(reference, heard, lexica) for reference, heard in zip(references, hypotheses, strict=True)]
    labels = {}
    for label in sorted({label for row in rows for label, _ in row.marked}):
        phrases = {phrase for form in lexica for kind, phrase in _marked(references, form) if kind == label}
        labels[label] = _recall([row.counts(phrases, label) for row in rows], samples)
    overall = _recall([row.counts(frozenset().union(*lexica.values())) for row in rows], samples)
    return EntityRecall(overall, labels, _most(row.missed for row in rows), _most(row.inserted for row in rows))


@dataclass(frozen=True)
class _Row:
    """One utterance: its marked entities as (label, phrase), and the phrases in its reference and hypothesis."""

    marked: Counter[tuple[str, Phrase]]
    said: Counter[Phrase]
    heard: Counter[Phrase]

    def own(self, label: str | None = None) -> Counter[Phrase]:
        """How often each phrase is marked, as `label` or at all."""
        found: Counter[Phrase] = Counter()
        for (kind, phrase), count in self.marked.items():
            found[phrase] += count if label in (None, kind) else 0
        return found

    def counts(self, phrases: Iterable[Phrase], label: str | None = None) -> tuple[int, int, int]:
        """Said and recalled entities of a label, or of all, and false insertions among `phrases`."""
        own = self.own(label)
        return sum(own.values()), sum((own & self.heard).values()), sum(self.inserted[phrase] for phrase in phrases)

    @property
    def missed(self) -> Counter[Phrase]:
        """Marked entities that were not heard."""
        return self.own() - self.heard

    @property
    def inserted(self) -> Counter[Phrase]:
        """Phrases that were heard and not said."""
        return self.heard - (self.said | self.own())


def _row(reference: Reference, heard: str, lexica: dict[Form, frozenset[Phrase]]) -> _Row:
    for form, lexicon in lexica.items():  # the last one, plain words, stands in any case
        marked, said = Counter(_marked([reference], form)), _phrases(form(reference[0]), lexicon)
        found = _Row(marked, said, _phrases(form(heard), lexicon))
        if not found.own() - said:
            break
    return found


def _recall(counts: Sequence[tuple[int, int, int]], samples: int) -> Recall:
    said, recalled, false = zip(*counts, strict=True)
    return Recall(sum(said), sum(recalled), sum(false), *rate_interval(np.array(recalled, float), np.array(said, float), samples))


def _check(references: Sequence[Reference]) -> None:
    if not any(entities for _, entities in references):
        raise InputError("the references mark no entities, so that there is no entity recall; mark them, as `asrlife texts` does")
    for number, (text, entities) in enumerate(references):
        words = text.split()
        for one in entities:
            if not 0 <= one.start < one.end <= len(words):
                raise InputError(f"reference {number}: entity {one.text!r} is words {one.start} to {one.end} of {len(words)}: {text!r}")
            if not all(map(_pronounced, (form(" ".join(words[one.start : one.end])) for form in (_normal, _plain)))):
                raise InputError(f"reference {number}: entity {one.text!r} has no words once normalised; do not mark it")


def _pronounced(phrase: Phrase) -> bool:
    return any(character.isalnum() for word in phrase for character in word)


def _marked(references: Sequence[Reference], form: Form) -> list[tuple[str, Phrase]]:
    rows = ((text.split(), entity) for text, entities in references for entity in entities)
    return [(entity.label, form(" ".join(words[entity.start : entity.end]))) for words, entity in rows]


def _phrases(words: Phrase, lexicon: frozenset[Phrase]) -> Counter[Phrase]:
    """How often each phrase stands among the words; the longest first, from left to right, no word twice."""
    longest, found, at = max(map(len, lexicon)), Counter[Phrase](), 0
    while at < len(words):
        fits = (words[at : at + size] for size in range(min(longest, len(words) - at), 0, -1))
        phrase = next((phrase for phrase in fits if phrase in lexicon), None)
        found.update([phrase] if phrase else [])
        at += len(phrase) if phrase else 1
    return found


@cache
def _normal(text: str) -> Phrase:
    return tuple(normalise(text).split())


def _plain(text: str) -> Phrase:
    return tuple(re.sub(r"[^\w\s']", " ", text.casefold()).split())


def _most(counters: Iterable[Counter[Phrase]], count: int = 10) -> tuple[tuple[str, int], ...]:
    total: Counter[Phrase] = Counter()
    for counter in counters:
        total += counter
    ranked = sorted(total.items(), key=lambda item: (-item[1], item[0]))[:count]
    return tuple((" ".join(phrase), times) for phrase, times in ranked)
