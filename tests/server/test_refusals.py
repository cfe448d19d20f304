from __future__ import annotations

import asyncio

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from asrlife.v1 import asrlife_pb2 as pb

E, A = pb.Endpointing, pb.Adaptation
REFUSED = {
    "config.encoding: ENCODING_UNSPECIFIED": {"encoding": 0},
    "config.encoding: 77": {"encoding": 77},
    "config.sample_rate_hz: 0": {"sample_rate_hz": 0},
    "config.sample_rate_hz: 96000": {"sample_rate_hz": 96_000},
    "config.sample_rate_hz: 11127": {"sample_rate_hz": 11_127},
    "config.channels: 2": {"channels": 2},
    "config.language: 'de'": {"language": "de"},
    "config.max_alternatives: 11 is above 10": {"max_alternatives": 11},
    "config.max_alternatives: 5; fake gives one": {"max_alternatives": 5},
    "config.interim.min_interval_ms: 10": {"interim": pb.Interim(enable=True, min_interval_ms=10)},
    "config.interim.min_interval_ms: set": {"interim": pb.Interim(min_interval_ms=100)},
    "config.endpointing.mode: 9": {"endpointing": E(mode=9)},
    "config.endpointing.stop_eou_ms: 600 is not within 32..499": {"endpointing": E(stop_eou_ms=600, stop_ms=500)},
    "config.endpointing.stop_eou_ms: has no meaning": {"endpointing": E(mode=E.EXTERNAL, stop_eou_ms=100)},
    "config.endpointing.stop_ms: 1 is": {"endpointing": E(stop_ms=1)},
    "config.endpointing.stop_ms: has no meaning": {"endpointing": E(mode=E.EXTERNAL, stop_ms=500)},
    "config.endpointing.threshold: nan": {"endpointing": E(threshold=float("nan"))},
    "config.endpointing.max_utterance_ms: 30000": {"endpointing": E(max_utterance_ms=30_000)},
    "config.vad_events": {"vad_events": True},
    "config.speech_start_timeout: needs": {"speech_start_timeout": Duration(seconds=1)},
    "config.speech_start_timeout: -1 s is not within": {"speech_start_timeout": Duration(seconds=-1), "endpointing": E()},
    "config.speech_end_timeout: 0 s is not within 0.1..600 s": {"speech_end_timeout": Duration(), "endpointing": E()},
    "config.boosts": {"boosts": [pb.Boost(phrases=["kitchen"])]},
    "config.punctuation": {"punctuation": True},
    "config.request_id": {"request_id": "../../etc/passwd"},
    "config.session_id: use 1 to 128": {"session_id": "a/b"},
    "config.resume_after_utterance: needs config.session_id": {"resume_after_utterance": 0},
    "config.resume_after_utterance: needs config.adaptation.persist": {"session_id": "abc", "resume_after_utterance": 0},
    "config.adaptation: unknown method 'cuont'; did you mean 'count'?": {"adaptation": A(method="cuont")},
    "config.adaptation: count: unknown setting 'gian'; did you mean 'gain'?": {"adaptation": A(method="count", settings={"gian": "1"})},
    "config.adaptation.settings.book: names a file of the server": {"adaptation": A(method="count", settings={"book": "/etc/passwd"})},
    "config.adaptation.settings": {"adaptation": A(method="count", settings={str(n): "" for n in range(65)})},
    "config.adaptation.min_speech_ms: 20001 is above": {"adaptation": A(min_speech_ms=20_001)},
    "config.adaptation.max_latency_ms: none has no such limit": {"adaptation": A(method="none", max_latency_ms=5)},
    "config.adaptation.adaptation_key: use 1 to 128": {"adaptation": A(adaptation_key="../x")},
    "config.adaptation.adaptation_key: use 1 to 128 of": {"adaptation": A(adaptation_key="x" * 129)},
    "config.adaptation.adaptation_key: use 1": {"adaptation": A(adaptation_key="anna\n")},
    "config.adaptation.adaptation_key: has no meaning with persist SESSION": {"adaptation": A(adaptation_key="anna", persist=A.SESSION)},
    "config.adaptation.adaptation_key: method 'alone' carries nothing": {"adaptation": A(method="alone", adaptation_key="anna")},
    "config.adaptation.persist: KEY needs": {"adaptation": A(persist=A.KEY)},
    "config.adaptation.persist: 9 is unknown": {"adaptation": A(persist=9)},
    "config.adaptation.read_only: has no meaning without": {"adaptation": A(read_only=True)},
    "config.adaptation.exclusive: is for streams that write": {"adaptation": A(adaptation_key="anna", exclusive=True)},
}


async def test_what_is_not_honoured_is_refused_by_name_before_opened(serving, asked):
    loopback = await serving()

    async def answer(fields):
        talk = loopback.talk()
        await talk.send(config=asked(**fields))
        assert await talk.rest() == []
        return await talk.ended()

    for words, fields in REFUSED.items():
        code, details = await answer(fields)
        assert code == "INVALID_ARGUMENT" and details.startswith(words), (words, code, details)
    code, details = await answer({"model": "whisper-large"})
    assert code == "NOT_FOUND" and "config.model" in details and "'fake'" in details


