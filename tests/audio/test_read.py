from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from asrlife.audio.read import defects, read, write
from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError

TONE = np.sin(np.arange(16_000) / 20).astype(np.float32) / 2


def noise(n: int = 32_000) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, n).astype(np.float32)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("turn the kitchen light on\n" * 400)


def bytes_of_nothing(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 20)


def no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0, np.float32), 16_000)


def nan(path: Path) -> None:
    soundfile.write(path, np.array([0.1, np.nan, 0.2], np.float32), 16_000, subtype="FLOAT")


def truncated(path: Path) -> None:
    whole = io.BytesIO()
    soundfile.write(whole, noise(), 16_000, format="FLAC")
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])


def strange_rate(path: Path) -> None:
    soundfile.write(path, TONE, 7)


def folder(path: Path) -> None:
    path.mkdir()


def missing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "make", "cause", "fix"),
    [
        ("a.wav", empty, "is empty (0 bytes)", "again"),
        ("a.wav", text, "holds text, not sound", "name a sound file"),
        ("a.wav", bytes_of_nothing, "is no sound", "ffmpeg"),
        ("a.wav", no_samples, "holds no samples (0 s)", "again"),
        ("a.wav", nan, "NaN", "export"),
        ("a.flac", truncated, "is cut short", "copy it again"),
        ("a.wav", strange_rate, "7 Hz", "export"),
        ("a.wav", folder, "is a folder", "name one"),
        ("a.wav", missing, "no such file", "check the path"),
    ],
)
def test_bad_files_are_named_with_cause_and_fix_in_one_line(tmp_path: Path, name: str, make: object, cause: str, fix: str) -> None:
    path = tmp_path / name
    assert callable(make)
    make(path)
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert cause in message and fix in message and "\n" not in message


def test_a_flac_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    soundfile.write(whole, noise(), 16_000, format="FLAC")
    data = whole.getvalue()
    for share in np.linspace(0.02, 0.98, 25):
        with pytest.raises(InputError):
            read(io.BytesIO(data[: int(share * len(data))]))


def test_a_wav_cut_short_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "a.wav", TONE, 16_000)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:16_044])
    with caplog.at_level(logging.WARNING, "asrlife"):
        assert len(read(tmp_path / "b.wav").samples) == pytest.approx(8_000, abs=30)
    assert "cut short" in caplog.text


def test_96_khz_stereo_becomes_16_khz_mono_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left = np.sin(2 * np.pi * 300 * np.arange(96_000) / 96_000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, 0 * left], axis=1), 96_000)
    with caplog.at_level(logging.WARNING, "asrlife"):
        waveform = read(tmp_path / "a.wav")
    assert (waveform.rate, len(waveform.samples)) == (16_000, 16_000)
    expected = np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000) / 2
    assert np.abs(waveform.samples - expected)[200:-200].max() < 1e-3
    assert "mixed 2 channels to mono" in caplog.text and "a.wav" in caplog.text


def test_the_native_rate_is_kept_on_request(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", TONE, 11_025)
    assert read(tmp_path / "a.wav", rate=None).rate == 11_025


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"])
def test_formats_read_alike_from_a_path_and_from_bytes(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, Waveform(TONE, 16_000))
    waveform = read(tmp_path / name)
    with (tmp_path / name).open("rb") as file:
        assert np.array_equal(read(file).samples, waveform.samples)
    assert np.corrcoef(waveform.samples[:16_000], TONE[: len(waveform.samples)])[0, 1] > 0.99


@settings(deadline=None, max_examples=40)
@given(
    samples=npst.arrays(np.float32, st.integers(1, 500), elements=st.floats(-1.5, 1.5, width=32)),
    rate=st.sampled_from([8_000, 16_000, 44_100]),
    suffix=st.sampled_from([".wav", ".flac"]),
)
def test_what_is_written_reads_back_as_16_bits_keep_it(
    tmp_path_factory: pytest.TempPathFactory, samples: np.ndarray, rate: int, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("audio") / f"a{suffix}"
    waveform = Waveform(samples, rate)
    write(path, waveform)
    assert np.array_equal(read(path, rate=None).samples, waveform.quantised().samples)


def test_an_unknown_suffix_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.xyz"):
        write(tmp_path / "a.xyz", Waveform(TONE, 16_000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        (TONE, ()),
        (np.zeros(16_000), ("silent",)),
        (TONE[:1_000], ("short",)),
        (TONE * 1e-3, ("quiet",)),
        (np.clip(TONE * 4, -1, 1), ("clipped",)),
        (np.clip(TONE * 4, -1, 1) * 0.6, ("clipped",)),
        (TONE + 0.4, ("offset",)),
    ],
)
def test_defects_are_named(samples: np.ndarray, found: tuple[str, ...]) -> None:
    assert defects(Waveform(samples.astype(np.float32), 16_000)) == found
