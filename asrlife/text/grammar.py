"""Sentences from a slot grammar: families of templates, everyday words, digit strings and invented words."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

SLOT = re.compile(r"\{(\w+)\}")
_ONSETS = "b c d f g h j k l m n p r s t v w br cl cr dr fl gr pl pr sl sp st tr sh ch th".split()
_NUCLEI = "a e i o u ee oo ai".split()
_CODAS = ["", "", "n", "t", "m", "l", "s", "ck", "p", "nd", "st"]


class Grammar(BaseModel):
    """Templates with slots; `sample` draws one sentence of a family drawn by its share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    families: dict[str, float]
    sentences: dict[str, list[str]]
    slots: dict[str, list[str]]
    words: str

    @classmethod
    def read(cls, path: Path) -> Grammar:
        """Read a YAML grammar; unknown keys raise."""
        return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))

    def sample(self, rng: random.Random, family: str | None = None) -> str:
        """Draw one sentence, of `family` where it is given."""
        name = family or rng.choices(list(self.families), list(self.families.values()))[0]
        if name in self.sentences:
            return self._fill(rng.choice(self.sentences[name]), rng)
        if name == "digits":
            return " ".join(rng.choice(self.slots["digit"]) for _ in range(rng.randint(1, 7)))
        if name == "invented":
            return " ".join(_invent(rng) for _ in range(rng.randint(1, 4)))
        return " ".join(rng.choice(self.words.split()) for _ in range(rng.randint(1, 7)))

    def stream(self, seed: int, family: str | None = None) -> Iterator[str]:
        """Yield distinct sentences for ever, or until the grammar seems exhausted."""
        rng, seen, misses = random.Random(seed), set[str](), 0
        while misses < 1000:
            sentence = self.sample(rng, family)
            misses = misses + 1 if sentence in seen else 0
            if not misses:
                seen.add(sentence)
                yield sentence

    def vocabulary(self) -> set[str]:
        """All words the grammar can say, invented ones aside."""
        texts = [t for group in (*self.sentences.values(), *self.slots.values()) for t in group]
        return {w for t in texts for w in SLOT.sub(" ", t).split()} | set(self.words.split())

    def _fill(self, template: str, rng: random.Random) -> str:
        while match := SLOT.search(template):
            value = rng.choice(self.slots[match[1]])
            template = template[: match.start()] + value + template[match.end() :]
        return " ".join(template.split())


def _invent(rng: random.Random) -> str:
    syllables = (rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(rng.randint(1, 3)))
    return "".join(syllables)
