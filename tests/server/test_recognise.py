from __future__ import annotations

import io

import grpc
import numpy as np
import pytest
import soundfile
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import asrlife
from asrlife.audio.speak import speak
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server

E, A = pb.Endpointing, pb.Adaptation


def whole(config, audio):
    return pb.RecognizeRequest(config=config, audio=audio)


def plain(asked, **fields):
    return asked(**{"adaptation": A(), **fields})


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code().name, error.value.details(), rpc_status.from_call(Answered(error.value))


class Answered:
    """An AioRpcError as grpc_status wants a call."""

    def __init__(self, error):
        self.code, self.details = error.code, error.details
        self.trailing_metadata = error.trailing_metadata


@pytest.mark.parametrize("method", ["none", "alone"])
async def test_the_whole_gets_what_the_stream_gets(serving, noise, asked, method):
    loopback = await serving(**{"limits.chunk_bytes": 4096})
    samples, config = noise(1, 40_000), asked(adaptation=A(method=method), endpointing=E(mode=E.EXTERNAL, max_utterance_ms=700))
    talk = await loopback.opened(adaptation=config.adaptation, endpointing=config.endpointing)
    await talk.say(samples)
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    found = await loopback.stub.Recognize(whole(config, samples.tobytes()))
    assert list(found.results) == [r.result for r in rest if r.HasField("result")] and len(found.results) == 4
    assert list(found.refinements) == [r.refinement for r in rest if r.HasField("refinement")]
    assert len(found.refinements) == (4 if method == "alone" else 0)
    assert found.closed.state_digest == rest[-1].closed.state_digest and found.opened.config.adaptation.method == method


async def test_nothing_is_adapted_unless_told(serving, noise, asked):
    loopback = await serving(**{"adaptation.method": "count"})
    found = await loopback.stub.Recognize(whole(plain(asked), noise(1, 1600).tobytes()))
    assert found.opened.config.adaptation.method == "none" and len(found.results) == 1 and not found.refinements


@pytest.mark.parametrize(("fields", "words"), [
    ({"interim": pb.Interim(enable=True)}, "config.interim"), ({"cursors": True}, "config.cursors"),
    ({"vad_events": True, "endpointing": E()}, "config.vad_events"), ({"session_id": "abc"}, "config.session_id"),
    ({"speech_start_timeout": Duration(seconds=1)}, "config.speech_start_timeout"),
    ({"speech_end_timeout": Duration(seconds=1)}, "config.speech_end_timeout"),
    ({"endpointing": E(stop_eou_ms=100)}, "config.endpointing.stop_eou_ms"),
    ({"adaptation": A(persist=A.SESSION)}, "config.adaptation.persist"),
    ({"adaptation": A(adaptation_key="me")}, "config.adaptation.adaptation_key"),
    ({"adaptation": A(read_only=True)}, "config.adaptation.read_only: is for streams"),
    ({"adaptation": A(exclusive=True)}, "config.adaptation.exclusive: is for streams"),
    ({"adaptation": A(method="count")}, "config.adaptation.method: count carries on"),
    ({"punctuation": True}, "config.punctuation"),
    ({"encoding": pb.FLOAT32, "sample_rate_hz": 1}, "config.sample_rate_hz: 1"),
])  # fmt: skip
async def test_what_only_a_stream_can_do_is_refused_by_name(serving, asked, fields, words):
    loopback = await serving()
    code, details, status = await refusal(loopback.stub.Recognize(whole(plain(asked, **fields), b"\0\0" * 800)))
    assert code == "INVALID_ARGUMENT" and details.startswith(words)
    (packed,) = status.details
    found = error_details_pb2.BadRequest()
    assert packed.Unpack(found) and found.field_violations[0].field == words.split(":")[0]


