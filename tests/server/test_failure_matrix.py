"""Rows 1 to 10, 12, 13 and 26 of the failure matrix, through a real socket: the status, its words, the state, and that others go on."""

from __future__ import annotations

import asyncio
import io
from contextlib import suppress

import grpc
import numpy as np
import pytest
import soundfile
from google.rpc import error_details_pb2, status_pb2

from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server.main import _options

E, A = pb.Endpointing, pb.Adaptation


async def refused(loopback, *requests):
    """The status of a stream that says these requests, and what had come before it."""
    talk = loopback.talk()
    with suppress(grpc.aio.AioRpcError):  # the refusal may come before the last request has gone
        for request in requests:
            await talk.call.write(request)
        await talk.call.done_writing()
    rest = await talk.rest()
    return *await talk.ended(), rest


def request(**member):
    return pb.StreamingRequest(**member)


def pcm(samples):
    return request(audio=pb.Audio(content=samples.astype("<i2").tobytes()))


def served(loopback):
    """The server side of the stream that a test names "this"; others may be on their way out."""
    streams = loopback.server.service.streams.values()
    return next((each for each in streams if each.session.opening.config.request_id == "this"), None)


async def failing(loopback, talk, noise):
    """A stream with one committed utterance, and its server side."""
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.next("adaptation_event")
    stream = served(loopback)
    return stream, stream.session.state.digest()


FINISH = request(control=pb.FINISH)


async def test_row_1_the_first_message_is_the_config_and_the_only_one(serving, asked, undisturbed):
    loopback = await serving()
    config = request(config=asked())
    async with undisturbed(loopback):
        for requests, words in (
            ([request(audio=pb.Audio(content=b"\0\0"))], "config: the first message of a stream must be `config`"),
            ([config, config], "config: sent twice; one stream has one config"),
            ([], "config: the stream ended before its first message, which must be `config`"),
        ):
            code, details, _ = await refused(loopback, *requests)
            assert (code, details) == ("INVALID_ARGUMENT", words)
        code, _, rest = await refused(loopback, config, FINISH)
        assert code == "OK" and rest[-1].closed.state_version == 0


@pytest.mark.parametrize(("field", "value", "code"), [
    ("encoding", 0, "INVALID_ARGUMENT"), ("sample_rate_hz", 7_999, "INVALID_ARGUMENT"), ("sample_rate_hz", 48_001, "INVALID_ARGUMENT"),
    ("channels", 2, "INVALID_ARGUMENT"), ("language", "fr-FR", "INVALID_ARGUMENT"), ("model", "other", "NOT_FOUND"),
])  # fmt: skip
async def test_row_2_a_wrong_config_names_its_field_in_the_details_too(serving, asked, undisturbed, field, value, code):
    loopback = await serving()
    async with undisturbed(loopback):
        talk = loopback.talk()
        await talk.send(config=asked(**{field: value}))
        assert await talk.rest() == []
        found = await talk.ended()
        assert found[0] == code and found[1].startswith(f"config.{field}: ")
        trailing = dict(await talk.call.trailing_metadata())
        status, bad = status_pb2.Status.FromString(trailing["grpc-status-details-bin"]), error_details_pb2.BadRequest()
        assert status.details[0].Unpack(bad) and bad.field_violations[0].field == f"config.{field}"


@pytest.mark.parametrize(("config", "later", "words"), [
    ({"punctuation": True}, None, "config.punctuation"), ({"boosts": [pb.Boost(phrases=["x"])]}, None, "config.boosts"),
    ({"adaptation": A(method="none", max_latency_ms=9)}, None, "config.adaptation.max_latency_ms"),
    ({}, request(audio=pb.Audio(content=b"\0\0", capture_time={"seconds": 1})), "audio.capture_time"),
])  # fmt: skip
async def test_row_3_what_is_not_supported_is_refused_by_its_path(serving, asked, undisturbed, config, later, words):
    loopback = await serving()
    async with undisturbed(loopback):
        code, details, _ = await refused(loopback, request(config=asked(**config)), *([later] if later else []))
        assert code == "INVALID_ARGUMENT" and details.startswith(f"{words}: ")


async def test_row_4_half_a_sample_waits_and_is_dropped_with_a_warning_at_the_end(serving, asked, noise, undisturbed):
    loopback = await serving()
    data = noise(5, 1600).tobytes()
    odd = [request(audio=pb.Audio(content=part)) for part in (data[:333], data[333:1000], data[1000:], b"\1")]
    async with undisturbed(loopback):
        code, _, rest = await refused(loopback, request(config=asked()), *odd, FINISH)
        _, _, even = await refused(loopback, request(config=asked()), pcm(noise(5, 1600)), FINISH)
    assert code == "OK" and [r.warning.code for r in rest if r.HasField("warning")] == ["TRUNCATED_SAMPLE"]
    assert [r for r in rest if r.WhichOneof("response") in ("result", "refinement", "adaptation_event")] == even[1:-1]


