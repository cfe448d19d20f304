"""Sentences from a slot grammar: families of templates, everyday words, digit strings and invented words."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from asrlife.errors import InputError
from asrlife.text.entity import Entity

SLOT = re.compile(r"\{(\w+)\}")
BUILT_IN = ("digits", "words", "invented")  # families that need no templates
_MISSES = 1000  # draws in a row that were said before: the grammar seems exhausted
_ONSETS = "b c d f g h j k l m n p r s t v w br cl cr dr fl gr pl pr sl sp st tr sh ch th".split()
_NUCLEI = "a e i o u ee oo ai".split()
_CODAS = ["", "", "n", "t", "m", "l", "s", "ck", "p", "nd", "st"]


@dataclass(frozen=True)
class Drafted:
    """A sentence, its family, and which of its words are entities."""

    text: str
    family: str
    entities: tuple[Entity, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSONL keeps it."""
        return {"text": self.text, "family": self.family, "entities": [entity.to_json() for entity in self.entities]}


class Grammar(BaseModel):
    """Templates with slots; `sample` draws one sentence of a family drawn by its share.

    `entities` names kinds of entities and the slots that make them, as `drug: [antibiotic, painkiller]`: whatever fills such a slot,
    slots inside it and all, is an entity. Of slots within slots the outermost counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    families: dict[str, float]
    sentences: dict[str, list[str]]
    slots: dict[str, list[str]] = {}
    words: str = ""
    entities: dict[str, list[str]] = {}

    @classmethod
    def read(cls, path: Path) -> Grammar:
        """Read a YAML grammar; raises InputError for what is no grammar, unknown keys, and slots or families that are not there."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); name a YAML grammar") from error
        except yaml.YAMLError as error:
            raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
        except ValidationError as error:
            raise InputError(f"{path}: {_fault(error)}") from error

    @model_validator(mode="after")
    def _whole(self) -> Grammar:
        families = {**self.sentences, "digits": self.slots.get("digit"), "words": self.words, "invented": True}
        for family, share in self.families.items():
            if not families.get(family):
                raise ValueError(f"the family {family!r} has nothing to say: give it sentences (digits: the slot digit, words: words)")
            if not share > 0:
                raise ValueError(f"the share of the family {family!r} is {share}, it must be above 0")
        if not self.families:
            raise ValueError("there are no families: name one with its share, as in families: {command: 1}")
        for place, texts in (*self.sentences.items(), *self.slots.items()):
            self._check(place, texts)
        for label, slots in self.entities.items():
            for slot in slots:
                if slot not in self.slots:
                    raise ValueError(f"entity {label!r} names the slot {slot!r}, which is not there")
        for slot in self.slots:
            self._check_end(slot, ())
        return self

    def sample(self, rng: random.Random, family: str | None = None) -> str:
        """Draw one sentence, of `family` where it is given."""
        return self.draw(rng, family).text

    def draw(self, rng: random.Random, family: str | None = None) -> Drafted:
        """Draw one sentence with its entities, of `family` where it is given; raises InputError for a family that is not there."""
        if family is not None and family not in self.families:
            raise InputError(f"the grammar has no family {family!r}; known: {', '.join(self.families)}")
        name = family or rng.choices(list(self.families), list(self.families.values()))[0]
        if name in self.sentences:
            return _drafted(list(self._pieces(rng.choice(self.sentences[name]), rng)), name)
        if name == "digits":
            return Drafted(" ".join(rng.choice(self.slots["digit"]) for _ in range(rng.randint(1, 7))), name)
        if name == "invented":
            return Drafted(" ".join(_invent(rng) for _ in range(rng.randint(1, 4))), name)
        return Drafted(" ".join(rng.choice(self.words.split()) for _ in range(rng.randint(1, 7))), name)

    def stream(self, seed: int, family: str | None = None) -> Iterator[str]:
        """Yield distinct sentences for ever, or until the grammar seems exhausted."""
        return (drafted.text for drafted in self.drafts(seed, family))

    def drafts(self, seed: int, family: str | None = None) -> Iterator[Drafted]:
        """Yield distinct sentences with their entities for ever, or until the grammar seems exhausted."""
        rng, seen, misses = random.Random(seed), set[str](), 0
        while misses < _MISSES:
            drafted = self.draw(rng, family)
            misses = misses + 1 if drafted.text in seen else 0
            if not misses:
                seen.add(drafted.text)
                yield drafted

    def vocabulary(self) -> set[str]:
        """All words the grammar can say, invented ones aside."""
        texts = [t for group in (*self.sentences.values(), *self.slots.values()) for t in group]
        return {w for t in texts for w in SLOT.sub(" ", t).split()} | set(self.words.split())

    def _pieces(self, template: str, rng: random.Random, label: str = "") -> Iterator[tuple[str, str]]:
        """The template's text in pieces, each with the label of the entity it belongs to, or none; slots are drawn from left to right."""
        labels: Mapping[str, str] = {slot: kind for kind, slots in self.entities.items() for slot in slots}
        at = 0
        for match in SLOT.finditer(template):
            yield template[at : match.start()], label
            at, slot = match.end(), match[1]
            own = "" if label else labels.get(slot, "")
            filled = list(self._pieces(rng.choice(self.slots[slot]), rng, label or own))
            yield from [("".join(text for text, _ in filled), own)] if own else filled
        yield template[at:], label

    def _check(self, place: str, texts: list[str]) -> None:
        if not texts:
            raise ValueError(f"{place!r} is an empty list")
        for text in texts:
            for slot in SLOT.findall(text):
                if slot not in self.slots:
                    raise ValueError(f"{place!r} uses the slot {{{slot}}}, which is not there, in {text!r}")

    def _check_end(self, slot: str, above: tuple[str, ...]) -> None:
        if slot in above:
            raise ValueError(f"the slot {slot!r} holds itself ({' > '.join((*above, slot))}), so that no sentence ends")
        for inner in {name for text in self.slots[slot] for name in SLOT.findall(text)}:
            self._check_end(inner, (*above, slot))


def _drafted(pieces: list[tuple[str, str]], family: str) -> Drafted:
    """Words between spaces; those that an entity's piece touches are its own."""
    raw = "".join(text for text, _ in pieces)
    words, entities, at = [match.span() for match in re.finditer(r"\S+", raw)], list[Entity](), 0
    for text, label in pieces:
        end = at + len(text)
        touched = [place for place, (start, stop) in enumerate(words) if start < end and stop > at] if label else []
        if touched:
            entities.append(Entity(label, " ".join(text.split()), touched[0], touched[-1] + 1))
        at = end
    return Drafted(" ".join(raw.split()), family, tuple(entities))


def _fault(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {place!r}; known: {', '.join(Grammar.model_fields)}"
    if fault["type"] == "string_type" and isinstance(fault["input"], (bool, int, float)):
        return f"{place} is {fault['input']!r}, not text: YAML reads on, off, yes, no and numbers so; put it in quotes"
    return f"{place + ': ' if place else ''}{fault['msg'].removeprefix('Value error, ')}"


def _invent(rng: random.Random) -> str:
    syllables = (rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(rng.randint(1, 3)))
    return "".join(syllables)
