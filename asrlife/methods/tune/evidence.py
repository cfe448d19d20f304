"""What a model is tuned on: which utterances can be used, that the sets are apart, and a fingerprint of the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.methods.tune.task import Item, Task

Advance = Callable[[], None]
NAMED = 3  # utterances that a message names


@dataclass(frozen=True, eq=False)
class Evidence:
    """The usable utterances of a corpus, what was wrong with the others, by line, and the digest of each usable one's sound or text."""

    name: str
    source: str
    items: tuple[Item, ...]
    digests: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, texts and sounds in order."""
        rows = [[item.utterance.id, item.text, digest] for item, digest in zip(self.items, self.digests, strict=True)]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()

    def told(self) -> dict[str, Any]:
        """For a card."""
        size = sum(item.size for item in self.items)
        counts = {"utterances": len(self.items), "left_out": len(self.problems), "size": round(size, 3)}
        return {"source": self.source, "fingerprint": self.fingerprint, **counts}


def gathered(task: Task, corpus: Corpus, name: str, advance: Advance = lambda: None) -> Evidence:
    """Read every utterance once, so that what cannot be used is told before the first step and not after an hour.

    Raises InputError where nothing can be used, naming the first faults.
    """
    lines, found, digests, problems = _lines(corpus), list[Item](), list[str](), list(corpus.problems)
    for utterance in corpus:
        try:
            item = task.item(utterance)
            digests.append(task.identity(utterance))
            found.append(item)
        except InputError as error:
            problems.append(f"{_where(corpus, lines, utterance)}: {error}; left out")
        advance()
    if not found:
        causes = "; ".join(problems[:NAMED]) or "it is empty"
        raise InputError(f"{name}: no utterance of {corpus.source or 'the corpus'} can be used: {causes}")
    return Evidence(name, str(corpus.source or "in memory"), tuple(found), tuple(digests), tuple(problems))


def check_apart(*sets: Evidence | None) -> None:
    """Raise InputError where two sets share an id or a recording, under whatever name: scores on what was learnt say nothing."""
    for one, other in combinations([each for each in sets if each is not None], 2):
        ids = {item.utterance.id for item in one.items} & {item.utterance.id for item in other.items}
        sounds = set(one.digests) & set(other.digests)
        if sounds:
            names = [item.utterance.id for item, digest in zip(other.items, other.digests, strict=True) if digest in sounds]
            raise InputError(f"{_pair(one, other)} share {len(sounds)} recordings or texts ({_first(names)}): {_fix(one, other)}")
        if ids:
            raise InputError(f"{_pair(one, other)} share {len(ids)} ids ({_first(sorted(ids))}): {_fix(one, other)}")


def _pair(one: Evidence, other: Evidence) -> str:
    return f"{one.name} ({one.source}) and {other.name} ({other.source})"


def _fix(one: Evidence, other: Evidence) -> str:
    return f"take out of {one.name} what is in {other.name}, or name another split"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")


def _where(corpus: Corpus, lines: Mapping[str, int], utterance: Utterance) -> str:
    if corpus.source is None or utterance.id not in lines:
        return utterance.id
    return f"{corpus.source}:{lines[utterance.id]}: {utterance.id}"


def _lines(corpus: Corpus) -> dict[str, int]:
    return {} if corpus.source is None or not corpus.source.is_file() else dict(_numbered(corpus.source.read_text("utf-8-sig")))


def _numbered(text: str) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(text.split("\n"), 1):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "id" in row:
            yield str(row["id"]), number
