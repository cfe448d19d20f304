from __future__ import annotations

import time

import numpy as np
import pytest

from asrlife.audio import voices
from asrlife.audio.read import defects
from asrlife.audio.speak import speak
from asrlife.audio.voices import Prosody
from asrlife.errors import InputError


def test_speech_comes_at_16_khz_and_is_the_same_every_time() -> None:
    first = speak("turn on the kitchen light", "en-us+f3")
    assert first.rate == 16_000
    assert 0.8 < first.duration < 3
    assert defects(first) == ()
    speak("something else meanwhile", "en-us+m7")
    time.sleep(1.1)  # espeak-ng seeds its noise from the clock, in whole seconds
    assert np.array_equal(speak("turn on the kitchen light", "en-us+f3").samples, first.samples)


def test_faster_speech_is_shorter_and_voices_differ() -> None:
    slow, fast = (speak("seven o'clock", prosody=Prosody(words_per_minute=w)).duration for w in (110, 220))
    assert fast < 0.8 * slow
    assert speak("seven", "en-us+f3").samples[:4000].tobytes() != speak("seven", "en-us+m7").samples[:4000].tobytes()


@pytest.mark.parametrize(
    ("text", "voice", "cause"),
    [
        ("", "en-us", "nothing to say"),
        ("...", "en-us", "nothing to say"),
        ("hello", "nowhere", "no voice 'nowhere'"),
        ("hello", "cicada:kal", "no engine is called 'cicada'"),
    ],
)
def test_what_cannot_be_spoken_is_refused(text: str, voice: str, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        speak(text, voice)


def test_flite_that_is_not_installed_is_said_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "has_flite", lambda: False)
    with pytest.raises(InputError, match="install it, or take an espeak-ng voice"):
        speak("hello", "flite:slt")


@pytest.mark.skipif(not voices.has_flite(), reason="flite is not installed")
def test_flite_speaks_and_refuses_voices_it_would_replace_in_silence() -> None:
    assert 0.3 < speak("hello", "flite:slt").duration < 2
    with pytest.raises(InputError, match="no voice 'nobody'"):
        speak("hello", "flite:nobody")
