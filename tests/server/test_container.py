from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.audio.waveform import Waveform
from asrlife_server.container import Container
from asrlife_server.flac import header
from asrlife_server.refusal import Refusal

KINDS = [("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAV", "ULAW"),
         ("WAV", "ALAW"), ("WAVEX", "PCM_16"), ("FLAC", "PCM_S8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")]  # fmt: skip


def sound(count=30_000):
    samples = np.random.default_rng(0).normal(0, 0.1, count).astype(np.float32)
    samples[8_000:18_000] = 0  # frames without a residual are a few bytes long
    return samples


def written(kind="FLAC", subtype="PCM_16", rate=16_000, samples=None):
    file = io.BytesIO()
    soundfile.write(file, sound() if samples is None else samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def whole(data):
    return soundfile.read(io.BytesIO(data), dtype="float32")[0]


def decoded(data, declared=0, cuts=()):
    container, edges = Container(declared), sorted(min(cut, len(data)) for cut in [0, *cuts, len(data)])
    pieces = [container.decode(data[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    return np.concatenate([*pieces, container.finish()])


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_any_cut_gives_what_the_whole_file_gives(kind, subtype):
    data = written(kind, subtype)
    for step in (1, 7, 1000, len(data)):
        if step > 1 or kind == "FLAC":
            assert np.array_equal(decoded(data, 16_000, range(0, len(data), step)), whole(data)), step


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 60_000), max_size=12), st.sampled_from(["WAV", "FLAC"]))
def test_chunk_borders_mean_nothing(cuts, kind):
    data = FILES[kind]
    assert np.array_equal(decoded(data, 0, cuts), whole(data))


FILES = {kind: written(kind) for kind in ("WAV", "FLAC")}


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_the_rate_is_the_headers(kind, rate):
    data = written(kind, rate=rate)
    assert np.array_equal(decoded(data, rate), whole(data))  # declared: the stream runs at that rate
    found, expected = decoded(data, 0, range(0, len(data), 777)), Waveform(whole(data), rate).resampled(16_000).samples
    assert len(found) == len(expected) and np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_header_that_contradicts_the_config_is_refused(kind):
    with pytest.raises(Refusal, match=r"config\.sample_rate_hz: 8000, but the container's header says 16000 Hz") as error:
        decoded(written(kind), 8_000)
    assert error.value.code == "INVALID_ARGUMENT" and error.value.field == "config.sample_rate_hz"


# by their words: a WAV of floats holds the time at which it was written, and every worker writes its own
@pytest.mark.parametrize(("data", "words"), [
    (b"OggS" + bytes(40), "begins with RIFF or fLaC, not with b'OggS'"),
    (b"RIFF\0\0\0\0AVI LIST" + bytes(40), "not WAVE"),
    (b"RIFF\0\0\0\0WAVEdata" + bytes(40), "before it says of what kind"),
    (b"RIFF\0\0\0\0WAVEfmt \4\0\0\0" + bytes(40), "too short"),
    (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 2, 1, 16_000, 0, 0, 4), "WAV format 2, 4 bits"),
    (b"RIFF\0\0\0\0WAVELIST\xff\xff\xff\x7f" + bytes(40), "a chunk b'LIST' of 2147483647 bytes"),
    (b"fLaC\x84\0\0\x22" + bytes(40), "no STREAMINFO"),
    (b"fLaC\x80\0\0\x22" + written()[8:42] + bytes(40), "first frame has no valid header"),
    (written(samples=np.zeros((900, 2), np.float32)), "2 channels; mix to one"),
    (written("WAV", samples=np.zeros((900, 2), np.float32)), "2 channels; mix to one"),
    (written("WAV", rate=96_000), "96000 Hz is not a multiple of 25 within 8000..48000"),
    (written("WAV", "FLOAT", samples=np.array([0, np.nan], np.float32)), "NaN"),
    (b"RI", "ended inside its header"),
    (b"RIFF\0\0\0\0WAVE", "ended before its sound began"),
    (b"fLaC\0\0", "ended inside its header"),
], ids=lambda value: value if isinstance(value, str) else "data")  # fmt: skip
def test_what_is_no_container_is_refused_with_its_cause(data, words):
    with pytest.raises(Refusal) as error:
        decoded(data)
    assert words in error.value.message and error.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_file_that_is_cut_short_anywhere_is_refused_at_its_end(kind):
    data = FILES[kind]
    for end in range(1, len(data), 211):
        container = Container(0)
        with pytest.raises(Refusal):  # noqa: PT012
            container.decode(data[:end])
            container.finish()


def test_a_flipped_bit_in_a_frame_is_never_taken_for_sound():
    data = FILES["FLAC"]
    for at in range(90, len(data), 101):
        spoilt = bytearray(data)
        spoilt[at] ^= 1 << at % 8
        with pytest.raises(Refusal):
            decoded(bytes(spoilt))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["WAV", "FLAC"]), st.integers(0, 200), st.binary(min_size=1, max_size=40))
def test_garbage_is_refused_or_decoded_and_breaks_nothing(kind, at, garbage):
    data = FILES[kind][:20_000]
    try:
        found = decoded(data[:at] + garbage + data[at + len(garbage) :])
    except Refusal:
        return
    assert np.isfinite(found).all()


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_wav_that_does_not_know_its_length_ends_where_it_ends(size):
    data = written("WAV")
    at = data.index(b"data") + 4
    open_ended = data[:at] + struct.pack("<I", size) + data[at + 4 :]
    assert np.array_equal(decoded(open_ended), whole(data))
    assert len(decoded(open_ended[:-333])) == len(whole(data)) - 167


def test_what_stands_behind_the_sound_is_no_sound():
    data = written("WAV")
    assert np.array_equal(decoded(data + b"LIST\4\0\0\0abcd", 0, range(0, 70_000, 999)), whole(data))


def test_other_blocks_of_a_header_are_passed_over():
    data = written()
    blocks = data[:4] + bytes([data[4] & 0x7F]) + data[5:42] + b"\6" + (70_000).to_bytes(3, "big") + bytes(70_000) + data[42:]
    assert np.array_equal(decoded(blocks, 0, range(0, len(blocks), 1013)), whole(data))


@pytest.mark.parametrize("count", [1, 5, 15, 16, 17, 100, 4_095, 4_096, 4_097, 4_112, 8_192, 20_580])
def test_short_files_and_short_last_frames_are_whole(count):
    for samples in (np.zeros(count, np.float32), sound()[:count]):
        data = written(samples=samples)
        for step in (1, len(data)) if count < 9_000 else (len(data),):
            assert np.array_equal(decoded(data, 0, range(0, len(data), step)), whole(data))


def test_nothing_at_all_is_no_fault():
    assert len(decoded(b"")) == 0


def test_a_frame_header_is_known_by_its_checksum():
    data = written()
    at = data.index(b"\xff\xf8", 42)
    found = header(data[at : at + 16])
    assert found is not None and (found.number, found.samples) == (0, 4096)
    assert all(header(data[at : at + place] + bytes([data[at + place] ^ 1]) + data[at + place + 1 : at + 16]) is None for place in range(6))
