"""NVIDIA's own client package, unchanged, against our server."""

from __future__ import annotations

import asyncio
import io

import grpc
import pytest
import soundfile
from google.rpc import error_details_pb2, status_pb2

import asrlife
from asrlife.audio.speak import speak
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server
from tests.server.callers import tokens

riva = pytest.importorskip("riva.client", reason="no nvidia-riva-client is here (pip install 'asrlife[riva]')")
E = riva.AudioEncoding


def config(**fields):
    usual = {"encoding": E.LINEAR_PCM, "sample_rate_hertz": 16_000, "language_code": "en-US"}
    return riva.RecognitionConfig(**{**usual, **fields})


def streaming(interim=False, **fields):
    return riva.StreamingRecognitionConfig(config=config(**fields), interim_results=interim)


def service(port):
    return riva.ASRService(riva.Auth(uri=f"127.0.0.1:{port}"))


async def streamed(port, audio, asked, chunk=3200):
    pieces = [audio[start : start + chunk] for start in range(0, len(audio), chunk)]
    return await asyncio.to_thread(lambda: list(service(port).streaming_response_generator(pieces, asked)))


async def whole(port, audio, asked):
    return await asyncio.to_thread(lambda: service(port).offline_recognize(audio, asked))


async def refused(call):
    with pytest.raises(grpc.RpcError) as error:
        await call
    return error.value.code().name, error.value.details(), dict(error.value.trailing_metadata())


def texts(responses):
    return [result.alternatives[0].transcript for response in responses for result in response.results if result.is_final]


@pytest.fixture
async def port(serving):
    loopback = await serving(riva=True, **{"limits.utterance_ms": 700})
    return loopback.server.port


@pytest.fixture(scope="module")
def spoken():
    return speak("turn on the kitchen light").resampled(16_000)


async def test_riva_s_client_streams_and_hears_what_ours_hears(serving, noise, asked):
    loopback = await serving(riva=True)
    loopback.server.service._ear = lambda: lambda window: float(abs(window).max() > 0.05)  # noise is speech to it, zeros are a pause
    samples = noise(1, 16_000).tobytes() + bytes(32_000)
    talk = await loopback.opened(endpointing=pb.Endpointing(), adaptation=pb.Adaptation(method="count", refine_finals=False))
    await talk.send(audio=pb.Audio(content=samples))
    await talk.send(control=pb.FINISH)
    ours = [response.result for response in await talk.rest() if response.HasField("result")]
    theirs = await streamed(loopback.server.port, samples, streaming(custom_configuration={"adapt": "count"}))
    (result,) = theirs[0].results
    assert texts(theirs) == [result.alternatives[0].transcript for result in ours] and texts(theirs)[0].endswith("after 0")
    assert result.is_final and result.stability == 1 and result.channel_tag == 1 and list(result.alternatives[0].language_code) == ["en"]
    assert result.audio_processed == pytest.approx(ours[0].end.ToNanoseconds() / 1e9)
    plain = await streamed(loopback.server.port, samples, streaming(custom_configuration={"adapt": "count", "finals": "plain"}))
    assert len(texts(plain)) == 1 and "after" not in texts(plain)[0]


@pytest.mark.slow
async def test_speech_through_every_way_that_riva_s_client_has(spoken):
    server = Server(ServerConfig.read(None, {"port": 0, "riva": True, "state.backend": "memory"}), asrlife.load("embedded:ctc"))
    await server.start()
    file = io.BytesIO()
    soundfile.write(file, spoken.samples, 16_000, format="WAV", subtype="PCM_16")
    try:
        times = await streamed(server.port, spoken.pcm16(), streaming(interim=True, enable_word_time_offsets=True))
        adapted = await streamed(server.port, spoken.pcm16(), streaming(custom_configuration={"adapt": "suta", "adapt.steps": "2"}))
        header = await streamed(server.port, file.getvalue(), streaming(encoding=E.ENCODING_UNSPECIFIED, sample_rate_hertz=0))
        offline = await whole(server.port, file.getvalue(), config(enable_word_time_offsets=True))
        served = service(server.port)
        request = riva.proto.riva_asr_pb2.RivaSpeechRecognitionConfigRequest()
        models = (await asyncio.to_thread(served.stub.GetRivaSpeechRecognitionConfig, request)).model_config
    finally:
        await server.stop(0)
    assert texts(times) == texts(header) == [result.alternatives[0].transcript for result in offline.results]
    assert texts(times)[0].startswith("turn on the kitch") and texts(adapted)
    final, first = times[-1].results[0].alternatives[0], times[0].results[0]
    assert not first.is_final and 0 <= first.stability <= 1 and not first.alternatives[0].words and not first.alternatives[0].confidence
    assert [word.word for word in final.words] == final.transcript.split()
    assert all(0 <= word.start_time < word.end_time <= spoken.duration * 1000 + 1 and 0 < word.confidence <= 1 for word in final.words)
    assert {model.parameters["type"] for model in models} == {"online", "offline"} and models[0].model_name == "embedded:ctc"


