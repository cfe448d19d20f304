"""Row 5, sound that is not what the config says: how surely it is told from speech, and what follows from it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrlife.audio.speak import speak
from asrlife.audio.waveform import Waveform
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import oddities
from asrlife_server.g711 import A_LAW, MU_LAW
from asrlife_server.tape import Segment

CORPORA = Path(__file__).parents[2].parent / "shared" / "data"
WIDE = ("speech-grid", "speech-librispeech", "speech-read-prose", "speech-samples")  # sampled at 16 kHz or above
NARROW = "speech-digits"  # at 8 kHz, and brought to 16 kHz
VOICES = ("en-us", "en-us+f3", "en-us+m2", "en-gb-x-rp", "en-us+whisper", "en-us+croak")
SKIPPED, STEPPED = pb.AdaptationEvent.SKIPPED, pb.AdaptationEvent.STEPPED


def integers(samples):
    return np.clip(np.round(samples * 32_767), -32_768, 32_767).astype("<i2")


def as_pcm16(data):
    return np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32_768


MISREAD = {
    "byte-swapped": lambda samples: integers(samples).byteswap().tobytes(),
    "one byte late": lambda samples: integers(samples).tobytes()[1:],
    "float32": lambda samples: samples.astype("<f4").tobytes(),
    "24 bits": lambda samples: np.round(samples * 8e6).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
}


def coded(samples, table):
    order = np.argsort(table)
    return order[np.searchsorted(table[order], samples).clip(0, 255)].astype(np.uint8).tobytes()


def halved(samples):
    return Waveform(samples, 16_000).resampled(8_000).samples


MISREAD |= {
    "mu-law": lambda samples: coded(samples, MU_LAW),
    "A-law": lambda samples: coded(samples, A_LAW),
    "mu-law of 8 kHz": lambda samples: coded(halved(samples), MU_LAW),
    "A-law of 8 kHz": lambda samples: coded(halved(samples), A_LAW),
}


def narrowed(samples):
    """What a telephone leaves of it, at 16 kHz."""
    telephone = as_pcm16(integers(Waveform(samples, 16_000).resampled(8_000).samples).tobytes())
    return as_pcm16(integers(Waveform(telephone, 8_000).resampled(16_000).samples).tobytes())


def found(samples):
    return oddities.found(Segment(samples, 0, len(samples)), 16_000)


def recorded(corpus, most=60):
    files = sorted((CORPORA / corpus / "audio").glob("*.flac"))
    for file in random.Random(5).sample(files, min(most, len(files))):
        samples, rate = soundfile.read(file, dtype="float32")
        if len(samples) >= rate / 2:
            yield Waveform(samples[: 20 * rate], rate).resampled(16_000).samples


def synthetic():
    for voice in VOICES:
        for text in ("turn on the kitchen light please", "six sisters switch off the hissing shower"):
            yield speak(text, voice).samples


def suspected(sounds):
    """Of so many sounds, those that are suspected as they are; and of so many changed ones, those that are not."""
    count, false, missed = 0, [], []
    for samples in sounds:
        count += 1
        false += set(found(samples)) & {"misread", "narrowband"}
        missed += [kind for kind, bytes_of in MISREAD.items() if "misread" not in found(as_pcm16(bytes_of(samples)))]
        loud = np.clip(samples * (0.3 / max(float(samples.std()), 1e-6)), -1, 1)
        false += [f"{name} where loud" for name in set(found(loud)) & {"misread"}]
        missed += [] if "narrowband" in found(narrowed(samples)) else ["narrowband"]
    return count, false, missed


@pytest.mark.skipif(not CORPORA.exists(), reason="there is no speech in ../shared/data")
@pytest.mark.parametrize("corpus", WIDE)
def test_row_5_real_speech_is_not_suspected_and_what_is_made_of_it_is(corpus, record_property):
    count, false, missed = suspected(recorded(corpus))
    record_property("missed", f"{missed} of {count} sounds, each in {len(MISREAD) + 1} ways")
    assert count and not false
    assert set(missed) <= {"narrowband"} and len(missed) <= 0.4 * count  # of speech-grid, much of which is clipped; else none


@pytest.mark.skipif(not CORPORA.exists(), reason="there is no speech in ../shared/data")
def test_row_5_what_was_recorded_at_8_khz_is_told():
    told = [found(samples) for samples in recorded(NARROW, 400)]
    assert np.mean(["narrowband" in each for each in told]) > 0.9 and not any("misread" in each for each in told)


def test_row_5_synthetic_speech_is_not_suspected_and_what_is_made_of_it_is():
    count, false, missed = suspected(synthetic())
    assert count == 2 * len(VOICES) and not false
    assert set(missed) <= {"narrowband"} and len(missed) <= 3


async def test_row_5_bytes_of_another_format_are_warned_of_heard_and_not_learnt_from(serving, undisturbed):
    loopback, samples = await serving(), speak("turn on the kitchen light please").samples
    async with undisturbed(loopback):
        for kind, bytes_of in MISREAD.items():
            rest = await said(loopback, bytes_of(samples))
            assert [r.warning.code for r in rest if r.HasField("warning") and r.warning.code != "TRUNCATED_SAMPLE"] == ["MISREAD"], kind
            assert [r.result.is_final for r in rest if r.HasField("result")] == [True]
            (event,) = (r.adaptation_event for r in rest if r.HasField("adaptation_event"))
            assert (event.kind, event.reason, event.state_version) == (SKIPPED, "misread", 0)
            assert rest[-1].closed.steps == 0


@pytest.mark.parametrize("learns", [False, True])
async def test_row_5_sound_of_a_telephone_is_warned_of_and_learnt_from_only_where_the_server_says_so(serving, undisturbed, learns):
    settings = {"adaptation.narrowband": True} if learns else {}
    loopback, samples = await serving(**settings), narrowed(speak("turn on the kitchen light please").samples)
    async with undisturbed(loopback):
        rest = await said(loopback, integers(samples).tobytes())
    (warning,) = (r.warning for r in rest if r.HasField("warning"))
    assert (warning.code, warning.field) == ("NARROWBAND", "audio.content") and "8000 Hz" in warning.text
    (event,) = (r.adaptation_event for r in rest if r.HasField("adaptation_event"))
    assert (event.kind, event.reason) == ((STEPPED, "") if learns else (SKIPPED, "narrowband"))
    assert [r.result.is_final for r in rest if r.HasField("result")] == [True] and rest[-1].closed.state_version == learns


async def test_row_5_sound_of_a_telephone_at_its_own_rate_is_learnt_from(serving):
    samples = Waveform(speak("turn on the kitchen light please").samples, 16_000).resampled(8_000).samples
    rest = await said(await serving(), integers(samples).tobytes(), sample_rate_hz=8_000)
    assert not any(r.HasField("warning") for r in rest) and rest[-1].closed.state_version == 1


async def test_row_5_integers_that_are_sent_as_float32_are_refused(serving, undisturbed):
    loopback, samples = await serving(), speak("turn on the kitchen light please").samples
    async with undisturbed(loopback):
        talk = await loopback.opened(encoding=pb.FLOAT32)
        await talk.send(audio=pb.Audio(content=integers(samples).tobytes()))
        assert await talk.rest() == []
        code, details = await talk.ended()
    assert code == "INVALID_ARGUMENT" and details.startswith("audio.content: ") and "PCM16" in details


async def said(loopback, data, **fields):
    talk = await loopback.opened(**fields)
    for start in range(0, len(data), 3200):
        await talk.send(audio=pb.Audio(content=data[start : start + 3200]))
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    assert await talk.ended() == ("OK", "")
    return rest
