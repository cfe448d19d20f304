"""What models are shown: utterances of manifests, or lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.errors import InputError

if TYPE_CHECKING:
    from asrlife.data.utterance import Utterance


@dataclass(frozen=True, eq=False)
class Exhibits:
    """Utterances, or none and texts alone; `texts` is None where not every utterance has one."""

    utterances: tuple[Utterance, ...]
    texts: tuple[str, ...] | None
    note: dict[str, Any]

    def __len__(self) -> int:
        return len(self.utterances) or len(self.texts or ())


def read(files: Sequence[Path], split: str | None = None, limit: int | None = None) -> Exhibits:
    """The utterances of JSONL manifests, or the lines of text files that are not blank, the first `limit` of each file.

    Raises InputError for a file that cannot be read or holds nothing, audio that is missing, and manifests mixed with texts.
    """
    note = {"files": [path.name for path in files], "split": split, "limit": limit}
    plain = [path for path in files if path.suffix in {".txt", ".text"}]
    if plain and len(plain) < len(files):
        raise InputError(f"{plain[0]} is text and {next(p for p in files if p not in plain)} a manifest: give data of one kind")
    if plain:
        if split is not None:
            raise InputError(f"{plain[0]} is text, whose lines have no split: leave split {split!r} out")
        lines = tuple(line for path in files for line in _lines(path)[:limit])
        return Exhibits((), lines, note | {"examples": len(lines)})
    utterances = tuple(utterance for path in files for utterance in _utterances(path, split, limit))
    texts = tuple(str(utterance.text) for utterance in utterances) if all(utterance.text for utterance in utterances) else None
    return Exhibits(utterances, texts, note | {"examples": len(utterances)})


def of_texts(texts: Sequence[str]) -> Exhibits:
    """Texts in memory."""
    return Exhibits((), tuple(texts), {"examples": len(texts)})


def of_utterances(utterances: Sequence[Utterance]) -> Exhibits:
    """Utterances in memory."""
    texts = tuple(str(utterance.text) for utterance in utterances) if all(utterance.text for utterance in utterances) else None
    return Exhibits(tuple(utterances), texts, {"examples": len(utterances)})


def _utterances(path: Path, split: str | None, limit: int | None) -> tuple[Utterance, ...]:
    from asrlife.data.corpus import Corpus

    corpus = Corpus.read(path)
    if corpus.problems:
        raise InputError(corpus.problems[0].replace("; left out", "; correct the manifest"))
    corpus = corpus if split is None else corpus.split(split)
    return (corpus if limit is None else corpus.limit(limit)).utterances


def _lines(path: Path) -> list[str]:
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}): give a UTF-8 file, one text a line") from error
    if not found:
        raise InputError(f"{path} holds no text: write one a line")
    return found