def test_every_field_of_the_config_is_settled_one_way_or_the_other():
    honoured = {"encoding", "sample_rate_hz", "channels", "language", "model", "interim", "max_alternatives", "word_times",
                "word_confidence", "endpointing", "vad_events", "adaptation", "request_id", "cursors"}  # fmt: skip
    tested = {words.split(":")[0].split(".")[1] for words in REFUSED}
    assert {field.name for field in pb.StreamingConfig.DESCRIPTOR.fields} == honoured | tested


async def test_a_field_number_nobody_knows_is_refused(serving, asked):
    talk = (await serving()).talk()
    alien = pb.StreamingConfig.FromString(asked().SerializeToString() + b"\xc8\x01\x01")  # field 25 = 1
    await talk.send(config=alien)
    assert await talk.rest() == []
    assert (await talk.ended())[1].startswith("config: field number 25")


@pytest.mark.parametrize(("first", "words"), [
    ({"audio": pb.Audio(content=b"\0\0")}, "the first message of a stream must be `config`"),
    ({"control": pb.FINISH}, "the first message of a stream must be `config`"),
    ({}, "the first message of a stream must be `config`"),
])  # fmt: skip
async def test_a_wrong_first_message_names_the_rule(serving, first, words):
    talk = (await serving()).talk()
    await talk.send(**first)
    assert await talk.rest() == []
    code, details = await talk.ended()
    assert code == "INVALID_ARGUMENT" and words in details


async def test_a_stream_without_any_message_names_the_rule(serving):
    talk = (await serving()).talk()
    await talk.call.done_writing()
    assert await talk.rest() == []
    assert (await talk.ended())[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(("second", "code", "words"), [
    ({"config": pb.StreamingConfig(encoding=pb.PCM16)}, "INVALID_ARGUMENT", "config: sent twice"),
    ({}, "INVALID_ARGUMENT", "request: holds nothing"),
    ({"control": 44}, "INVALID_ARGUMENT", "control: 44"),
    ({"control": 0}, "INVALID_ARGUMENT", "control: 0"),
    ({"audio": pb.Audio(capture_time={"seconds": 1})}, "INVALID_ARGUMENT", "audio.capture_time"),
    ({"audio": pb.Audio(content=bytes(262_146))}, "RESOURCE_EXHAUSTED", "audio.content: 262146 bytes are above the limit of 262144 bytes"),
    ({"silence": pb.Silence(duration_ms=10_001)}, "RESOURCE_EXHAUSTED", "silence.duration_ms: 10001 ms are above the limit of 10000 ms"),
])  # fmt: skip
async def test_a_wrong_later_message_ends_this_stream_with_its_reason(serving, second, code, words):
    loopback = await serving()
    talk, other = await loopback.opened(), await loopback.opened()
    await talk.send(**second)
    assert await talk.rest() == []
    found = await talk.ended()
    assert found[0] == code and found[1].startswith(words)
    await other.send(control=pb.FINISH)
    assert [r.WhichOneof("response") for r in await other.rest()] == ["closed"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
async def test_samples_that_are_no_numbers_are_refused(serving, bad):
    talk = await (await serving()).opened(encoding=pb.FLOAT32)
    await talk.send(audio=pb.Audio(content=np.array([0.1, bad], "<f4").tobytes()))
    assert await talk.rest() == []
    code, details = await talk.ended()
    assert code == "INVALID_ARGUMENT" and details.startswith("audio.content: FLOAT32 samples hold NaN")


async def test_more_streams_than_allowed_are_refused_and_a_place_comes_free(serving, asked):
    loopback = await serving(**{"limits.streams": 1})
    first = await loopback.opened()
    second = loopback.talk()
    await second.send(config=asked())
    assert await second.rest() == []
    code, details = await second.ended()
    assert code == "RESOURCE_EXHAUSTED" and "1 streams are open" in details
    await first.send(control=pb.FINISH)
    await first.rest()
    await (await loopback.opened()).send(control=pb.FINISH)


async def test_a_client_that_says_nothing_is_ended_and_keepalive_prevents_it(serving):
    loopback = await serving(**{"timeouts.first_message_s": 0.2, "timeouts.idle_s": 1.0})
    silent = loopback.talk()
    assert await silent.rest() == []
    code, details = await silent.ended()
    assert code == "DEADLINE_EXCEEDED" and "no first message for 0.2 s" in details
    talk = await loopback.opened()
    for _ in range(5):
        await asyncio.sleep(0.3)
        await talk.send(control=pb.KEEPALIVE)
    assert not talk.status.done()
    assert await talk.rest() == []
    code, details = await talk.ended()
    assert code == "DEADLINE_EXCEEDED" and "no audio for 1 s" in details and "KEEPALIVE" in details
