"""From the lines of somebody's file to sentences that can be read aloud, with an account of every line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from asrlife.text.characters import foreign, greek_spelt, readable
from asrlife.text.entity import Entity, located
from asrlife.text.lines import Line
from asrlife.text.spelling import fitted
from asrlife.text.spoken import sentences, spoken

Verdict = Literal["used", "changed", "left out"]
_SILENT = re.compile(r"[^\w\s.,;:?!'\"()-]|_")  # what may be left once numbers and units are words
_EXCERPT = 100


@dataclass(frozen=True)
class Rules:
    """How text is prepared: its language, the longest sentence in characters, and the characters a model can spell, where it matters."""

    language: str = "en"
    longest: int = 200
    alphabet: Set[str] | None = None


@dataclass(frozen=True)
class Sentence:
    """What is read aloud (`said`), its transcript (`text`), the line it came from, and the entities in the transcript."""

    text: str
    said: str
    line: int
    entities: tuple[Entity, ...] = ()


@dataclass(frozen=True)
class Fate:
    """What became of a line: `why` says what was changed, or for what it was left out; `sentences` is how many came of it."""

    line: int
    verdict: Verdict
    why: tuple[str, ...]
    text: str
    sentences: int

    @property
    def excerpt(self) -> str:
        """The beginning of the line as it was, with control characters written out."""
        shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in self.text[:_EXCERPT])
        return shown + ("..." if len(self.text) > _EXCERPT else "")


@dataclass(frozen=True)
class Prepared:
    """The sentences in order, and the fate of every line."""

    sentences: tuple[Sentence, ...]
    fates: tuple[Fate, ...]

    def limited(self, most: int | None) -> Prepared:
        """The first `most` sentences, and the lines after them left out; None: all."""
        if most is None or len(self.sentences) <= most:
            return self
        kept, why = Counter(sentence.line for sentence in self.sentences[:most]), f"comes after the first {most} sentences"
        fates = (fate if fate.sentences == kept[fate.line] else _shortened(fate, kept[fate.line], why) for fate in self.fates)
        return Prepared(self.sentences[:most], tuple(fates))

    def counts(self) -> dict[str, int]:
        """Lines by verdict, and sentences."""
        verdicts: tuple[Verdict, ...] = ("used", "changed", "left out")
        found: dict[str, int] = {verdict: sum(fate.verdict == verdict for fate in self.fates) for verdict in verdicts}
        return {"lines": len(self.fates), **found, "sentences": len(self.sentences)}

    def to_json(self) -> dict[str, Any]:
        """The whole account, the lines' own text included."""
        return {**self.counts(), "fates": [{**asdict(fate), "why": list(fate.why)} for fate in self.fates]}


@dataclass
class _Account:
    """What happens to one line while it is worked on."""

    line: Line
    rules: Rules
    changes: dict[str, None] = field(default_factory=dict)
    lost: dict[str, None] = field(default_factory=dict)

    def note(self, changes: Iterable[str]) -> None:
        self.changes |= dict.fromkeys(changes)

    def fate(self, kept: int) -> Fate:
        why = (*self.changes, *self.lost)
        verdict: Verdict = "left out" if not kept else "changed" if why else "used"
        lost = tuple(self.lost) or ("has no words that are said",)
        return Fate(self.line.number, verdict, lost if not kept else why, self.line.text, kept)


def prepare(lines: Sequence[Line], rules: Rules = Rules(), advance: Callable[[], None] = lambda: None) -> Prepared:
    """Make sentences of lines: characters without a sound go, numbers, dates and units become words, lines become sentences, sentences
    over `rules.longest` are cut, and what was said before (case and punctuation aside) is left out. Every line has one fate.
    """
    kept, fates, seen = list[Sentence](), list[Fate](), dict[tuple[str, ...], int]()
    for line in lines:
        account = _Account(line, rules)
        fresh = [sentence for sentence in _of_line(account) if _is_new(sentence, seen, account)]
        kept += fresh
        fates.append(account.fate(len(fresh)))
        advance()
    return Prepared(tuple(kept), tuple(fates))