async def test_row_5_no_numbers_are_refused_and_what_is_odd_is_heard_but_not_learnt_from(serving, asked, undisturbed):
    loopback = await serving()
    wave = np.sin(np.arange(16_000) / 20)
    odd = {"SILENT": np.zeros(16_000), "OFFSET": 6_000 + 300 * wave, "CLIPPED": np.clip(3 * wave, -1, 1) * 32_767}
    async with undisturbed(loopback):
        for bad in (np.nan, np.inf):
            content = np.array([0.1, bad], "<f4").tobytes()
            code, details, _ = await refused(loopback, request(config=asked(encoding=pb.FLOAT32)), request(audio=pb.Audio(content=content)))
            assert code == "INVALID_ARGUMENT" and details.startswith("audio.content: FLOAT32 samples hold NaN or infinity")
        for name, samples in odd.items():
            code, _, rest = await refused(loopback, request(config=asked()), pcm(samples), FINISH)
            assert code == "OK" and [r.warning.code for r in rest if r.HasField("warning")] == [name]
            assert [r.result.is_final for r in rest if r.HasField("result")] == [True]
            (event,) = (r.adaptation_event for r in rest if r.HasField("adaptation_event"))
            assert event.kind == pb.AdaptationEvent.SKIPPED and event.reason == ("no speech" if name == "SILENT" else name.lower())
            assert rest[-1].closed.state_version == rest[-1].closed.steps == 0


