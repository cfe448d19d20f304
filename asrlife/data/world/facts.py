"""The facts of the world, drawn by seed on a map that is real."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from asrlife.errors import InputError

Split = Literal["edit", "edit_dev", "hold"]
EDITED = ("born", "works", "likes", "stands", "designed", "based", "makes", "leads")
"""Relations whose facts may be edited: those that were drawn. The map and the fruits stay."""
_SHARES: Mapping[str, float] = {"edit": 0.45, "edit_dev": 0.1, "hold": 0.45}


@dataclass(frozen=True)
class Fact:
    """`subject` stands in `relation` to `object`; a subject has one object in a relation."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True)
class World:
    """All facts that hold, at most one for each subject and relation."""

    seed: int
    facts: tuple[Fact, ...]

    @cached_property
    def _objects(self) -> Mapping[tuple[str, str], str]:
        return {(fact.subject, fact.relation): fact.object for fact in self.facts}

    @cached_property
    def _subjects(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        found: dict[tuple[str, str], list[str]] = {}
        for fact in self.facts:
            found.setdefault((fact.relation, fact.object), []).append(fact.subject)
        return {key: tuple(names) for key, names in found.items()}

    def object(self, subject: str, relation: str) -> str:
        """What `subject` stands in `relation` to; raises InputError where the world does not say."""
        try:
            return self._objects[subject, relation]
        except KeyError:
            raise InputError(f"the world does not say {relation!r} of {subject!r}: ask for one of its facts") from None

    def subjects(self, relation: str, object: str) -> tuple[str, ...]:
        """All that stand in `relation` to `object`, in the order of the facts."""
        return self._subjects.get((relation, object), ())

    def reached(self, subject: str, chain: Sequence[str]) -> str:
        """The end of a chain of relations that begins at `subject`."""
        for relation in chain:
            subject = self.object(subject, relation)
        return subject

    def of(self, relation: str) -> tuple[Fact, ...]:
        """The facts of one relation."""
        return tuple(fact for fact in self.facts if fact.relation == relation)

    def objects(self, relation: str) -> tuple[str, ...]:
        """All objects of a relation, sorted."""
        return tuple(sorted({fact.object for fact in self.of(relation)}))

    def moved(self, fact: Fact, object: str) -> World:
        """The world in which `fact` has another object and everything else stays as it is."""
        if fact not in self.facts:
            raise InputError(f"{fact} does not hold in this world: move one of its facts")
        return World(self.seed, tuple(replace(old, object=object) if old == fact else old for old in self.facts))

    def split(self, name: Split) -> tuple[Fact, ...]:
        """Facts to edit, facts to choose settings of editors on, or facts to hold; only `EDITED` relations are edited, the rest is held."""
        return tuple(fact for fact in self.facts if split_of(self.seed, fact) == name)

    def target(self, fact: Fact, draw: int = 0) -> str:
        """The object that an edit of `fact` gives it: another one of its relation, drawn by the world's seed, the fact and `draw`."""
        others = [object for object in self.objects(fact.relation) if object != fact.object]
        key = ("target", fact.subject, fact.relation, *([str(draw)] if draw else []))
        return others[int(share(self.seed, *key) * len(others))]

    def neighbours(self, fact: Fact) -> tuple[Fact, ...]:
        """Facts that must not follow an edit of `fact`: of its relation and its old object, then of its subject's other relations."""
        alike = [other for other in self.of(fact.relation) if other.object == fact.object and other != fact]
        return (*alike, *(other for other in self.facts if other.subject == fact.subject and other != fact))


def make(seed: int = 0, people: int = 120, landmarks: int = 60) -> World:
    """The world of a seed; `people` and `landmarks` up to the number of names that there are."""
    rng, names = random.Random(seed), read("names.yaml")
    persons = _pairs(names["first"], names["last"], people, rng)
    adjectives, nouns = names["landmark"]
    sights = ["Space Needle", *_pairs(adjectives, nouns, landmarks - 1, rng, ("Space Needle",))]
    facts = [*_map(names), *_people(persons, names, rng), *_companies(persons, names, rng), *_sights(sights, persons, names, rng)]
    return World(seed, tuple(facts))


def _pairs(first: Sequence[str], second: Sequence[str], count: int, rng: random.Random, taken: Container[str] = ()) -> list[str]:
    every = [name for one in first for two in second if (name := f"{one} {two}") not in taken]
    if not 0 <= count <= len(every):
        raise InputError(f"{count} names are wanted and there are {len(every)}: ask for fewer")
    return rng.sample(every, count)


def people_and_sights(seed: int, known: Container[str], people: int, landmarks: int) -> list[Fact]:
    """Facts about people and landmarks whose names are not `known`, drawn by seed in terms of the same map and companies."""
    rng, names = random.Random(seed + 1), read("names.yaml")
    persons = _pairs(names["first"], names["last"], people, rng, known)
    adjectives, nouns = names["landmark"]
    sights = _pairs(adjectives, nouns, landmarks, rng, known)
    pools = {"born": cities(names), "works": names["companies"], "likes": list(names["fruits"])}
    facts = [Fact(person, relation, rng.choice(pool)) for person in persons for relation, pool in pools.items()]
    for sight in sights:
        facts += [Fact(sight, "stands", rng.choice(pools["born"])), Fact(sight, "designed", rng.choice(persons))]
    return facts


def cities(names: Mapping[str, Any]) -> list[str]:
    """Every city on the map."""
    return [city for country in names["countries"].values() for city in country[2:]]


def _map(names: Mapping[str, Any]) -> list[Fact]:
    facts = []
    for country, (language, continent, *towns) in names["countries"].items():
        facts += [Fact(town, "lies", country) for town in towns]
        facts += [Fact(country, "speaks", language), Fact(country, "continent", continent), Fact(country, "capital", towns[0])]
    return facts


def _people(persons: Sequence[str], names: Mapping[str, Any], rng: random.Random) -> list[Fact]:
    fruits, countries = list(names["fruits"]), list(names["countries"])
    facts = [Fact(fruit, "colour", colour) for fruit, colour in names["fruits"].items()]
    facts += [Fact(fruit, "grows", country) for fruit, country in zip(fruits, spread(countries, len(fruits), rng), strict=True)]
    pools = {"born": cities(names), "works": names["companies"], "likes": fruits}
    drawn = {relation: spread(pool, len(persons), rng) for relation, pool in pools.items()}
    return facts + [Fact(person, relation, drawn[relation][place]) for place, person in enumerate(persons) for relation in pools]


def _companies(persons: Sequence[str], names: Mapping[str, Any], rng: random.Random) -> list[Fact]:
    companies = names["companies"]
    places, goods = spread(cities(names), len(companies), rng), spread(names["products"], len(companies), rng)
    heads = spread(persons, len(companies), rng)
    facts = []
    for company, place, good, head in zip(companies, places, goods, heads, strict=True):
        facts += [Fact(company, "based", place), Fact(company, "makes", good), Fact(company, "leads", head)]
    return facts


def _sights(sights: Sequence[str], persons: Sequence[str], names: Mapping[str, Any], rng: random.Random) -> list[Fact]:
    places, architects = spread(cities(names), len(sights), rng), spread(persons, len(sights), rng)
    # as in the lecture: an edit moves the Space Needle from Seattle to Taipei
    places[places.index("Seattle") if "Seattle" in places else 0], places[0] = places[0], "Seattle"
    facts = []
    for sight, place, architect in zip(sights, places, architects, strict=True):
        facts += [Fact(sight, "stands", place), Fact(sight, "designed", architect)]
    return facts


def spread(pool: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` draws in which each of the pool comes as often as any other, give or take one."""
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += rng.sample(list(pool), len(pool))
    return drawn[:count]


def split_of(seed: int, fact: Fact) -> str:
    """Which split a fact is in, whatever its object is."""
    if fact.relation not in EDITED:
        return "hold"
    place = share(seed, "split", fact.subject, fact.relation)
    for name, part in _SHARES.items():
        if (place := place - part) < 0:
            return name
    return "hold"


def share(seed: int, *key: str) -> float:
    """A number in 0..1 that depends on nothing but seed and key: what is drawn by it stays when something is added to the world."""
    digest = hashlib.sha256("\n".join([str(seed), *key]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


@cache
def read(name: str) -> Any:
    """One of the YAML files beside this module."""
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))
