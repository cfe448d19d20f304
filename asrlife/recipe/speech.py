"""Text read aloud by the voices of asrlife, one FLAC file a sentence, with a manifest beside them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asrlife.audio.read import write
from asrlife.audio.speak import speak
from asrlife.audio.voices import Prosody, espeak, has_flite
from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.files import atomic
from asrlife.recipe.names import nearest

VOICES = ("en-us+f3", "en-us+m3", "en-gb-x-rp+f2", "en-gb-scotland+m2")
LANGUAGES = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-gbclan")
FLITE = ("flite:slt", "flite:rms", "flite:awb", "flite:kal16", "flite:kal")
_PEAK = 0.5  # -6 dBFS, so that resampling never clips
MANIFEST = "transcripts.jsonl"


@dataclass(frozen=True)
class Reading:
    """One sentence and how it is to be read: who, how fast (words a minute), how high (0..99)."""

    name: str
    text: str
    voice: str
    prosody: Prosody

    @property
    def file(self) -> str:
        """The audio file, relative to the manifest; its name changes with anything that changes its sound."""
        return f"audio/{self.name}.flac"


def readings(sentences: Sequence[str], voices: Sequence[str] = VOICES, seed: int = 0) -> list[Reading]:
    """Give every sentence a voice and a prosody that depend on the seed, its number and its text only."""
    plans = []
    for number, text in enumerate(sentences):
        rng = random.Random(f"{seed}/{number}/{text}")
        voice, prosody = rng.choice(list(voices)), Prosody(rng.randint(140, 190), rng.randint(30, 70))
        sound = f"{text}|{voice}|{prosody.words_per_minute}|{prosody.pitch}"
        plans.append(Reading(f"{number:05d}-{hashlib.sha256(sound.encode()).hexdigest()[:8]}", text, voice, prosody))
    return plans


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file that are not blank."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    if not lines:
        raise InputError(f"{path}: has no lines to read aloud")
    return lines


def read_aloud(plans: Sequence[Reading], folder: Path, advance: Callable[[], None] = lambda: None) -> Path:
    """Write folder/audio/*.flac (16 kHz) and folder/transcripts.jsonl; audio that is there already is kept. Returns the manifest.

    An unknown voice raises InputError before anything is written.
    """
    _check_voices({plan.voice for plan in plans})
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    missing = [plan for plan in plans if not (folder / plan.file).exists()]
    for _ in range(len(plans) - len(missing)):
        advance()
    for plan in missing:
        _keep(plan, folder)
        advance()
    with atomic(folder / MANIFEST, "w") as file:
        file.writelines(json.dumps(_row(plan, folder), ensure_ascii=False) + "\n" for plan in plans)
    return folder / MANIFEST


def _keep(plan: Reading, folder: Path) -> None:
    waveform = speak(plan.text, plan.voice, plan.prosody)
    write(folder / plan.file, Waveform(waveform.samples * (_PEAK / np.abs(waveform.samples).max()), waveform.rate))


def _row(plan: Reading, folder: Path) -> dict[str, Any]:
    import soundfile

    identity = {"id": plan.name, "audio": plan.file, "text": plan.text, "speaker": plan.voice, "origin": "synthetic"}
    return {**identity, "duration": round(soundfile.info(folder / plan.file).duration, 4)}


def _check_voices(voices: set[str]) -> None:
    for voice in sorted(voices):
        if voice.startswith("flite:"):
            _check_flite(voice)
        else:
            _check_espeak(voice)


def _check_flite(voice: str) -> None:
    if voice not in FLITE:  # flite itself would read with its default voice and say nothing
        raise InputError(f"unknown voice {voice!r}; {nearest(voice, FLITE)}")
    if not has_flite():
        raise InputError(f"voice {voice!r} needs the program flite, which is not installed; use espeak-ng voices such as {VOICES[0]}")


def _check_espeak(voice: str) -> None:
    language, plus, variant = voice.partition("+")
    if plus and variant not in variants():  # espeak-ng would read with the plain voice and say nothing
        raise InputError(f"unknown voice {voice!r}: no variant {variant!r}; {_likely(variant, variants())}")
    try:
        espeak("a", voice)
    except ValueError as error:
        raise InputError(f"unknown voice {voice!r}; {nearest(language, LANGUAGES)}, alone or as LANGUAGE+VARIANT") from error


def variants() -> list[str]:
    """The variants that espeak-ng can add to a language, as f3 in "en-us+f3"."""
    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    return sorted(path.name for path in folder.iterdir())


def _likely(name: str, known: Sequence[str]) -> str:
    hint = nearest(name, known)
    return hint if hint.startswith("did") else "try f1 to f5, m1 to m8, klatt, Alex, linda"
