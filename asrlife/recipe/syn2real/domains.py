"""The domains of an experiment: real speech, split into train, dev and test, and the texts of its training part read aloud."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.recipe.schema import Settings

if TYPE_CHECKING:
    from asrlife.recipe.registry import Place

MOST: Mapping[Split, int] = {"train": 60, "dev": 20, "test": 40}
_SHARES = (0.7, 0.85)  # train, train and dev, of a manifest without splits
_PAUSE = (0.02, 0.2)  # s between joined recordings
_RATE = 16_000
Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


class Domain(Settings):
    """Real speech of one domain: rows of `manifest` whose text matches `where`, at most `most` of each split.

    `join` puts that many recordings of one speaker together, drawn with `seed`, as of single digits. A manifest that names no splits is
    parted by ids.
    """

    manifest: str
    where: str = ""
    join: NonNegativeInt = 0
    most: Mapping[Split, PositiveInt] = MOST
    seed: int = 0

    @field_validator("where")
    @classmethod
    def _pattern(cls, where: str) -> str:
        try:
            re.compile(where)
        except re.error as error:
            raise ValueError(f"{where!r} is no regular expression: {error}") from error
        return where


@dataclass(frozen=True)
class Heard:
    """One domain: its real speech by split and, once it was read aloud, the synthetic speech of the texts of its training part."""

    name: str
    real: dict[Split, Corpus]
    synthetic: Corpus

    @property
    def texts(self) -> tuple[str, ...]:
        """What is said in the training part; all that a strict experiment may know of a target."""
        return tuple(str(utterance.text) for utterance in self.real["train"])

    def told(self) -> dict[str, Any]:
        """What there is, for reports, and the ids that tell it from something else."""
        sets: dict[str, Corpus] = {"synthetic": self.synthetic}
        sets.update(self.real.items())
        count = {name: len(corpus) for name, corpus in sets.items()}
        seconds = {name: round(sum(u.waveform().duration for u in corpus), 1) for name, corpus in sets.items()}
        names = "\n".join(u.id for corpus in sets.values() for u in corpus)
        return {"utterances": count, "seconds": seconds, "digest": _digest(names)[:16]}


def real_of(name: str, domain: Domain, place: Place) -> dict[Split, Corpus]:
    """The splits of a domain's real speech, in memory; raises InputError where one is empty."""
    corpus = Corpus.read(place.path(domain.manifest))
    wanted = [u for u in corpus if (u.text or "").strip() and re.search(domain.where, str(u.text))]
    found: dict[Split, Corpus] = {}
    for split in SPLITS:
        rows = [replace(u, split=split, domain=name) for u in wanted if (u.split or parted(u.id)) == split]
        rows.sort(key=lambda u: _digest(f"{domain.seed}/{u.id}"))
        count = domain.most.get(split, len(rows))
        chosen = islice(joined(rows, domain, name, split), count) if domain.join else rows[:count]
        utterances = tuple(replace(u, audio=u.waveform()) for u in chosen)
        if not utterances:
            raise InputError(f"domain {name}: {domain.manifest} holds nothing of split {split!r} that matches {domain.where!r}")
        found[split] = Corpus(utterances, corpus.source)
    return found


def joined(rows: Sequence[Utterance], domain: Domain, name: str, split: str) -> Iterable[Utterance]:
    """Recordings of one speaker in a row with short pauses, without end; each is used once before one comes again."""
    rng = random.Random(f"{domain.seed}/{name}/{split}")
    speakers: dict[str, list[Utterance]] = {}
    for row in rows:
        speakers.setdefault(row.speaker or "", []).append(row)
    left: dict[str, list[Utterance]] = {speaker: [] for speaker in speakers}
    number = 0
    while rows:
        speaker = sorted(speakers)[number % len(speakers)]
        if len(left[speaker]) < domain.join:
            left[speaker] += rng.sample(speakers[speaker], len(speakers[speaker]))
        parts, left[speaker] = left[speaker][: domain.join], left[speaker][domain.join :]
        yield _row(parts, f"{name}-{split}-{number:04d}", rng)
        number += 1


def _row(parts: Sequence[Utterance], identifier: str, rng: random.Random) -> Utterance:
    pieces: list[np.ndarray] = []
    for part in parts:
        pieces += [part.waveform(_RATE).samples, np.zeros(int(_RATE * rng.uniform(*_PAUSE)), np.float32)]
    return replace(parts[0], id=identifier, audio=Waveform(np.concatenate(pieces), _RATE), text=" ".join(str(p.text) for p in parts))


def parted(identifier: str) -> Split:
    """The split of an utterance of a manifest that names none: of 100, some 70 train, 15 dev, 15 test, by a digest of the id."""
    place = int(_digest(identifier)[:8], 16) / 16**8
    return "train" if place < _SHARES[0] else "dev" if place < _SHARES[1] else "test"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Voices(Settings):
    """Who reads the texts, `clips` of each by another voice, with the kinds of `augment`.

    `say` is what is read in place of words that voices take for others: "a" is the article to them, and "ay" the letter.
    """

    voices: tuple[str, ...] = Field(default=("en-us+f3", "en-us+m3", "en-gb-x-rp+f2", "en-gb-scotland+m2"), min_length=1)
    clips: PositiveInt = 1
    augment: tuple[str, ...] = ()
    seed: int = 0
    say: Mapping[str, str] = {}

    def spoken(self, text: str) -> str:
        """What a voice is given for a text."""
        return " ".join(self.say.get(word, word) for word in text.split())


def heard(name: str, domain: Domain, voices: Voices, place: Place, folder: str) -> Heard:
    """Real speech of a domain, and its training texts read aloud into out:FOLDER/NAME; sound that is there is kept."""
    real = real_of(name, domain, place)
    synthetic = _read([str(u.text) for u in real["train"]], voices, place, f"{folder}/{name}", name)
    return Heard(name, real, Corpus(tuple(replace(u, domain=name, split="train") for u in synthetic)))


def said(domain: Heard, voices: Sequence[str], how: Voices, place: Place, folder: str) -> tuple[Utterance, ...]:
    """The texts of a domain's test read aloud by other voices, each once."""
    others = how.model_copy(update={"voices": tuple(voices), "clips": 1, "augment": ()})
    texts = [str(u.text) for u in domain.real["test"]]
    return tuple(_read(texts, others, place, f"{folder}/{domain.name}-test", domain.name))


def _read(texts: Sequence[str], voices: Voices, place: Place, folder: str, label: str) -> list[Utterance]:
    from asrlife.audio.engines import expanded
    from asrlife.recipe.aloud import cores
    from asrlife.recipe.speech import Diversity, read_aloud, readings
    from asrlife.text.prepare import Sentence

    sentences = [Sentence(text, voices.spoken(text), 0) for text in texts]
    plans = readings(sentences, expanded(voices.voices), voices.seed, Diversity(clips=voices.clips, augment=voices.augment))
    with place.bar(f"{label}: reading aloud", len(plans)) as advance:
        manifest = read_aloud(plans, place.out / folder, advance, cores())
    return [replace(u, id=f"synthetic-{label}-{u.id}", audio=u.waveform()) for u in Corpus.read(manifest)]
