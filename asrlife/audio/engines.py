"""What reads text aloud: one small interface, and the engines that need no network's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from asrlife.audio import programs, voices
from asrlife.audio.voices import Prosody
from asrlife.errors import InputError


class Engine(Protocol):
    """Something that speaks. A voice is named ENGINE:NAME; NAME is the engine's own affair, and a voice without ENGINE is espeak's."""

    @property
    def about(self) -> str:
        """What it is, in a sentence for `asrlife info voices`."""

    @property
    def prosody(self) -> bool:
        """Whether rate and pitch reach it."""

    def missing(self) -> str:
        """Why it cannot speak here, empty where it can."""

    def names(self) -> Sequence[str]:
        """The voices that are here, as NAME; empty where they cannot be listed."""

    def check(self, name: str) -> None:
        """Raise InputError, saying what to do, where the voice cannot speak."""

    def say(self, text: str, name: str, prosody: Prosody, seed: int) -> tuple[np.ndarray, int]:
        """Samples (n,), int16 or floats within -1..1, and their rate in Hz; equal arguments give equal samples."""


@dataclass(frozen=True)
class Espeak:
    """espeak-ng in the process: LANGUAGE or LANGUAGE+VARIANT."""

    about: str = "espeak-ng, in the package: LANGUAGE or LANGUAGE+VARIANT, in which * and ? may stand for several"
    prosody: bool = True

    def missing(self) -> str:
        """It comes with asrlife."""
        return ""

    def names(self) -> Sequence[str]:
        """Its languages; each takes each of `variants()`."""
        return languages()

    def check(self, name: str) -> None:
        """Raise InputError for an unknown language or variant, which espeak-ng itself would replace in silence."""
        language, plus, variant = name.partition("+")
        if plus and variant not in variants():
            raise InputError(f"unknown voice {name!r}: no variant {variant!r}; {likely(variant, variants())}")
        try:
            voices.espeak("a", name)
        except InputError as error:
            raise InputError(f"unknown voice {name!r}; {likely(language, languages())}, alone or as LANGUAGE+VARIANT") from error

    def say(self, text: str, name: str, prosody: Prosody, seed: int) -> tuple[np.ndarray, int]:
        """Speak; the seed does nothing."""
        return voices.espeak(text, name, prosody)


@dataclass(frozen=True)
class Flite:
    """The program flite."""

    about: str = "flite, where the program is installed: American English"
    prosody: bool = True

    def missing(self) -> str:
        """Whether the program is there."""
        return "" if voices.has_flite() else "the program flite is not installed"

    def names(self) -> Sequence[str]:
        """The voices it is built with."""
        return voices.FLITE

    def check(self, name: str) -> None:
        """Raise InputError for an unknown voice, which flite itself would replace in silence, and a missing program."""
        if name not in voices.FLITE:
            raise InputError(f"unknown voice 'flite:{name}'; {likely(name, voices.FLITE)}")
        if self.missing():
            raise InputError(f"voice 'flite:{name}' needs the program flite, which is not installed; use espeak-ng voices such as en-us+f3")

    def say(self, text: str, name: str, prosody: Prosody, seed: int) -> tuple[np.ndarray, int]:
        """Speak; the seed does nothing."""
        return voices.flite(text, name, prosody)


@dataclass(frozen=True)
class Festival:
    """The program festival."""

    about: str = "festival, where the program is installed: its diphone and HTS voices"
    prosody: bool = True

    def missing(self) -> str:
        """Whether the program is there."""
        return "" if programs.has_festival() else "the program festival is not installed"

    def names(self) -> Sequence[str]:
        """What it lists itself."""
        return programs.festival_voices()

    def check(self, name: str) -> None:
        """Raise InputError for a missing program and a voice that it does not list."""
        if self.missing():
            raise InputError(
                f"voice 'festival:{name}' needs the program festival, which is not installed; use espeak-ng voices such as en-us+f3"
            )
        if name not in self.names():
            raise InputError(f"unknown voice 'festival:{name}'; {likely(name, self.names())}")

    def say(self, text: str, name: str, prosody: Prosody, seed: int) -> tuple[np.ndarray, int]:
        """Speak; the seed does nothing."""
        return programs.festival(text, name, prosody)


@dataclass(frozen=True)
class Command:
    """Any command line that writes a sound file."""

    about: str = "any program: command:PROGRAM ... {text} ... {out}, also with {rate}, {pitch}, {seed}; run without a shell"
    prosody: bool = True

    def missing(self) -> str:
        """That depends on the command."""
        return ""

    def names(self) -> Sequence[str]:
        """That depends on the command."""
        return ()

    def check(self, name: str) -> None:
        """Raise InputError as `programs.check_command` does."""
        programs.check_command(name)

    def say(self, text: str, name: str, prosody: Prosody, seed: int) -> tuple[np.ndarray, int]:
        """Run the program once."""
        return programs.command(text, name, prosody, seed)


ENGINES: Mapping[str, Engine] = {"espeak": Espeak(), "flite": Flite(), "festival": Festival(), "command": Command()}


def parted(voice: str, engines: Mapping[str, Engine] = ENGINES) -> tuple[Engine, str]:
    """The engine of a voice and the voice's name there; raises InputError for an engine that is none of `engines`."""
    kind, colon, name = voice.partition(":")
    if not colon:
        return engines["espeak"], voice
    if kind not in engines:
        raise InputError(f"no engine is called {kind!r} in {voice!r}; known: {', '.join(engines)}; a plain name is espeak's, as en-us+f3")
    return engines[kind], name


def expanded(wanted: Sequence[str]) -> list[str]:
    """The voices in order, each once, with * and ? of espeak's names filled in; raises InputError where a pattern fits nothing.

    "en-us+f*" is every female variant of American English, "en-*" every English accent with its plain voice.
    """
    found: dict[str, None] = {}
    for voice in wanted:
        plain = voice.removeprefix("espeak:")
        if ":" in plain or not set("*?[") & set(plain):
            found[voice] = None
            continue
        language, plus, variant = plain.partition("+")
        chosen = [one for one in languages() if fnmatchcase(one, language)]
        endings = [f"+{one}" for one in variants() if fnmatchcase(one, variant)] if plus else [""]
        if not (chosen and endings):
            raise InputError(f"no espeak-ng voice fits {voice!r}; see `asrlife info voices`, and put the pattern in quotes")
        found |= dict.fromkeys(f"{one}{ending}" for one in chosen for ending in endings)
    return list(found)


@cache
def languages() -> tuple[str, ...]:
    """The languages and accents of espeak-ng, sorted, as "en-gb-scotland"."""
    import espeakng_loader

    found = set()
    for path in (Path(espeakng_loader.get_data_path()) / "lang").rglob("*"):
        lines = path.read_text(encoding="utf-8", errors="ignore").splitlines() if path.is_file() else []
        found |= {words[1].lower() for line in lines if len(words := line.split()) > 1 and words[0] == "language"}
    return tuple(sorted(found))


@cache
def variants() -> tuple[str, ...]:
    """The variants that espeak-ng can add to a language, as f3 in "en-us+f3"."""
    import espeakng_loader

    return tuple(sorted(path.name for path in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()))


def likely(name: str, known: Sequence[str]) -> str:
    """Say which known name was probably meant, or name a few."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(list(known)[:8]) or 'none'} (all: asrlife info voices)"