@pytest.mark.parametrize(("encoding", "rate", "header"), [
    (E.LINEAR_PCM, 16_000, ""), (E.LINEAR_PCM, 44_100, ""), (E.LINEAR_PCM, 16_000, "WAV"), (E.ENCODING_UNSPECIFIED, 0, "WAV"),
    (E.FLAC, 16_000, "FLAC"), (E.FLAC, 0, "FLAC"), (E.MULAW, 8_000, ""), (E.ALAW, 8_000, ""),
])  # fmt: skip
async def test_encodings_and_rates(port, noise, encoding, rate, header):
    samples, file = noise(1, 8000), io.BytesIO()
    if header:
        soundfile.write(file, samples, 16_000, format=header)
    audio = file.getvalue() or (samples.astype("u1") if encoding in (E.MULAW, E.ALAW) else samples).tobytes()
    asked = {"encoding": encoding, "sample_rate_hertz": rate}
    assert await streamed(port, audio, streaming(**asked), chunk=5) == []  # the fake model's ear hears no speech in noise
    assert not (await whole(port, audio, config(**asked))).results


@pytest.mark.parametrize(("fields", "words"), [
    ({"sample_rate_hertz": 7000}, "config.sample_rate_hertz: 7000"),
    ({"sample_rate_hertz": -1}, "config.sample_rate_hertz: -1 is negative"),
    ({"encoding": E.OGGOPUS}, "config.encoding: OGGOPUS"), ({"encoding": 77}, "config.encoding: 77"),
    ({"encoding": E.ENCODING_UNSPECIFIED}, "config.encoding: unset"), ({"encoding": E.FLAC}, "config.encoding: FLAC, but"),
    ({"language_code": "de-DE"}, "config.language_code: 'de-DE'"), ({"max_alternatives": 2}, "config.max_alternatives: 2"),
    ({"max_alternatives": -2}, "config.max_alternatives: -2"), ({"profanity_filter": True}, "config.profanity_filter: not supported"),
    ({"speech_contexts": [{"phrases": ["a"]}]}, "config.speech_contexts: not supported"),
    ({"audio_channel_count": 2}, "config.audio_channel_count: 2"),
    ({"enable_automatic_punctuation": True}, "config.enable_automatic_punctuation: not supported"),
    ({"enable_separate_recognition_per_channel": True}, "config.enable_separate_recognition_per_channel: not supported"),
    ({"diarization_config": {"enable_speaker_diarization": True}}, "config.diarization_config: not supported"),
    ({"endpointing_config": {"start_threshold": 0.2}}, "config.endpointing_config.start_threshold: not supported"),
    ({"endpointing_config": {"start_history": 5}}, "config.endpointing_config.start_history: 5"),
    ({"endpointing_config": {"stop_history": -5}}, "config.endpointing_config.stop_history: -5"),
    ({"endpointing_config": {"stop_history_eou": 200}}, "config.endpointing_config.stop_history_eou: has no meaning without"),
    ({"custom_configuration": {"adapt": "dsutta"}}, "config.custom_configuration: unknown method 'dsutta'"),
    ({"custom_configuration": {"adapt": "alone", "adapt.gian": "1"}}, "config.custom_configuration: alone: unknown setting 'gian'"),
    ({"custom_configuration": {"adapts": "alone"}}, "config.custom_configuration.adapts: unknown; use adapt,"),
    ({"custom_configuration": {"finals": "both"}}, "config.custom_configuration.finals: 'both' cannot be read; use adapted or plain"),
    ({"custom_configuration": {"min_speech_ms": "-1"}}, "config.custom_configuration.min_speech_ms: '-1' cannot be read"),
    ({"custom_configuration": {"speech_threshold": "nan"}}, "config.custom_configuration.speech_threshold: nan"),
    ({"custom_configuration": {"persist": "key"}}, "config.custom_configuration.persist: "),
    ({"custom_configuration": {"key": "a b"}}, "config.custom_configuration.key: "),
    ({"custom_configuration": {"interim_ms": "100"}}, "config.custom_configuration.interim_ms: "),
])  # fmt: skip
async def test_what_cannot_be_honoured_is_refused_by_riva_s_name(port, noise, fields, words):
    samples = noise(1, 1600).tobytes()
    for call, place in ((streamed(port, samples, streaming(**fields)), "streaming_config."), (whole(port, samples, config(**fields)), "")):
        code, details, metadata = await refused(call)
        assert code == "INVALID_ARGUMENT" and details.startswith(place + words), details
        found = error_details_pb2.BadRequest()
        assert status_pb2.Status.FromString(metadata["grpc-status-details-bin"]).details[0].Unpack(found)
        assert details.startswith(found.field_violations[0].field)


