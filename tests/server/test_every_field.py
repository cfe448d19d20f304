"""Each field of a stream's config, found in the descriptor itself: honoured with an effect that can be seen, or refused by name."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from asrlife.audio.speak import speak
from asrlife.v1 import asrlife_pb2 as pb
from tests.server.test_complaints import finals, of

E, A, Interim = pb.Endpointing, pb.Adaptation, pb.Interim
SERVER = E(mode=E.SERVER)
REFUSED = {
    "boosts.phrases": {"boosts": [pb.Boost(phrases=["kitchen"])]},
    "boosts.weight": {"boosts": [pb.Boost(weight=1)]},
    "punctuation": {"punctuation": True},
}


def leaves(descriptor, above=""):
    """The paths of all fields that hold a value; a map and a duration are values."""
    for field in descriptor.fields:
        path = f"{above}{field.name}"
        inner = field.message_type
        if field.type != FieldDescriptor.TYPE_MESSAGE or inner.GetOptions().map_entry or inner.full_name.startswith("google.protobuf."):
            yield path
        else:
            yield from leaves(inner, f"{path}.")


def texts(rest):
    return [each.alternatives[0].transcript for each in finals(rest)]


def refined(rest):
    return [each.alternatives[0].transcript for each in of("refinement", rest)]


def kinds(rest):
    return [event.kind for event in of("speech_event", rest)]


def interims(rest):
    return [each for each in of("result", rest) if not each.is_final]


def first(rest):
    return finals(rest)[0].alternatives[0]


def refinements_after(rest):
    return [int(text.rpartition(" ")[2]) for text in refined(rest)]


# by path: config fields without it, config fields with it, and what then holds of the responses (without, with)
HONOURED = {
    "encoding": (
        {},
        {"encoding": pb.MULAW},
        lambda a, b: texts(a) != texts(b) and b[-1].closed.audio.ToSeconds() == 2 * a[-1].closed.audio.ToSeconds(),
    ),
    "sample_rate_hz": ({}, {"sample_rate_hz": 8000}, lambda a, b: b[-1].closed.audio.ToSeconds() == 2 * a[-1].closed.audio.ToSeconds()),
    "channels": ({"channels": 1}, {"channels": 2}, "config.channels: 2 channels"),
    "language": ({"language": "en-GB"}, {"language": "de"}, "config.language: 'de'"),
    "model": ({"model": "fake"}, {"model": "other"}, "config.model: 'other'"),
    "interim.enable": ({}, {"interim": Interim(enable=True)}, lambda a, b: not interims(a) and interims(b)),
    "interim.min_interval_ms": (
        {"interim": Interim(enable=True, min_interval_ms=60_000)},
        {"interim": Interim(enable=True, min_interval_ms=100)},
        lambda a, b: not interims(a) and interims(b),
    ),
    "max_alternatives": (
        {},
        {"max_alternatives": 3},
        lambda a, b: (len(finals(a)[0].alternatives), len(finals(b)[0].alternatives)) == (1, 3),
    ),
    "word_times": (
        {},
        {"word_times": True},
        lambda a, b: not first(a).words and first(b).words[0].HasField("end") and not first(b).words[0].HasField("confidence"),
    ),
    "word_confidence": (
        {},
        {"word_confidence": True},
        lambda a, b: not first(a).words and first(b).words[0].HasField("confidence") and not first(b).words[0].HasField("end"),
    ),
    "endpointing.mode": ({}, {"endpointing": SERVER}, lambda a, b: finals(a) and not finals(b)),  # it is noise
    "endpointing.start_ms": ({"endpointing": SERVER}, {"endpointing": E(start_ms=2000)}, lambda a, b: finals(a) and not finals(b)),
    "endpointing.stop_ms": (
        {"endpointing": E(stop_ms=200)},
        {"endpointing": E(stop_ms=2000)},
        lambda a, b: len(finals(a)) == 2 and len(finals(b)) == 1,
    ),
    "endpointing.stop_eou_ms": (
        {"endpointing": SERVER},
        {"endpointing": E(stop_eou_ms=100)},
        lambda a, b: pb.SpeechEvent.EOU in kinds(b) and pb.SpeechEvent.EOU not in kinds(a),
    ),
    "endpointing.max_utterance_ms": (
        {},
        {"endpointing": E(mode=E.EXTERNAL, max_utterance_ms=500)},
        lambda a, b: len(finals(a)) == 1 and len(finals(b)) == 2,
    ),
    "endpointing.threshold": (
        {"endpointing": E(threshold=0.95)},
        {"endpointing": E(threshold=0.05)},
        lambda a, b: finals(a)[0].start.ToMilliseconds() > finals(b)[0].start.ToMilliseconds(),
    ),
    "vad_events": (
        {"endpointing": SERVER},
        {"endpointing": SERVER, "vad_events": True},
        lambda a, b: not kinds(a) and pb.SpeechEvent.BEGIN in kinds(b),
    ),
    "speech_start_timeout": (
        {"endpointing": SERVER},
        {"endpointing": SERVER, "speech_start_timeout": Duration(nanos=100_000_000)},
        lambda a, b: kinds(b) == [pb.SpeechEvent.TIMEOUT] and not kinds(a),
    ),
    "speech_end_timeout": (
        {"endpointing": E(stop_ms=100)},
        {"endpointing": E(stop_ms=100), "speech_end_timeout": Duration(nanos=300_000_000)},
        lambda a, b: kinds(b) == [pb.SpeechEvent.TIMEOUT] and not kinds(a),
    ),
    "cursors": ({}, {"cursors": True}, lambda a, b: not of("cursors", a) and of("cursors", b)),
    "request_id": (
        {"request_id": "a"},
        {"request_id": "b"},
        lambda a, b: (a[0].opened.config.request_id, b[0].opened.config.request_id) == ("a", "b"),
    ),
    "session_id": ({}, {"session_id": "mine"}, lambda a, b: a[0].opened.session_id != b[0].opened.session_id == "mine"),
    "resume_after_utterance": (
        {"session_id": "mine", "adaptation": A(method="count", persist=A.SESSION)},
        {"session_id": "mine", "adaptation": A(method="count", persist=A.SESSION), "resume_after_utterance": 0},
        "config.session_id: 'mine' has nothing committed",
    ),
    "adaptation.method": ({}, {"adaptation": A(method="none")}, lambda a, b: refined(a) and not refined(b)),
    "adaptation.settings": (
        {},
        {"adaptation": A(method="count", settings={"gain": "3"})},
        lambda a, b: a[-1].closed.state_digest != b[-1].closed.state_digest and b[0].opened.config.adaptation.settings["gain"] == "3.0",
    ),
    "adaptation.min_speech_ms": (
        {},
        {"adaptation": A(method="count", min_speech_ms=5000)},
        lambda a, b: [e.reason for e in of("adaptation_event", b)] == ["too short"] and b[-1].closed.steps == 0 != a[-1].closed.steps,
    ),
    "adaptation.max_latency_ms": (
        {},
        {"adaptation": A(method="count", max_latency_ms=250)},
        lambda a, b: b[0].opened.config.adaptation.settings["max_latency_ms"] == "250.0",
    ),
    "adaptation.refine_finals": (
        {},
        {"adaptation": A(method="count", refine_finals=False)},
        lambda a, b: refined(a) and not refined(b) and finals(b)[0].adapted,
    ),
    "adaptation.adaptation_key": (
        {"adaptation": A(method="count", persist=A.KEY, adaptation_key="kept")},
        {"adaptation": A(method="count", adaptation_key="kept")},
        lambda a, b: refinements_after(a) == [0] and refinements_after(b) == [1],
    ),
    "adaptation.persist": (
        {"adaptation": A(method="count", adaptation_key="kept")},
        {"adaptation": A(method="count", adaptation_key="kept", persist=A.KEY)},
        lambda a, b: (
            pb.AdaptationEvent.PERSISTED in [e.kind for e in of("adaptation_event", b)]
            and pb.AdaptationEvent.PERSISTED not in [e.kind for e in of("adaptation_event", a)]
        ),
    ),
    "adaptation.read_only": (
        {"adaptation": A(method="count", adaptation_key="kept", persist=A.KEY)},
        {"adaptation": A(method="count", adaptation_key="kept", persist=A.KEY, read_only=True)},
        lambda a, b: (
            (a[-1].closed.state_version, b[-1].closed.state_version) == (1, 1) and b[-1].closed.state_digest == a[-1].closed.state_digest
        ),
    ),
    "adaptation.exclusive": (
        {"adaptation": A(method="count", adaptation_key="held", persist=A.KEY)},
        {"adaptation": A(method="count", adaptation_key="held", persist=A.KEY, exclusive=True)},
        "config.adaptation.adaptation_key: 'held' is being written",
    ),
}
SPOKEN = ("endpointing.start_ms", "endpointing.stop", "endpointing.threshold", "vad_events", "speech_end_timeout")


def test_every_field_of_the_descriptor_has_a_case_and_no_case_is_left_over():
    assert set(leaves(pb.StreamingConfig.DESCRIPTOR)) == set(HONOURED) | set(REFUSED)
    assert not set(HONOURED) & set(REFUSED)


async def heard(loopback, config, samples, awaits_interim=False):
    """All that a stream says, or why there is none."""
    talk = loopback.talk()
    await talk.send(config=config)
    opened = await talk._read()
    if not hasattr(opened, "opened"):
        return await talk.ended()
    # a stream with a timeout ends of itself, and a write that meets its end would be an error
    of_itself = config.HasField("speech_start_timeout") or config.HasField("speech_end_timeout")
    piece = len(samples) if of_itself else 1600
    for start in range(0, len(samples), piece):
        await talk.send(audio=pb.Audio(content=samples[start : start + piece].tobytes()))
        await asyncio.sleep(0)
    early = [pb.StreamingResponse(result=await talk.next("result"))] if awaits_interim else []
    if not of_itself:
        await talk.send(control=pb.FINISH)
    return [opened, *early, *await talk.rest()]


@pytest.fixture(scope="module")
def speech():
    word, pause = speak("light").samples, np.zeros(9600)
    return (np.concatenate([pause, word, pause, word, pause]) * 32_767).astype("<i2")


@pytest.mark.parametrize("path", HONOURED)
async def test_what_is_honoured_has_an_effect(serving, asked, noise, fakes, speech, path):
    fakes.model.capabilities = fakes.model.capabilities | {"alternatives"}
    loopback = await serving()
    without, with_it, effect = HONOURED[path]
    samples = speech if path.startswith(SPOKEN) else noise(1, 16_000)
    if path == "adaptation.exclusive":
        await loopback.opened(**without)
    plain = await heard(loopback, asked(**without), samples)
    changed = await heard(loopback, asked(**with_it), samples, path.startswith("interim"))
    assert isinstance(plain, list), plain
    if isinstance(effect, str):
        assert isinstance(changed, tuple) and changed[1].startswith(effect), changed
    else:
        assert isinstance(changed, list) and effect(plain, changed), (plain, changed)


@pytest.mark.parametrize("path", REFUSED)
async def test_what_is_refused_is_named(serving, asked, noise, path):
    code, details = await heard(await serving(), asked(**REFUSED[path]), noise(1, 1600))
    assert code == "INVALID_ARGUMENT" and details.startswith(f"config.{path.partition('.')[0]}: ")
