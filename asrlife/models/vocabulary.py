"""The classes of a CTC head and what they spell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from asrlife.errors import InputError

WORD_START = "\u2581"  # sentencepiece's mark


@dataclass(frozen=True)
class Vocabulary:
    """What each class spells, in lower case: " " for the word delimiter, "" for the blank and other specials."""

    pieces: tuple[str, ...]
    blank: int

    @classmethod
    def read(cls, folder: Path, classes: int, blank: int) -> Vocabulary:
        """From vocab.json and tokenizer_config.json of a checkpoint; raises InputError where they are missing or do not fit the head."""
        indices = _indices(folder)
        specials = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "word_delimiter_token": "|"}
        specials |= _specials(folder)
        delimiter = specials.pop("word_delimiter_token")
        pieces = [""] * classes
        for token, index in indices.items():
            silent = token in specials.values() or index == blank
            if not silent and not 0 <= index < classes:
                raise InputError(f"{folder}/vocab.json: {token!r} is class {index} of {classes}: use the files of one checkpoint")
            if not silent:
                pieces[index] = " " if token == delimiter else token.lower()
        if not 0 <= blank < classes:
            raise InputError(f"{folder}/config.json: pad_token_id {blank}, the CTC blank, is none of {classes} classes: correct it")
        return cls(tuple(pieces), blank)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """The first class of each spelling."""
        return {piece: index for index, piece in reversed(tuple(enumerate(self.pieces))) if piece}

    @property
    def letters(self) -> frozenset[str]:
        """The characters that it can spell, in lower case, without the space."""
        return frozenset("".join(self.pieces).replace(WORD_START, "")) - {" "}

    def encode(self, text: str) -> list[int]:
        """Classes of a text letter by letter; raises InputError for letters the model does not have."""
        letters = " ".join(text.lower().split())
        unknown = sorted(set(letters) - set(self.ids))
        if unknown:
            raise InputError(f"the model cannot spell {' '.join(map(repr, unknown))} of {text!r}: normalise the text first")
        return [self.ids[letter] for letter in letters]

    def spell(self, labels: Sequence[int]) -> str:
        """Text of collapsed labels."""
        return " ".join("".join(self.pieces[label] for label in labels).replace(WORD_START, " ").split())


def _indices(folder: Path) -> Mapping[str, int]:
    path = folder / "vocab.json"
    if not path.is_file():
        raise InputError(f"{folder} has no vocab.json: add the vocabulary of the checkpoint (processor.save_pretrained writes it)")
    found = read_json(path)
    if not all(isinstance(index, int) for index in found.values()):
        raise InputError(f"{path} holds several vocabularies: keep the one of the language wanted, {{token: class}}")
    return found


def _specials(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        entries = read_json(folder / name) if (folder / name).is_file() else {}
        for key in ("pad_token", "unk_token", "bos_token", "eos_token", "word_delimiter_token"):
            token = entries.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            found |= {key: token} if isinstance(token, str) else {}
    return found


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object from a file; raises InputError naming the file."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): download or save the checkpoint again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(found).__name__}: download or save the checkpoint again")
    return found
