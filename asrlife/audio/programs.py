"""Voices that are programs of the machine: festival, and any command line that writes a sound file."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asrlife.audio.voices import Prosody
from asrlife.errors import InputError

_LONGEST_S = 300.0  # a program that takes longer for one sentence hangs
_PLACE = re.compile(r"\{(\w*)\}")
PLACES = ("text", "out", "rate", "pitch", "seed")
_LISTED = re.compile(r"\(([\w\s.-]*)\)")


def has_festival() -> bool:
    """Whether the festival program is installed."""
    return shutil.which("festival") is not None


def festival_voices() -> tuple[str, ...]:
    """The voices that festival itself lists, sorted; none where it is not installed, or not whole."""
    if not has_festival():
        return ()
    try:
        listed = _LISTED.search(_run(["festival", "-b", "(print (voice.list))"], "festival"))
    except InputError:
        return ()
    return tuple(sorted(listed[1].split())) if listed else ()


def festival(text: str, voice: str = "kal_diphone", prosody: Prosody = Prosody()) -> tuple[np.ndarray, int]:
    """Speak `text` with festival as int16 samples and their rate in Hz; raises InputError where the program is missing or says no.

    The rate reaches every voice. The pitch, 75 + 1.6 pitch in Hz, reaches the diphone voices; others keep their own.
    """
    if not has_festival():
        raise InputError("the program festival is not installed; install it, or take an espeak-ng voice such as en-us+f3")
    if not re.fullmatch(r"\w+", voice):  # it becomes a part of a program in Scheme
        raise InputError(f"festival has no voice {voice!r}; see `asrlife info voices`")
    hertz = 75 + 1.6 * prosody.pitch
    setup = f"(begin (voice_{voice}) (Parameter.set 'Duration_Stretch {165 / prosody.words_per_minute:.3f})"
    setup += f" (set! int_lr_params '((target_f0_mean {hertz:.1f}) (target_f0_std 15) (model_f0_mean 170) (model_f0_std 34))))"
    with tempfile.TemporaryDirectory() as folder:
        said, out = Path(folder) / "said.txt", Path(folder) / "speech.wav"
        said.write_text(text, encoding="latin-1", errors="replace")  # festival reads Latin 1
        _run(["text2wave", "-eval", setup, "-o", str(out), str(said)], f"festival:{voice}")
        return _sound(out, f"festival:{voice}")


def check_command(template: str) -> list[str]:
    """The words of a command template; raises InputError for an empty one, a missing program and an unknown place."""
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise InputError(f"command:{template}: {error}; close the quotes") from error
    if not words:
        raise InputError("command: names no program; write command:PROGRAM ... {text} ... {out}")
    unknown = sorted({name for word in words for name in _PLACE.findall(word)} - set(PLACES))
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACES)
        raise InputError(f"command:{template}: unknown place {{{unknown[0]}}}; known: {known}")
    if not any("{out}" in word for word in words[1:]):
        raise InputError(f"command:{template}: has no {{out}}, the sound file that the program is to write; add it")
    if _PLACE.search(words[0]) or shutil.which(words[0]) is None:
        raise InputError(f"command:{template}: there is no program {words[0]!r}; install it, or give its path")
    return words


def command(text: str, template: str, prosody: Prosody = Prosody(), seed: int = 0) -> tuple[np.ndarray, int]:
    """Speak `text` with any program; int16 samples and their rate in Hz.

    `template` is a command line with {out}, the WAV file to write, and {text}, or without {text} a program that reads it from standard
    input; {rate} (words a minute), {pitch} (0..99) and {seed} may be there. It is split once, as a shell would, and run without a shell:
    the text is one argument, or a part of one, whatever is in it. Raises InputError, with the program's last words, where nothing comes.
    """
    words, name = check_command(template), f"command:{template}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speech.wav"
        values = {"text": text, "out": str(out), "rate": str(prosody.words_per_minute), "pitch": str(prosody.pitch), "seed": str(seed)}
        fed = None if any("{text}" in word for word in words) else text
        _run([_filled(word, values) for word in words], name, fed)
        return _sound(out, name)


def _filled(word: str, values: dict[str, str]) -> str:
    filled = _PLACE.sub(lambda place: values[place[1]], word)
    return f" {filled}" if word == "{text}" and filled.startswith("-") else filled  # so that no text is an option


def _run(words: Sequence[str], name: str, fed: str | None = None) -> str:
    source = b"" if fed is None else fed.encode()
    try:
        done = subprocess.run(words, input=source, capture_output=True, check=False, timeout=_LONGEST_S)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{name}: still at one sentence after {_LONGEST_S:.0f} s; try the command by hand") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the text, which no argument can hold
        cause = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: {words[0]!r} cannot be run ({cause}); check the program") from error
    if done.returncode:
        last = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise InputError(f"{name}: {words[0]!r} failed with exit code {done.returncode} ({last[0][:200]}); try the command by hand")
    return done.stdout.decode(errors="replace")


def _sound(path: Path, name: str) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{name}: wrote no sound file that can be read; let it write WAV to {{out}}") from error
    return samples[:, 0], int(rate)