def _of_line(account: _Account) -> list[Sentence]:
    line, rules = account.line, account.rules
    reason = line.fault or ("" if line.text.strip() else "is empty")
    text, changes = readable(line.text) if not reason else ("", [])
    if not reason and rules.language.startswith("en"):
        text, more = greek_spelt(text)
        changes += more
    reason = reason or foreign(text, rules.language) or ("" if re.search(r"[^\W_]", text) else "has no words" + _because(changes))
    if reason:
        account.lost[reason] = None
        return []
    account.note(changes)
    parts = sentences(text, rules.language)
    account.note([f"split into {len(parts)} sentences"] if len(parts) > 1 else [])
    return [sentence for part in parts for piece in _aloud(part, account) for sentence in _spelt(piece, account)]


def _aloud(part: str, account: _Account) -> list[str]:
    """A sentence as it is said, in pieces that are short enough."""
    aloud = spoken(part, account.rules.language)
    account.note(["numbers, units and titles written out"] if aloud != part else [])
    account.note(["symbols without a reading left out"] if _SILENT.search(aloud) else [])
    clean = re.sub(r" (?=[.,;:?!])", "", " ".join(_SILENT.sub(" ", aloud).split()))
    if re.search(r"\d", clean):
        account.lost[f"holds digits that have no reading here ({clean[:40]!r})"] = None
        return []
    return _cut(clean, account)


def _cut(text: str, account: _Account) -> list[str]:
    longest, pieces = account.rules.longest, list[str]()
    while len(text) > longest:
        window = text[: longest + 1]
        stop = max((m.end() for m in re.finditer(r"[;:,.] ", window) if m.end() > longest // 3), default=window.rfind(" ") + 1)
        if stop <= 0:
            word = next(iter(text.split()))
            account.lost[f"has a word of {len(word)} characters, and {longest} are the most"] = None
            text = text[len(word) :].strip()
            continue
        pieces.append(text[:stop].strip())
        text = text[stop:].strip()
    pieces += [text] if re.search(r"\w", text) else []
    account.note([f"cut into pieces of at most {longest} characters"] if len(pieces) > 1 else [])
    return pieces


def _spelt(said: str, account: _Account) -> list[Sentence]:
    rules, text = account.rules, said
    if rules.alphabet is not None:
        text, folded, unknown = fitted(said, rules.alphabet)
        account.note([f"letters the model lacks made plain ({folded})"] if folded else [])
        if unknown or not text:
            account.lost[f"the model cannot spell {' '.join(map(repr, unknown)) or repr(said)}"] = None
            return []
    wanted = [(entity.label, _words_of(entity, account)) for entity in account.line.entities]
    return [Sentence(text, said, account.line.number, located(text, wanted))]


def _words_of(entity: Entity, account: _Account) -> str:
    words = " ".join(account.line.text.split()[entity.start : entity.end])
    aloud = spoken(readable(words)[0], account.rules.language)
    return fitted(aloud, account.rules.alphabet)[0] if account.rules.alphabet is not None else aloud


def _is_new(sentence: Sentence, seen: dict[tuple[str, ...], int], account: _Account) -> bool:
    key = tuple(re.findall(r"[\w']+", sentence.text.casefold()))
    if not key:
        account.lost["has no words"] = None
        return False
    if key in seen:
        account.lost[f"is the same as line {seen[key]}" if seen[key] != sentence.line else "says the same twice"] = None
        return False
    seen[key] = sentence.line
    return True


def _shortened(fate: Fate, kept: int, why: str) -> Fate:
    return replace(fate, verdict="changed" if kept else "left out", why=(*fate.why, why) if kept else (why,), sentences=kept)


def _because(changes: Sequence[str]) -> str:
    return f" ({'; '.join(changes)})" if changes else ""