async def test_what_is_too_short_is_not_adapted_to_and_the_adapted_text_may_be_the_only_one(serving, noise, asked):
    loopback, longest = await serving(), E(mode=E.EXTERNAL, max_utterance_ms=700)
    adaptation = A(method="alone", min_speech_ms=600, refine_finals=False)
    found = await loopback.stub.Recognize(whole(asked(adaptation=adaptation, endpointing=longest), noise(1, 20_000).tobytes()))
    assert [result.adapted for result in found.results] == [True, False] and not found.refinements


async def test_too_much_is_refused_in_bytes_and_in_seconds(serving, noise, asked):
    loopback = await serving(**{"limits.unary_bytes": 40_000, "limits.unary_s": 1.0, "limits.chunk_bytes": 8192})
    code, details, _ = await refusal(loopback.stub.Recognize(whole(plain(asked), bytes(40_002))))
    assert code == "RESOURCE_EXHAUSTED" and details.startswith("audio: 40002 bytes are above the limit of 40000 bytes")
    code, details, _ = await refusal(loopback.stub.Recognize(whole(plain(asked), noise(1, 19_000).tobytes())))
    assert code == "OUT_OF_RANGE" and "above the limit of 1 s; use StreamingRecognize" in details
    limits = (await loopback.stub.GetServerInfo(pb.GetServerInfoRequest())).limits
    assert (limits.unary_bytes, limits.unary_audio.ToSeconds(), limits.stream_audio.ToSeconds()) == (40_000, 1, 14_400)


async def test_a_message_of_the_whole_limit_comes_through(serving, asked):
    loopback = await serving(**{"limits.unary_s": 400})
    found = await loopback.stub.Recognize(whole(plain(asked, sample_rate_hz=48_000, encoding=pb.MULAW), b"\x7f" * (10 * 1024 * 1024)))
    assert found.closed.audio.ToSeconds() == 218


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
async def test_a_container_needs_no_rate(serving, noise, asked, kind):
    loopback = await serving()
    samples, file = noise(1, 12_000), io.BytesIO()
    soundfile.write(file, samples, 16_000, format=kind)
    found = await loopback.stub.Recognize(whole(plain(asked, encoding=pb.CONTAINER, sample_rate_hz=0), file.getvalue()))
    raw = await loopback.stub.Recognize(whole(plain(asked), samples.tobytes()))
    assert found.results == raw.results and found.opened.config.sample_rate_hz == 16_000


@pytest.mark.slow
async def test_the_embedded_model_hears_every_encoding_and_rate():
    """MULAW and ALAW at 8 kHz are telephone speech: text is compared where the sound is the same, existence elsewhere."""
    server = Server(ServerConfig.read(None, {"port": 0}), asrlife.load("embedded:ctc"))
    await server.start()
    speech = speak("turn on the kitchen light")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub, texts = asrlife_pb2_grpc.SpeechAdaptStub(channel), {}
            for rate in (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000):
                wave = speech.resampled(rate)
                for name, audio in encoded(wave).items():
                    config = pb.StreamingConfig(encoding=pb.Encoding.Value(name), sample_rate_hz=rate, endpointing=E(mode=E.EXTERNAL))
                    found = await stub.Recognize(whole(config, audio))
                    assert abs(found.closed.audio.ToNanoseconds() / 1e9 - speech.duration) < 0.01
                    texts[name, rate] = " ".join(result.alternatives[0].transcript for result in found.results)
    finally:
        await server.stop(0)
    assert all(texts.values())
    for rate in (8_000, 16_000, 48_000):
        assert texts["PCM16", rate] == texts["CONTAINER", rate]
    assert texts["FLOAT32", 16_000] == texts["PCM16", 16_000] == texts["MULAW", 16_000]


def encoded(wave):
    import audioop

    data, file = wave.pcm16(), io.BytesIO()
    soundfile.write(file, np.frombuffer(data, "<i2"), wave.rate, format="FLAC")
    return {"PCM16": data, "FLOAT32": wave.samples.astype("<f4").tobytes(), "MULAW": audioop.lin2ulaw(data, 2),
            "ALAW": audioop.lin2alaw(data, 2), "CONTAINER": file.getvalue()}  # fmt: skip
