"""Who says what: for each name and seed the utterances that teach it and those that test it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field, PositiveInt

from asrlife.data.utterance import Utterance
from asrlife.recipe.schema import Settings
from asrlife.recipe.teach_a_name.said import utterance


class Cast(Settings):
    """`names` are {name: words that sound like it}; `dev` are those of them that settings are chosen on, reported on the others.

    A name is taught by `takes` utterances, each of another of the `taught` sentences and of the `voices`, and tested in each of the `other`
    sentences, by the voices `tests`, which teach nothing. `count` is how many of the other names are reported on, all unless given.
    """

    names: Mapping[str, tuple[str, ...]] = Field(min_length=2)
    dev: tuple[str, ...] = Field(min_length=1)
    taught: tuple[str, ...] = Field(min_length=1)
    other: tuple[str, ...] = Field(min_length=1)
    voices: tuple[str, ...] = Field(min_length=1)
    tests: tuple[str, ...] = Field(min_length=1)
    takes: PositiveInt = 3
    count: PositiveInt | None = None

    def reported(self) -> tuple[str, ...]:
        """The names that nothing is chosen on, the first `count` of them."""
        return tuple(name for name in self.names if name not in self.dev)[: self.count]


@dataclass(frozen=True, eq=False)
class Trial:
    """One name and one seed: `taught` by them, heard again in `other` sentences by other voices, and never said in `alike`."""

    name: str
    seed: int
    taught: tuple[Utterance, ...]
    other: tuple[Utterance, ...]
    alike: tuple[Utterance, ...]


def trial(cast: Cast, name: str, seed: int) -> Trial:
    """The seed draws which sentences and voices teach, and how each reading sounds."""
    rng = random.Random(f"{seed}/{name}")
    sentences, voices = _drawn(cast.taught, cast.takes, rng), _drawn(cast.voices, cast.takes, rng)
    taught = tuple(utterance(text.format(name=name), voice, seed) for text, voice in zip(sentences, voices, strict=True))
    other = tuple(utterance(text.format(name=name), voice, seed) for text in cast.other for voice in cast.tests)
    words = [(word, rng.choice(cast.other), rng.choice(cast.tests)) for word in cast.names[name]]
    return Trial(name, seed, taught, other, tuple(utterance(text.format(name=word), voice, seed) for word, text, voice in words))


def _drawn(given: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` of them, none twice before each has had its turn."""
    found = list[str]()
    while len(found) < count:
        found += rng.sample(list(given), len(given))
    return found[:count]