def container(samples, kind):
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
async def test_row_6_a_broken_container_ends_the_stream_and_what_was_said_stays(serving, asked, noise, undisturbed, kind):
    loopback = await serving()
    config, data = request(config=asked(encoding=pb.CONTAINER, sample_rate_hz=0, request_id="this")), container(noise(1, 16_000), kind)
    async with undisturbed(loopback):
        talk = loopback.talk()
        await talk.call.write(config)
        for start in range(0, len(data) // 2, 1000):
            await talk.send(audio=pb.Audio(content=data[start : start + 1000]))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
        await talk.next("adaptation_event")
        stream = served(loopback)
        await talk.send(control=pb.FINISH)
        assert await talk.rest() == []
        code, details = await talk.ended()
        assert code == "INVALID_ARGUMENT" and details.startswith("audio.content: the container is ")
        assert stream.session.version == 1
        spoilt = bytearray(data)
        spoilt[:44] = b"x" * 44
        code, details, rest = await refused(loopback, config, request(audio=pb.Audio(content=bytes(spoilt))))
        assert (
            code == "INVALID_ARGUMENT" and "begins with RIFF or fLaC" in details and [r.WhichOneof("response") for r in rest] == ["opened"]
        )


async def test_row_6_utterances_that_wait_are_still_answered_before_the_status(serving, asked, noise, undisturbed):
    loopback = await serving()
    data = container(noise(1, 16_000), "FLAC")
    async with undisturbed(loopback):
        config = request(config=asked(encoding=pb.CONTAINER, sample_rate_hz=0, endpointing=E(mode=E.EXTERNAL, max_utterance_ms=500)))
        code, _, rest = await refused(loopback, config, request(audio=pb.Audio(content=data[:-900])), FINISH)
    assert code == "INVALID_ARGUMENT" and sum(r.HasField("refinement") for r in rest) == 1 and not rest[-1].HasField("closed")


@pytest.mark.parametrize(("size", "words"), [
    (262_146, "audio.content: 262146 bytes are above the limit of 262144 bytes; send smaller pieces"),
    (11_000_000, "Received message larger than max"),
])  # fmt: skip
async def test_row_7_too_large_a_chunk_ends_this_stream(serving, noise, undisturbed, size, words):
    loopback = await serving()
    async with undisturbed(loopback):
        talk = await loopback.opened(request_id="this")
        stream, digest = await failing(loopback, talk, noise)
        await talk.send(audio=pb.Audio(content=bytes(size)))
        assert await talk.rest() == []
        code, details = await talk.ended()
        assert code == "RESOURCE_EXHAUSTED" and details.removeprefix("SERVER: ").startswith(words)
        await asyncio.wait_for(loopback.until_gone(stream), 10)
        assert (stream.session.version, stream.session.state.digest()) == (1, digest)


async def test_row_8_faster_than_real_time_is_held_back_and_nothing_is_lost(serving, asked, noise, fakes, undisturbed):
    loopback = await serving()
    count, samples = 40, noise(3, 8000)
    async with undisturbed(loopback):
        requests = [request(config=asked())]
        for _ in range(count):
            requests += [pcm(samples), request(control=pb.FINALIZE_UTTERANCE)]
        talk = loopback.talk()
        sending = asyncio.create_task(_all_sent(talk, [*requests, FINISH]))
        rest = await talk.rest()
        await sending
    finals = [r.result.alternatives[0].transcript for r in rest if r.HasField("result")]
    assert len(finals) == count and len(set(finals)) == 1 and rest[-1].closed.state_version == count
    assert rest[-1].closed.audio.ToMilliseconds() == 500 * count
    assert dict(_options(loopback.server.config))["grpc.http2.bdp_probe"] == 0


async def _all_sent(talk, requests):
    for each in requests:
        await talk.call.write(each)


async def test_row_9_a_stalled_client_frees_its_place_and_keeps_its_last_commit(serving, noise, undisturbed):
    loopback = await serving(**{"timeouts.idle_s": 2.0, "limits.streams": 2})
    async with undisturbed(await serving()):  # on a server where this would not be idle itself
        talk = await loopback.opened(request_id="this")
        stream, digest = await failing(loopback, talk, noise)
        await talk.say(noise(2, 1600))
        assert await talk.rest() == []
        code, details = await talk.ended()
        assert code == "DEADLINE_EXCEEDED" and details.startswith("no audio for 2 s")
        assert (stream.session.version, stream.session.state.digest()) == (1, digest)
        await asyncio.wait_for(loopback.until_idle(), 10)


async def test_row_10_a_client_that_never_reads_is_ended_and_keeps_its_last_commit(serving, asked, noise, fakes, undisturbed):
    loopback, content = await serving(**{"limits.unread_responses": 16}), noise(1, 160).tobytes()

    def flood():
        yield request(config=asked(request_id="this"))
        while True:
            yield request(audio=pb.Audio(content=content))
            yield request(control=pb.FINALIZE_UTTERANCE)

    async with undisturbed(loopback):
        fakes.model.tail = " and so on" * 1000  # fills the client's window soon
        with grpc.insecure_channel(f"127.0.0.1:{loopback.server.port}", options=[("grpc.http2.bdp_probe", 0)]) as channel:
            call = asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize(flood())
            while (stream := served(loopback)) is None:
                await asyncio.sleep(0.01)
            await asyncio.wait_for(loopback.until_gone(stream), 30)
            fakes.model.tail = ""
            with pytest.raises(grpc.RpcError) as ended:
                await asyncio.to_thread(list, call)
    assert ended.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "16 responses are unread" in ended.value.details()
    assert len(stream.session.state.record["seen"]) == stream.session.version


async def test_row_12_a_stream_that_is_too_long_ends_behind_its_last_words_and_says_where(serving, noise, undisturbed):
    loopback = await serving(**{"limits.stream_s": 2.0})
    async with undisturbed(loopback):
        talk = await loopback.opened(endpointing=E(mode=E.EXTERNAL, max_utterance_ms=800), request_id="this")
        stream = served(loopback)
        await talk.say(noise(1, 40_000))
        rest = await talk.rest()
        code, details = await talk.ended()
    assert code == "OUT_OF_RANGE" and details.startswith("audio: 2.1 s are above the limit of 2 s; open another stream there")
    assert f"session_id={stream.session.name} final_ms=1600" in details
    assert [r.result.end.ToMilliseconds() for r in rest if r.HasField("result")] == [800, 1600]
    assert stream.session.version == sum(r.HasField("refinement") for r in rest) == 2 and not rest[-1].HasField("closed")


async def test_row_13_an_utterance_without_a_pause_is_cut_and_each_piece_is_learnt_from_alone(serving, asked, noise, undisturbed):
    loopback = await serving()
    async with undisturbed(loopback):
        config = request(config=asked(endpointing=E(mode=E.EXTERNAL, max_utterance_ms=600)))
        code, _, rest = await refused(loopback, config, pcm(noise(1, 24_000)), FINISH)
    assert code == "OK" and [r.result.end.ToMilliseconds() for r in rest if r.HasField("result")] == [600, 1200, 1500]
    forced = [r.speech_event for r in rest if r.HasField("speech_event")]
    assert [(e.kind, e.offset.ToMilliseconds()) for e in forced] == [(pb.SpeechEvent.FORCED, 600), (pb.SpeechEvent.FORCED, 1200)]
    assert [r.refinement.alternatives[0].transcript.split()[0] for r in rest if r.HasField("refinement")] == ["9600", "9600", "4800"]


@pytest.mark.parametrize(("fields", "words"), [
    ({"boosts": [pb.Boost(phrases=["x"])] * 1_000_000}, "config.boosts: "),
    ({"request_id": "x" * 1_000_000}, "config.request_id: "),
    ({"language": "x" * 1_000_000}, "config.language: "),
    ({"adaptation": A(adaptation_key="../../etc/passwd")}, "config.adaptation.adaptation_key: "),
    ({"adaptation": A(method="count", settings={"gain": "1" * 1_000_000})}, "config.adaptation.settings: "),
    ({"adaptation": A(method="count", settings={f"k{n}": "1" for n in range(100_000)})}, "config.adaptation.settings: "),
])  # fmt: skip
async def test_row_26_an_abusive_config_is_refused_by_size_and_by_letters(serving, asked, undisturbed, fields, words):
    loopback = await serving()
    async with undisturbed(loopback):
        code, details, rest = await refused(loopback, request(config=asked(**fields)))
        assert code == "INVALID_ARGUMENT" and details.startswith(words) and len(details) < 300 and rest == []
