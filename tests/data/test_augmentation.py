from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from asrlife.audio.read import write
from asrlife.audio.waveform import Waveform
from asrlife.data import augmentation
from asrlife.data.augmentation import CODECS, KINDS, Augmentation, check, drawn
from asrlife.errors import InputError

RATE = 16_000


@pytest.fixture(scope="module")
def tone() -> Waveform:
    """A second of 500 Hz that begins after 0.1 s."""
    time = np.arange(RATE) / RATE
    return Waveform(np.where(time > 0.1, 0.4 * np.sin(2 * np.pi * 500 * time), 0.0), RATE)


def peak_hertz(wave: Waveform) -> float:
    spectrum = np.abs(np.fft.rfft(wave.samples))
    return float(np.argmax(spectrum) * wave.rate / len(wave.samples))


def test_speed_changes_length_and_pitch_together(tone: Waveform) -> None:
    fast = Augmentation(speed=1.1).apply(tone)
    assert len(fast.samples) == pytest.approx(RATE / 1.1, abs=2)
    assert peak_hertz(fast) == pytest.approx(550, abs=3)


def test_noise_comes_at_its_snr(tone: Waveform) -> None:
    noisy = Augmentation(noise="white", snr=10, seed=5).apply(tone)
    disturbance = noisy.samples - tone.samples
    power = [float(np.mean(x.astype(np.float64) ** 2)) for x in (tone.samples, disturbance)]
    assert 10 * np.log10(power[0] / power[1]) == pytest.approx(10, abs=0.05)


def test_a_room_keeps_length_power_and_the_direct_sound_in_its_place(tone: Waveform) -> None:
    wet = Augmentation(room="room", seed=1).apply(tone)
    assert len(wet.samples) == len(tone.samples)
    assert np.mean(wet.samples**2) == pytest.approx(np.mean(tone.samples**2), rel=0.01)
    assert np.abs(wet.samples[: RATE // 10 - 10]).max() < 1e-3  # nothing before the direct sound
    assert np.abs(wet.samples - tone.samples).max() > 0.01


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_change_little_of_a_tone(tone: Waveform, codec: str) -> None:
    if find_spec("speechbrain") is None:
        pytest.skip("no SpeechBrain is here")
    coded = Augmentation(codec=codec).apply(tone)
    assert len(coded.samples) == RATE and peak_hertz(coded) == pytest.approx(500, abs=3)
    assert coded.samples.tobytes() != tone.samples.tobytes()
    assert coded.samples.tobytes() == Augmentation(codec=codec).apply(tone).samples.tobytes()


def test_files_of_noise_and_rooms_may_be_named(tone: Waveform, tmp_path: Path) -> None:
    write(tmp_path / "click.wav", Waveform(np.eye(1, 400, 0)[0] * 0.9, RATE))
    write(tmp_path / "hiss.wav", Waveform(0.1 * np.random.default_rng(0).standard_normal(8000), 8000))
    same = Augmentation(room=str(tmp_path / "click.wav")).apply(tone)
    assert np.abs(same.samples - tone.samples).max() < 1e-4  # a room without echo
    assert len(Augmentation(noise=str(tmp_path / "hiss.wav"), snr=5).apply(tone).samples) == RATE
    with pytest.raises(InputError, match="is no file, no folder"):
        Augmentation(noise=str(tmp_path / "gone.wav"), snr=5).apply(tone)


def test_nothing_is_drawn_but_by_the_key_and_each_kind_is_in_half() -> None:
    draws = [drawn(("speed", "noise", "reverb"), f"key {i}") for i in range(400)]
    assert draws == [drawn(("speed", "noise", "reverb"), f"key {i}") for i in range(400)]
    for field in ("speed", "noise", "room"):
        share = np.mean([getattr(draw, field) is not None for draw in draws])
        assert share == pytest.approx(0.5, abs=0.1)
    assert not any(draw.codec for draw in draws)
    assert {draw.speed for draw in draws} == {None, 0.9, 0.95, 1.05, 1.1}
    assert all(5 <= draw.snr <= 25 for draw in draws if draw.snr is not None)


def test_a_kind_that_is_taken_away_leaves_the_others_as_they_are() -> None:
    with_noise, without = drawn(("speed", "noise"), "k7"), drawn(("speed",), "k7")
    assert with_noise.speed == without.speed and without.noise is None


def test_names_for_people() -> None:
    assert Augmentation(1.05, "room", "pink", 12, "mp3").name == "1.05 x, room, pink 12 dB, mp3"
    assert Augmentation().name == "as read" and Augmentation(seed=4).to_json() == {}


def test_unknown_kinds_and_missing_libraries_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no augmentation is called 'echo'; known: speed, noise, reverb, codec, or all"):
        check(["echo"])
    augmentation._codec.cache_clear()
    monkeypatch.setattr(augmentation, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install 'asrlife.speechbrain.', or leave codec out"):
        check(KINDS)
    augmentation._codec.cache_clear()


@pytest.mark.skipif(find_spec("speechbrain") is None, reason="no SpeechBrain is here")
def test_codecs_do_not_bring_the_whole_of_speechbrain() -> None:
    code = "import sys; from asrlife.data.augmentation import check; check(['codec']); print('speechbrain' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "False"
