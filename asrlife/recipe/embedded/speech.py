"""Speech to train on: sentences of the grammar read aloud by many voices, and the `train` rows of real corpora."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from asrlife.audio.voices import Prosody, espeak, flite, has_flite
from asrlife.recipe.registry import Bar
from asrlife.text.grammar import Grammar

RATE = 16_000
ACCENTS = ["en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-gbclan"]
HELD_OUT = {
    "test": ["f4", "m7", "Michael", "steph2", "klatt3", "edward"],
    "dev": ["f5", "m8", "Andy", "linda"],
}
VARIANTS = (
    "f1 f2 f3 m1 m2 m3 m4 m5 m6 klatt klatt2 klatt4 Alex Alicia Andrea Annie Denis Diogo Gene Henrique Hugo Jacky Lee Marco "
    "Mario Mike Reed adam anika antonio aunty belinda benjamin boris caleb david ed gustave ian john max michel miguel pablo "
    "paul pedro quincy rob robert sandro shelby steph steph3 travis victor zac"
).split()
FLITE = ["slt", "rms", "awb", "kal16", "slt", "rms", "awb"]
DIGITS = set("zero one two three four five six seven eight nine".split())
SPOKEN_LETTER_A = "[[eI]]"  # espeak reads a lone "a" as the article


@dataclass(frozen=True)
class Speech:
    """Utterances in one flat int16 array; `ends[i]` is where utterance i ends."""

    samples: np.ndarray
    ends: np.ndarray
    texts: list[str]
    sources: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, i: int) -> np.ndarray:
        start = self.ends[i - 1] if i else 0
        return self.samples[start : self.ends[i]].astype(np.float32) / 32768

    def seconds_of(self, i: int) -> float:
        """Duration of utterance i in seconds."""
        return float(self.ends[i] - (self.ends[i - 1] if i else 0)) / RATE

    @property
    def seconds(self) -> np.ndarray:
        """Duration of each utterance in seconds."""
        return np.diff(self.ends, prepend=0) / RATE

    def only(self, wanted: Callable[[str], bool]) -> Speech:
        """The utterances whose text is wanted."""
        kept = [i for i, text in enumerate(self.texts) if wanted(text)]
        parts = [(self.samples[self.ends[i - 1] if i else 0 : self.ends[i]], self.texts[i], self.sources[i]) for i in kept]
        return Speech.of(parts)

    def save(self, path: Path) -> None:
        """Write one .npz file."""
        np.savez(path, samples=self.samples, ends=self.ends, texts=np.array(self.texts), sources=np.array(self.sources))

    @classmethod
    def load(cls, path: Path) -> Speech:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as f:
            return cls(f["samples"], f["ends"], [str(t) for t in f["texts"]], [str(s) for s in f["sources"]])

    @classmethod
    def of(cls, rows: list[tuple[np.ndarray, str, str]]) -> Speech:
        """Join (int16 samples, text, source) rows."""
        ends = np.cumsum([len(r[0]) for r in rows])
        return cls(np.concatenate([r[0] for r in rows]), ends, [r[1] for r in rows], [r[2] for r in rows])


def is_open(text: str) -> bool:
    """Whether a sentence is neither a command nor a digit string, whose few words a model soon knows by heart."""
    words = text.split()
    return not (is_command(words) or set(words) <= DIGITS)


def is_command(words: list[str]) -> bool:
    """Whether these are the six words of a GRID command."""
    return len(words) == 6 and words[0] in ("bin", "lay", "place", "set") and len(words[3]) == 1


def to_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    """Resample int16 samples to 16 kHz and bring the peak to -6 dBFS."""
    wave = samples.astype(np.float32)
    if rate != RATE:
        factor = gcd(rate, RATE)
        wave = resample_poly(wave, RATE // factor, rate // factor)
    return (wave * (16384 / max(1.0, float(np.abs(wave).max())))).astype(np.int16)


def speak(job: tuple[str, str, int]) -> tuple[np.ndarray, str, str]:
    """Read one sentence aloud; job is (sentence, split, seed)."""
    sentence, split, seed = job
    rng = random.Random(seed)
    prosody = Prosody(rng.randint(125, 215), rng.randint(15, 85))
    letter_a = " a " in sentence and is_command(sentence.split())
    if split == "train" and has_flite() and not letter_a and rng.random() < 0.4:
        voice = rng.choice(FLITE)
        return to_16k(*flite(sentence, voice, prosody)), sentence, f"flite:{voice}"
    voice = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS if split == 'train' else HELD_OUT[split])}"
    spoken = sentence.replace(" a ", f" {SPOKEN_LETTER_A} ") if letter_a else sentence
    return to_16k(*espeak(spoken, voice, prosody)), sentence, f"espeak:{voice}"


def read_aloud(grammar: Grammar, split: str, count: int, seed: int, avoid: set[str], bar: Bar, workers: int = 2) -> Speech:
    """Read `count` distinct sentences that are not in `avoid`."""
    sentences = list(islice((s for s in grammar.stream(seed) if s not in avoid), count))
    jobs = [(s, split, seed + 7919 * i) for i, s in enumerate(sentences)]
    rows = []
    with ProcessPoolExecutor(workers) as pool, bar(f"reading {split} sentences", len(jobs)) as advance:
        for row in pool.map(speak, jobs, chunksize=16):
            rows.append(row)
            advance()
    return Speech.of(rows)


def real(manifest: Path, split: str) -> Speech:
    """The rows of one split of a manifest of real speech."""
    rows = []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["split"] == split:
            samples, rate = soundfile.read(manifest.parent / row["audio"], dtype="int16")
            rows.append((to_16k(samples, rate), row["text"].lower(), f"{manifest.parent.name}:{row['speaker']}"))
    return Speech.of(rows)


def digit_strings(manifest: Path, split: str, count: int, seed: int) -> Speech:
    """Join single recorded digits of one speaker into strings of one to six, with short pauses."""
    digits, rng, rows = real(manifest, split), random.Random(seed), []
    speakers = sorted(set(digits.sources))
    by_speaker = {s: [i for i, x in enumerate(digits.sources) if x == s] for s in speakers}
    for _ in range(count):
        speaker = rng.choice(speakers)
        chosen = rng.choices(by_speaker[speaker], k=rng.randint(1, 6))
        pieces = [p for i in chosen for p in (digits[i], np.zeros(int(RATE * rng.uniform(0.02, 0.2)), np.float32))]
        rows.append(((np.concatenate(pieces) * 32767).astype(np.int16), " ".join(digits.texts[i] for i in chosen), speaker))
    return Speech.of(rows)
