"""Sound in which nobody speaks, through a real socket and the embedded recogniser: no words, and nothing learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import asrlife
from asrlife.audio import noise as noises
from asrlife.audio.waveform import Waveform
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server
from tests.server.conftest import Fakes, Loopback
from tests.server.test_complaints import finals, of

RECORDED = Path(__file__).parents[2].parent / "shared" / "data" / "noise" / "audio"
RATE, LENGTH = 16_000, 8 * 16_000
SCALE = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)  # Hz


@pytest.fixture(scope="module")
def model():
    return asrlife.load("embedded:ctc")


@pytest.fixture
async def embedded(model):
    import grpc

    server = Server(ServerConfig.read(None, {"port": 0, "state.backend": "memory", "limits.adaptation_wait_ms": 600_000}), model)
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
    yield Loopback(server, channel, Fakes())
    await channel.close()
    await server.stop(0)


def music(step, notes):
    """Notes of a plucked string, a new set of them every `step` s; `notes` gives their frequencies (Hz)."""
    sound, count = np.zeros(LENGTH), int(step * RATE)
    time = np.arange(count) / RATE
    for at in range(0, LENGTH - count + 1, count):
        for frequency in notes():
            sound[at : at + count] += sum(np.sin(2 * np.pi * frequency * h * time) / h for h in range(1, 8)) * np.exp(-3 * time)
    return 0.4 * sound / np.abs(sound).max()


def drums(rng):
    beat = np.zeros(RATE // 4)
    beat[:2000] = rng.normal(size=2000) * np.exp(-np.arange(2000) / 300)
    return 0.2 * np.tile(beat, LENGTH // len(beat))


def sounds():
    rng = np.random.default_rng(7)
    yield "digital silence", np.zeros(LENGTH)
    for level in (0.0005, 0.01, 0.1):
        yield f"white {level}", rng.normal(0, level, LENGTH)
    for kind in (noises.pink, noises.hum, noises.machine):
        yield kind.__name__, kind(LENGTH, rng).samples
    yield "clicks", (rng.random(LENGTH) < 1e-4) * 0.5
    yield "chords", music(0.5, lambda: SCALE[[0, 2, 4]])
    yield "melody", music(0.25, lambda: [rng.choice(SCALE)])
    yield "drums", drums(rng)


async def heard(loopback, samples, method):
    talk = await loopback.opened(endpointing=pb.Endpointing(), adaptation=pb.Adaptation(method=method), interim=pb.Interim(enable=True))
    await talk.say(np.clip(np.asarray(samples) * 32_767, -32_768, 32_767).astype(np.int16))
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    assert await talk.ended() == ("OK", "")
    return rest


async def test_complaint_silence_noise_and_music_give_no_word_and_no_step(embedded):
    for name, samples in sounds():
        rest = await heard(embedded, samples, "suta")  # which learns from whatever it is given
        assert not of("result", rest) and not of("adaptation_event", rest), name
        assert (rest[-1].closed.utterances, rest[-1].closed.steps, rest[-1].closed.state_version) == (0, 0, 0), name


@pytest.mark.skipif(not RECORDED.exists(), reason="there are no recorded noises in ../shared/data")
async def test_complaint_recorded_noise_gives_hardly_a_word_that_nobody_would_believe_and_no_step(embedded):
    seconds, words = 0.0, []
    for file in sorted(RECORDED.glob("*.flac")):
        samples, rate = soundfile.read(file, dtype="float32")
        samples = samples if samples.ndim == 1 else samples.mean(axis=1)
        wave = Waveform(samples[: 30 * rate], rate).resampled(RATE)
        rest = await heard(embedded, wave.samples, "default")
        seconds += wave.duration
        words += [(alternative.transcript, alternative.confidence) for result in finals(rest) for alternative in result.alternatives]
        assert rest[-1].closed.steps == 0, file.name
    assert seconds > 100 and len(words) <= 1 and all(confidence < 0.01 for _, confidence in words), words