async def test_a_model_that_is_not_here_and_a_recording_with_a_method_that_carries_on(port, noise):
    samples = noise(1, 1600).tobytes()
    assert (await refused(streamed(port, samples, streaming(model="conformer"))))[:2] == (
        "NOT_FOUND", "streaming_config.config.model: 'conformer' is not served; this server has 'fake'")  # fmt: skip
    code, details, _ = await refused(whole(port, samples, config(custom_configuration={"adapt": "count"})))
    assert code == "INVALID_ARGUMENT" and details.startswith("config.custom_configuration.adapt: count carries on")
    request = riva.proto.riva_asr_pb2.RivaSpeechRecognitionConfigRequest(model_name="conformer")
    code, details, _ = await refused(asyncio.to_thread(service(port).stub.GetRivaSpeechRecognitionConfig, request))
    assert code == "NOT_FOUND" and details.startswith("model_name: 'conformer'")


async def test_an_identifier_comes_back_and_a_client_that_goes_away_commits_nothing(serving, noise):
    loopback = await serving(riva=True)
    loopback.server.service._ear = lambda: lambda window: 1.0
    asr, messages = riva.proto.riva_asr_pb2_grpc, riva.proto.riva_asr_pb2
    asked = streaming(interim=True, custom_configuration={"adapt": "count", "key": "anna", "persist": "key", "interim_ms": "40"})
    call = asr.RivaSpeechRecognitionStub(loopback.channel).StreamingRecognize()
    await call.write(messages.StreamingRecognizeRequest(streaming_config=asked, id={"value": "mine"}))
    await call.write(messages.StreamingRecognizeRequest(audio_content=noise(1, 8000).tobytes()))
    response = await asyncio.wait_for(call.read(), 20)
    assert response.id.value == "mine" and not response.results[0].is_final
    call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 20)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await loopback.stub.GetAdaptationState(pb.GetAdaptationStateRequest(adaptation_key="anna"))
    assert error.value.code().name == "NOT_FOUND"
    assert texts(await streamed(loopback.server.port, noise(1, 8000).tobytes(), asked))[-1].endswith("after 0")
    assert texts(await streamed(loopback.server.port, noise(1, 8000).tobytes(), asked))[-1].endswith("after 1")


async def test_the_probable_end_is_an_interim_result_of_stability_one(serving, noise):
    loopback = await serving(riva=True)
    loopback.server.service._ear = lambda: lambda window: float(abs(window).max() > 0.05)
    sound = noise(1, 12_800).tobytes() + bytes(9_600) + noise(2, 12_800).tobytes() + bytes(32_000)
    asked = streaming(interim=True, endpointing_config={"stop_history": 600, "stop_history_eou": 200, "start_history": 64})
    found = [response.results[0] for response in await streamed(loopback.server.port, sound, asked)]
    assert found[-1].is_final and any(result.stability == 1 and not result.is_final for result in found)


async def test_a_token_comes_as_riva_s_client_sends_it(serving, noise, tmp_path):
    loopback = await serving(riva=True, **{"security.tokens": tokens(tmp_path / "tokens", secret="acme")})
    samples = noise(1, 1600).tobytes()
    assert (await refused(whole(loopback.server.port, samples, config())))[0] == "UNAUTHENTICATED"
    auth = riva.Auth(uri=f"127.0.0.1:{loopback.server.port}", metadata_args=[["authorization", "Bearer secret"]])
    assert not (await asyncio.to_thread(riva.ASRService(auth).offline_recognize, samples, config())).results


async def test_without_the_setting_there_is_no_riva(serving, noise):
    loopback = await serving()
    assert (await refused(whole(loopback.server.port, noise(1, 160).tobytes(), config())))[0] == "UNIMPLEMENTED"


async def test_what_comes_in_the_wrong_order(port):
    messages = riva.proto.riva_asr_pb2
    first = messages.StreamingRecognizeRequest(streaming_config=streaming())
    sound = messages.StreamingRecognizeRequest(audio_content=bytes(320))
    for requests in ([], [sound], [first, sound, first], [messages.StreamingRecognizeRequest(runtime_config={"a": "b"})]):
        stream = service(port).stub.StreamingRecognize
        code, details, _ = await refused(asyncio.to_thread(lambda r=requests, s=stream: list(s(iter(r)))))
        assert code == "INVALID_ARGUMENT" and details.startswith(("streaming_config: ", "runtime_config: "))
