from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from asrlife.audio import programs, voices
from asrlife.audio.engines import ENGINES, expanded, languages, parted, variants
from asrlife.audio.speak import speak
from asrlife.audio.voices import Prosody
from asrlife.errors import InputError

TONE = """
import sys, wave
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
text = options.get("--text") or sys.stdin.read()
with wave.open(options["--out"], "wb") as file:
    file.setparams((1, 2, 8000, 0, "NONE", ""))
    file.writeframes((b"\\x00\\x10" * 4 + b"\\x00\\xf0" * 4) * 100 * len(text))
print(sys.argv[1:], file=open(options["--log"], "w")) if "--log" in options else None
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A command that writes a sound whose length is that of the text: 0.1 s a letter."""
    (tmp_path / "tone.py").write_text(TONE)
    return f"command:{sys.executable} {tmp_path / 'tone.py'}"


def test_a_command_gets_the_text_as_one_argument(program: str) -> None:
    assert speak("four", f"{program} --text {{text}} --out {{out}}").duration == pytest.approx(0.4, abs=0.01)


def test_a_command_without_a_place_for_text_reads_it(program: str) -> None:
    assert speak("seven s", f"{program} --out {{out}}").duration == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    "text", ["a; touch pwned", "$(touch pwned)", "`touch pwned` & 'x' \"y\"", "--out elsewhere", "{out} {seed}", "a\nb"]
)
def test_nothing_in_a_text_is_run_or_filled_in(program: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    speak(text, f"{program} --log {log} --text {{text}} --out {{out}}")
    given = eval(log.read_text())  # what print() wrote of a list of strings
    assert given[3].strip() == text and not given[3].startswith("-")
    assert not (tmp_path / "pwned").exists() and not (tmp_path / "elsewhere").exists()


def test_rate_pitch_and_seed_reach_a_command(program: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    speak("a", f"{program} --log {log} --text {{text}} --out {{out}} --say {{rate}}/{{pitch}}/{{seed}}", Prosody(150, 20), seed=7)
    assert "150/20/7" in log.read_text()


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        ("command:", "names no program"),
        ("command:no-such-program {text} {out}", "there is no program 'no-such-program'; install it"),
        ("command:true {text}", "has no {out}"),
        ("command:true {text} {out} {loudness}", "unknown place {loudness}; known: {text}, {out}, {rate}, {pitch}, {seed}"),
        ("command:true '{out}", "close the quotes"),
        ("command:true {out}", "wrote no sound file"),
        ("command:false {out}", "failed with exit code 1 (it said nothing)"),
        ("command:{text} {out}", "there is no program '{text}'"),
        ("cicada:kal", "no engine is called 'cicada'"),
    ],
)
def test_a_command_that_cannot_speak_says_why(voice: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        speak("hello", voice)
    assert message in str(raised.value)


def test_a_text_with_a_nul_is_refused(program: str) -> None:
    with pytest.raises(InputError, match="cannot be run"):
        speak("a\0b", f"{program} --text {{text}} --out {{out}}")


def test_the_last_words_of_a_program_that_fails_are_told(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import sys; print('first'); sys.exit('no such speaker')")
    with pytest.raises(InputError, match="exit code 1 .no such speaker."):
        speak("hello", f"command:{sys.executable} {tmp_path / 'bad.py'} {{out}}")


def test_espeak_has_its_accents_and_variants() -> None:
    assert {"en-us", "en-gb-scotland", "en-029", "de", "ru"} <= set(languages())
    assert {"f1", "m8", "klatt", "whisper"} <= set(variants())
    assert len(languages()) > 100 and len(variants()) > 80


def test_patterns_stand_for_voices() -> None:
    english = expanded(["en-*"])
    assert "en-gb-scotland" in english and "de" not in english
    assert expanded(["en-us+f?", "en-us+f3", "flite:slt"]) == [*(f"en-us+f{i}" for i in range(1, 6)), "flite:slt"]
    assert len(expanded(["en-*+[fm]?"])) == len(english) * 13
    with pytest.raises(InputError, match="no espeak-ng voice fits 'klingon"):
        expanded(["klingon*"])


def test_a_voice_names_its_engine() -> None:
    assert parted("en-us+f3") == (ENGINES["espeak"], "en-us+f3")
    assert parted("espeak:en-us+f3") == (ENGINES["espeak"], "en-us+f3")
    assert parted("command:say a:b") == (ENGINES["command"], "say a:b")
    assert np.array_equal(speak("one", "espeak:en-us+f3").samples, speak("one", "en-us+f3").samples)


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        ("en-us+m33", "no variant 'm33'; did you mean 'm3'"),
        ("en-uss", "unknown voice 'en-uss'; did you mean 'en-us'"),
        ("flite:nobody", "unknown voice 'flite:nobody'"),
    ],
)
def test_an_unknown_voice_is_told_with_the_likely_one(voice: str, message: str) -> None:
    engine, name = parted(voice)
    with pytest.raises(InputError, match=message):
        engine.check(name)


def test_programs_that_are_missing_are_told_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "has_flite", lambda: False)
    monkeypatch.setattr(programs, "has_festival", lambda: False)
    for voice in ("flite:slt", "festival:kal_diphone"):
        engine, name = parted(voice)
        assert "is not installed" in engine.missing()
        with pytest.raises(InputError, match="not installed; use espeak-ng voices"):
            engine.check(name)
    assert ENGINES["festival"].names() == ()
    with pytest.raises(InputError, match="install it, or take an espeak-ng voice"):
        speak("hello", "festival:kal_diphone")


def test_a_festival_voice_is_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "has_festival", lambda: True)
    with pytest.raises(InputError, match="festival has no voice"):
        programs.festival("hello", 'kal) (system "true")')


@pytest.mark.skipif(not programs.has_festival() or not programs.festival_voices(), reason="festival is not installed")
def test_festival_speaks_faster_when_asked() -> None:
    voice = f"festival:{programs.festival_voices()[0]}"
    slow, fast = (speak("hello world again", voice, Prosody(rate, 50)).duration for rate in (120, 240))
    assert fast < 0.8 * slow
    engine, _ = parted(voice)
    with pytest.raises(InputError, match="unknown voice 'festival:nobody'"):
        engine.check("nobody")
