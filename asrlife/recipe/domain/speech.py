"""The speech of a domain: its sentences parted into what is learnt and what is tested, and read aloud by different voices."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from asrlife.audio.engines import ENGINES
from asrlife.errors import InputError
from asrlife.recipe.aloud import Made, Wish, prepared_text, spoken
from asrlife.recipe.domain.plan import Domain
from asrlife.recipe.registry import Bar
from asrlife.recipe.speech import Diversity, Reading, read_aloud, readings
from asrlife.text.prepare import Prepared, Rules, Sentence

SPEECH, GENERAL, OTHER = "speech", "general", "other-engine"
LEAST = 10  # sentences: 6 to learn from, 2 to choose on, 2 to test
GENERAL_FAMILIES = ("assistant", "grid")
_SHARES: Mapping[str, tuple[float, int]] = {"test": (0.2, 200), "dev": (0.1, 60)}  # and how many at most
_LEAST_OF_EACH = 2


def prepared_domain(asked: Domain, alphabet: Collection[str] | None, bar: Bar) -> Prepared:
    """The sentences of the domain's text; raises InputError for a text that cannot be read, or is too small, and writes nothing."""
    prepared = prepared_text(_wish(asked, alphabet), bar)
    if len(prepared.sentences) < LEAST:
        found = len(prepared.sentences)
        raise InputError(
            f"{asked.text}: {found} {'sentence' if found == 1 else 'different sentences'} can be read aloud, and a domain needs {LEAST} at "
            "least: some to learn from, some to choose on and some to test; add lines (a few hundred are better)"
        )
    return prepared


def parted(sentences: Sequence[Sentence], seed: int) -> dict[str, list[Sentence]]:
    """Test, dev and train: a fifth, a tenth and the rest, chosen by a digest of seed and sentence, so that no order of lines matters."""

    def rank(sentence: Sentence) -> str:
        return hashlib.sha256(f"{seed}/{sentence.text}".encode()).hexdigest()

    left, parts = sorted(sentences, key=rank), dict[str, list[Sentence]]()
    for name, (share, most) in _SHARES.items():
        count = min(most, max(_LEAST_OF_EACH, round(share * len(sentences))))
        parts[name], left = left[:count], left[count:]
    return parts | {"train": left}


def read(asked: Domain, prepared: Prepared, bar: Bar) -> Made:
    """Read all parts aloud into OUT/speech, one manifest with splits; what is there and whole is kept."""
    parts = parted(prepared.sentences, asked.seed)
    once, often = Diversity(), Diversity(clips=asked.clips, augment=asked.augment)
    plans = [
        *_planned("train", parts["train"], asked.cast.train, asked.seed, often),
        *_planned("dev", parts["dev"], asked.cast.dev, asked.seed, once),
        *_planned("test", parts["test"], asked.cast.test, asked.seed, once),
    ]
    made = spoken(_wish(asked, None), prepared, plans, bar)
    failed = {plan for plan, _ in made.failures}
    for part in parts:
        if all(plan in failed for plan in plans if plan.split == part):
            raise InputError(f"no reading of the {part} set succeeded; the first: {made.failures[0][1]}")
    return made


def read_general(asked: Domain, prepared: Prepared, alphabet: Collection[str] | None, bar: Bar) -> Path:
    """Sentences of everyday domains that the text does not have, read by the voices of the test into OUT/general."""
    from asrlife.recipe.recipe import folder
    from asrlife.text.grammar import Grammar

    grammar = Grammar.read(folder() / "embedded" / "grammar.yaml")
    own = {sentence.text.casefold() for sentence in prepared.sentences}
    share = -(-asked.general_sentences // len(GENERAL_FAMILIES))
    texts = [
        draft.text
        for family in GENERAL_FAMILIES
        for draft in islice((one for one in grammar.drafts(asked.seed, family) if one.text.casefold() not in own), share)
    ]
    sentences = [Sentence(_spelt(text, alphabet), text, 0) for text in texts]
    plans = _planned("test", sentences, asked.cast.test, asked.seed, Diversity())
    return _aloud(plans, asked.out / GENERAL, asked.workers, "reading aloud, general", bar)


def other_voices() -> tuple[str, ...]:
    """Voices of an engine that is not the one of the training speech: flite's or festival's, none where neither is installed."""
    for kind in ("flite", "festival"):
        if not ENGINES[kind].missing() and (names := ENGINES[kind].names()):
            return tuple(f"{kind}:{name}" for name in names[:3])
    return ()


def read_other(asked: Domain, prepared: Prepared, voices: Sequence[str], bar: Bar) -> Path:
    """The sentences of the test, read by another engine into OUT/other-engine."""
    test = parted(prepared.sentences, asked.seed)["test"]
    plans = _planned("test", test, voices, asked.seed, Diversity())
    return _aloud(plans, asked.out / OTHER, asked.workers, "reading aloud, another engine", bar)


def _aloud(plans: Sequence[Reading], folder: Path, workers: int, label: str, bar: Bar) -> Path:
    with bar(label, len(plans)) as advance:
        return read_aloud(plans, folder, advance, workers)


def _planned(part: str, sentences: Sequence[Sentence], voices: Sequence[str], seed: int, diversity: Diversity) -> list[Reading]:
    found = readings(sentences, voices, seed, diversity)
    return [replace(plan, name=f"{part}-{plan.name}", split=part) for plan in found]


def _spelt(text: str, alphabet: Collection[str] | None) -> str:
    from asrlife.text.spelling import fitted

    return text if alphabet is None else fitted(text, frozenset(alphabet))[0]


def _wish(asked: Domain, alphabet: Collection[str] | None) -> Wish:
    rules = Rules(alphabet=None if alphabet is None else frozenset(alphabet))
    diversity = Diversity(clips=asked.clips, augment=asked.augment)
    return Wish(
        asked.text, asked.out / SPEECH, asked.cast.all, asked.seed, diversity, rules, None, asked.column, asked.key, asked.most,
        asked.workers,
    )  # fmt: skip
