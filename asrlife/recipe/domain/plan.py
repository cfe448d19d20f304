"""What a domain is to be made of, and whether what lies in its folder was made of the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asrlife.errors import InputError
from asrlife.files import atomic
from asrlife.recipe.domain.names import DELTA
from asrlife.recipe.speech import VOICES
from asrlife.recipe.tuning import Source

PLAN, WORK, SYNTHETIC = "plan.json", "work", "synthetic.safetensors"
VERSION = 1
KEEP = ("l2sp:0.01",)
TUNE: Mapping[str, Any] = {"steps": 200, "rate": 3e-4, "batch_seconds": 40.0}
"""Settings of tuning that are not the usual ones: 200 lines and one of the embedded models take some minutes."""


@dataclass(frozen=True)
class Cast:
    """Who reads: `train` what is learnt, `dev` what the best weights are chosen on, `test` what is reported; no voice of the first is in
    the others. The defaults of the last two are among those that no embedded model heard.
    """

    train: tuple[str, ...] = (*VOICES, "en-us+f1", "en-us+m1", "en-gb-x-rp+m4", "en-gb-scotland+f1")
    dev: tuple[str, ...] = ("en-us+f5", "en-us+m8")
    test: tuple[str, ...] = ("en-us+f4", "en-us+m7", "en-gb-x-rp+steph2")

    @property
    def all(self) -> tuple[str, ...]:
        """Everybody."""
        return (*self.train, *self.dev, *self.test)

    def expanded(self) -> Cast:
        """With * and ? filled in, where a pattern of `train` leaves out who reads the others; InputError where one is named for both."""
        from asrlife.audio.engines import expanded

        held = {*expanded(self.dev), *expanded(self.test)}
        if both := sorted(held & set(self.train)):
            raise InputError(f"voice {both[0]} reads what is learnt and what is tested; name others with --voice or --test-voice")
        train = tuple(voice for voice in expanded(self.train) if voice not in held)
        if not train:
            raise InputError("--voice: nobody is left to read what is learnt; name voices that do not read the test")
        return Cast(train, tuple(expanded(self.dev)), tuple(expanded(self.test)))


@dataclass(frozen=True)
class Domain:
    """What is asked for: a text, a model by name, the folder `out`, how to read and to tune, and what to judge on besides.

    `syn2real` is a vector of one's own; without it the one that ships for the model is taken, or none where `vector` is False. `real`,
    `real_dev` and `general` are manifests of recordings; without the last so many everyday sentences are read aloud.
    """

    text: Path
    out: Path
    model: str = "embedded:ctc-tts"
    cast: Cast = Cast()
    clips: int = 2
    augment: tuple[str, ...] = ()
    seed: int = 0
    most: int | None = None
    column: str | None = None
    key: str | None = None
    tune: Mapping[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = KEEP
    syn2real: Path | None = None
    vector: bool = True
    scale: float | None = None
    real: Path | None = None
    real_dev: Path | None = None
    general: Path | None = None
    general_sentences: int = 60
    workers: int = 1

    @property
    def work(self) -> Path:
        """Where what is not for the reader lies."""
        return self.out / WORK

    @property
    def settings(self) -> dict[str, Any]:
        """Of tuning: those asked for over those of a domain."""
        usual = {key: value for key, value in TUNE.items() if key != "steps" or "epochs" not in self.tune}
        return {**usual, "seed": self.seed, **self.tune}


def source(path: Path, part: str, name: str) -> Source:
    """The rows of split `part` of a manifest, or all where it marks no splits; raises InputError where there is none to score.

    A manifest that marks splits has to have that one: what is chosen on a test set cannot be tested on it any more.
    """
    from asrlife.data.corpus import Corpus

    if not path.is_file():
        raise InputError(f"--{name}: {path}: no such file; check the path")
    corpus = Corpus.read(path)
    splits = {utterance.split for utterance in corpus if utterance.split}
    if splits:
        corpus = corpus.split(part)
    if not any((utterance.text or "").strip() for utterance in corpus):
        raise InputError(f"--{name}: {path}: no utterance has sound and a text to score against; {'; '.join(corpus.problems[:2])}")
    return Source(path, part if splits else None)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of what JSON says of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def told(asked: Domain, fingerprint: str, vector: Mapping[str, Any] | None, chosen_on: Source | None) -> dict[str, Any]:
    """All that the delta depends on, in the words of the options, as JSON."""
    speech = {"--voice": asked.cast.train, "dev voices": asked.cast.dev, "--test-voice": asked.cast.test, "--clips": asked.clips}
    speech |= {"--augment": asked.augment, "--limit": asked.most, "--column": asked.column, "--key": asked.key}
    chosen = None if chosen_on is None or vector is None else chosen_on.told()
    found = {"version": VERSION, "--text": digest(asked.text), "--model": fingerprint, **speech, "--seed": asked.seed}
    found |= {"tuning": asked.settings, "--keep": asked.keep, "--syn2real": vector, "--scale": asked.scale, "--real-dev": chosen}
    again: dict[str, Any] = json.loads(json.dumps(found))
    return again


def begin(out: Path, plan: Mapping[str, Any], fresh: bool) -> None:
    """Keep the plan in `out`, which has none or the same; with `fresh` what another one made is taken away.

    Raises InputError naming what has changed since, and for a delta that nobody knows what it was made of.
    """
    path = out / PLAN
    kept = _kept(path)
    if kept is None and (out / DELTA).exists() and not fresh:
        raise InputError(f"{out / DELTA} is there, and not made by `asrlife domain`: choose another --name, or make it anew with --fresh")
    if kept is not None and kept != plan and not fresh:
        raise InputError(f"{out} was made otherwise ({_changed(kept, plan)}): choose another --name, or make it anew with --fresh")
    if fresh:
        clear(out)
    if kept != plan or fresh:
        with atomic(path, "w") as file:
            json.dump(plan, file, indent=1, ensure_ascii=False)


def clear(out: Path) -> None:
    """Take away what was made, the plan last; sounds stay, as their names say what is in them."""
    work = out / WORK
    made = [out / name for name in (DELTA, "delta.json", "report.html", "report.json")]
    for path in [*made, *(sorted(work.rglob("*"), reverse=True) if work.is_dir() else []), out / PLAN]:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def _kept(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): make the domain anew with --fresh") from error
    return found if isinstance(found, dict) else {}


def _changed(kept: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    keys = [key for key in plan if kept.get(key) != plan[key]]
    return ", ".join(_difference(key, kept.get(key), plan[key]) for key in keys) or "by another version"


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict) and key == "tuning":
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return ", ".join(f"{name} was {before.get(name)} and is {now.get(name)}" for name in names)
    long = any(isinstance(value, dict) or (isinstance(value, str) and len(value) == 64) for value in (before, now))
    return f"{key} has changed" if long else f"{key} was {_said(before)} and is {_said(now)}"


def _said(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
