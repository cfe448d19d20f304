"""Text read aloud by the voices of asrlife, one FLAC file a reading, with a manifest beside them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrlife.audio.engines import parted
from asrlife.audio.voices import Prosody
from asrlife.data.augmentation import Augmentation, drawn
from asrlife.errors import InputError
from asrlife.files import atomic
from asrlife.models.speaking import ALL_ENGINES
from asrlife.recipe.reading import read_one, stale, start
from asrlife.text.entity import Entity
from asrlife.text.prepare import Sentence

VOICES = ("en-us+f3", "en-us+m3", "en-gb-x-rp+f2", "en-gb-scotland+m2")
MANIFEST = "transcripts.jsonl"
_SHARE = 400  # readings that are worth a process: espeak takes some 11 ms for one, a process 6 s until it can read


@dataclass(frozen=True)
class Diversity:
    """How readings differ: `clips` of each sentence, each by another voice while there are some, rates in words a minute, pitches 0..99,
    and the kinds of augmentation with their own noises and rooms, if any."""

    clips: int = 1
    rate: tuple[int, int] = (140, 190)
    pitch: tuple[int, int] = (30, 70)
    augment: tuple[str, ...] = ()
    noise: str | None = None
    room: str | None = None


@dataclass(frozen=True)
class Reading:
    """One sentence and how it is to be read: who, how fast (words a minute), how high (0..99), and what is done to it afterwards.

    `said` is what the voice reads where that is not the transcript `text`; `split` is what the reading is for, where that is settled.
    """

    name: str
    text: str
    voice: str
    prosody: Prosody
    said: str = ""
    augmentation: Augmentation = Augmentation()
    line: int | None = None
    entities: tuple[Entity, ...] = ()
    split: str = ""

    @property
    def file(self) -> str:
        """The audio file, relative to the manifest; its name changes with anything that changes its sound."""
        return f"audio/{self.name}.flac"


def readings(
    sentences: Sequence[str | Sentence], voices: Sequence[str] = VOICES, seed: int = 0, diversity: Diversity = Diversity()
) -> list[Reading]:
    """Give every clip a voice, a prosody and an augmentation that depend on the seed, the sentence's number and text, and the clip only."""
    plans = []
    for number, sentence in enumerate(sentences):
        one = Sentence(sentence, sentence, 0) if isinstance(sentence, str) else sentence
        left = list(voices)
        for clip in range(diversity.clips):
            place = f"{number}.{clip}" if clip else f"{number}"
            rng = random.Random(f"{seed}/{place}/{one.text}")
            voice, prosody = rng.choice(left), Prosody(rng.randint(*diversity.rate), rng.randint(*diversity.pitch))
            left = [other for other in left if other != voice] or list(voices)
            key = f"{seed}/{place}/{one.text}/augmentation"
            changed = drawn(diversity.augment, key, diversity.noise, diversity.room) if diversity.augment else Augmentation()
            plans.append(_reading(one, f"{number:05d}" + (f"-{clip}" if clip else ""), voice, prosody, changed))
    return plans


def _reading(sentence: Sentence, place: str, voice: str, prosody: Prosody, changed: Augmentation) -> Reading:
    said = "" if sentence.said == sentence.text else sentence.said
    sound = f"{said or sentence.text}|{voice}|{prosody.words_per_minute}|{prosody.pitch}"
    sound += f"|{json.dumps(changed.to_json(), sort_keys=True)}" if changed.to_json() else ""
    name = f"{place}-{hashlib.sha256(sound.encode()).hexdigest()[:8]}"
    return Reading(name, sentence.text, voice, prosody, said, changed, sentence.line or None, sentence.entities)


def check_voices(voices: Sequence[str]) -> None:
    """Raise InputError for the first voice, in alphabetical order, that cannot speak here."""
    for voice in sorted(set(voices)):
        engine, name = parted(voice, ALL_ENGINES)
        engine.check(name)


def read_aloud(
    plans: Sequence[Reading],
    folder: Path,
    advance: Callable[[], None] = lambda: None,
    workers: int = 1,
    failed: Callable[[Reading, str], None] | None = None,
) -> Path:
    """Write folder/audio/*.flac (16 kHz) and folder/transcripts.jsonl; audio that is there and whole is kept. Returns the manifest.

    With `workers` > 1 that many processes share the work; what is written does not depend on how many. A sound appears whole or not at
    all, the manifest last, so that a run that was killed goes on where it was. An unknown voice raises InputError before anything is
    written. A reading that fails raises it too, or, with `failed`, is told there with the reason and left out of the manifest.
    """
    check_voices([plan.voice for plan in plans])
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    stale(folder / "audio")
    rows = []
    for plan, (seconds, reason) in zip(plans, _read(plans, folder, _useful(plans, folder, workers)), strict=True):
        if reason and failed is None:
            raise InputError(reason)
        if reason and failed is not None:
            failed(plan, reason)
        else:
            rows.append(_row(plan, seconds))
        advance()
    with atomic(folder / MANIFEST, "w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return folder / MANIFEST


def _useful(plans: Sequence[Reading], folder: Path, workers: int) -> int:
    """Processes that would pay: few readings are made sooner than a process starts, and a network would be loaded in each."""
    if any(not parted(plan.voice, ALL_ENGINES)[0].prosody for plan in plans):
        return 1
    missing = sum(not (folder / plan.file).exists() for plan in plans)
    return max(1, min(workers, -(-missing // _SHARE)))


def _read(plans: Sequence[Reading], folder: Path, workers: int) -> Iterator[tuple[float, str]]:
    jobs = [(plan, folder) for plan in plans]
    if workers == 1:
        with _one_thread():
            yield from map(read_one, jobs)
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(workers, get_context("spawn"), start)
    try:
        yield from pool.map(read_one, jobs, chunksize=8)
    except BrokenProcessPool as error:
        fix = "run it again, with fewer --workers if memory is short: what is whole is kept"
        raise InputError(f"a process that read aloud was ended from outside; {fix}") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a process of a pool, so that no sum is taken in another order there."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(plan: Reading, seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {"id": plan.name, "audio": plan.file, "text": plan.text, "speaker": plan.voice, "origin": "synthetic"}
    row |= {"duration": round(seconds, 4), "words_per_minute": plan.prosody.words_per_minute, "pitch": plan.prosody.pitch}
    more: dict[str, Any] = {"said": plan.said, "augmentation": plan.augmentation.to_json(), "line": plan.line, "split": plan.split}
    more |= {"entities": [entity.to_json() for entity in plan.entities]}
    return row | {key: value for key, value in more.items() if value}
