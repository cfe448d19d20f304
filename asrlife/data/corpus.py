"""Utterances in order, and the JSONL manifests that keep them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from asrlife.audio.read import write as write_audio
from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Origin, Utterance
from asrlife.errors import InputError
from asrlife.files import atomic, read_text

_OPTIONAL = ("text", "speaker", "domain", "split")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Utterances, the manifest they came from, and what was wrong with rows that had to be left out."""

    utterances: tuple[Utterance, ...]
    source: Path | None = None
    problems: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    def __len__(self) -> int:
        return len(self.utterances)

    @classmethod
    def read(cls, path: Path | str, check: bool = True) -> Corpus:
        """Read a manifest: one JSON object a line with "id", "audio" (relative to the manifest) and optionally "text", "speaker", "domain",
        "split", "origin", "duration" or "dur" (s); other keys are ignored.

        With `check`, rows whose audio file is missing are left out and named in `problems`.
        Raises InputError, with file and line, for a broken line and for an id that occurs twice.
        """
        path = Path(path)
        utterances, problems, lines = [], [], dict[str, int]()
        for number, row in _rows(path):
            where = f"{path}:{number}"
            utterance = _utterance(row, path.parent, where)
            if utterance.id in lines:
                raise InputError(f"{where}: id {utterance.id!r} is already on line {lines[utterance.id]}; give each utterance its own")
            lines[utterance.id] = number
            if check and isinstance(utterance.audio, Path) and not utterance.audio.is_file():
                problems.append(f"{where}: {utterance.id}: no audio file {utterance.audio}; left out")
            else:
                utterances.append(utterance)
        if not lines:
            raise InputError(f"{path}: holds no utterances; write one JSON object a line")
        return cls(tuple(utterances), path, tuple(problems))

    def write(self, path: Path | str) -> None:
        """Write a manifest; sound that lives in memory goes to 16-bit FLAC files in the folder "audio" beside it."""
        path = Path(path)
        lines = [json.dumps(_row(utterance, path.parent), ensure_ascii=False) for utterance in self]
        with atomic(path, "w") as file:
            file.writelines(f"{line}\n" for line in lines)

    def split(self, name: str) -> Corpus:
        """The utterances of one split; raises InputError, naming the known ones, where there is none."""
        chosen = tuple(u for u in self if u.split == name)
        if not chosen:
            known = ", ".join(sorted({u.split for u in self if u.split})) or "none are marked"
            raise InputError(f"{self.source or 'the corpus'}: no utterances of split {name!r}; splits: {known}")
        return replace(self, utterances=chosen)

    def limit(self, count: int) -> Corpus:
        """The first `count` utterances."""
        if count < 1:
            raise InputError(f"the limit is {count}; it must be at least 1")
        return replace(self, utterances=self.utterances[:count])


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = read_text(path, "manifest")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                cause = f"{error.msg} at column {error.colno}"
                raise InputError(f"{path}:{number}: broken line ({cause}); write one JSON object a line") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: broken line (a {type(row).__name__}, no object); write one JSON object a line")
            yield number, row


def _utterance(row: Mapping[str, Any], folder: Path, where: str) -> Utterance:
    for key in ("id", "audio"):
        if not isinstance(row.get(key), str) or not row[key]:
            raise InputError(f'{where}: broken line ("{key}" is missing or no text); every row needs "id" and "audio"')
    for key in _OPTIONAL:
        if not isinstance(row.get(key), (str, type(None))):
            raise InputError(f'{where}: broken line ("{key}" is {row[key]!r}, not text); put it in quotes')
    origin = row.get("origin", "real")
    if origin not in ("real", "synthetic"):
        raise InputError(f'{where}: broken line ("origin" is {origin!r}); say "real" or "synthetic"')
    known = {key: cast("str | None", row.get(key)) for key in _OPTIONAL}
    return Utterance(row["id"], folder / row["audio"], **known, origin=cast(Origin, origin), duration=_duration(row, where))


def _duration(row: Mapping[str, Any], where: str) -> float | None:
    value = row.get("duration", row.get("dur"))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise InputError(f'{where}: broken line ("duration" is {value!r}); give seconds, or leave it out')
    return float(value)


def _row(utterance: Utterance, folder: Path) -> dict[str, Any]:
    if isinstance(utterance.audio, Waveform):
        audio = Path("audio") / f"{quote(utterance.id, safe='')}.flac"
        write_audio(folder / audio, utterance.audio)
        duration: float | None = round(utterance.audio.duration, 3)
    else:
        audio, duration = Path(os.path.relpath(utterance.audio, folder)), utterance.duration
    row = {"id": utterance.id, "audio": audio.as_posix(), "duration": duration, "origin": utterance.origin}
    row |= {key: getattr(utterance, key) for key in _OPTIONAL}
    return {key: value for key, value in row.items() if value is not None}
