"""What a client may ask of a stream beyond words: where it is, when speech stops coming, what else it may have been."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from asrlife.audio.speak import speak
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.cursors import Cursors

E, A, S = pb.Endpointing, pb.Adaptation, pb.SpeechEvent
NONE = A(method="none")


def of(kind, responses):
    return [getattr(response, kind) for response in responses if response.HasField(kind)]


def tuples(cursors):
    return [(c.received_ms, c.processed_ms, c.final_ms, c.adapted_ms, c.backlog_ms) for c in cursors]


@pytest.fixture(scope="module")
def speech():
    return (speak("turn on the kitchen light please").samples * 32767).astype(np.int16)


async def test_cursors_come_once_a_second_of_audio_and_at_the_end(serving, noise):
    talk = await (await serving()).opened(cursors=True, endpointing=E(mode=E.EXTERNAL, max_utterance_ms=1500), adaptation=NONE)
    await talk.say(noise(1, 52_000))
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    cursors = of("cursors", rest)
    assert [c.received_ms for c in cursors] == [1000, 2000, 3000, 3250] and rest[-1].HasField("closed")
    assert tuples(cursors)[0] == (1000, 0, 0, 0, 0) and tuples(cursors)[-1] == (3250, 3250, 3250, 3250, 0)
    for c in cursors:
        assert c.adapted_ms <= c.final_ms <= c.processed_ms <= c.received_ms and c.backlog_ms <= c.received_ms - c.final_ms


def test_cursors_say_what_waits_for_the_model_and_for_its_adaptation():
    cursors, told = Cursors(1000, adapts=True), lambda begun: tuples([cursors.message(begun).cursors])[0]
    cursors.received = 900
    assert told(200) == (900, 200, 200, 200, 0)  # somebody has spoken since 200
    cursors.guessed(850)
    assert told(200) == (900, 850, 200, 200, 0)
    cursors.cut((200, 1000))
    cursors.cut((1000, 1500))
    cursors.received = 1800
    assert told(1600) == (1800, 850, 200, 200, 1300)
    cursors.finalised()
    assert told(1600) == (1800, 1000, 1000, 200, 500)
    cursors.adapted()
    cursors.finalised()
    assert told(None) == (1800, 1800, 1800, 1000, 0)
    cursors.adapted()
    assert told(None) == (1800, 1800, 1800, 1800, 0)


async def test_without_asking_there_are_no_cursors(serving, noise):
    talk = await (await serving()).opened()
    await talk.say(noise(1, 40_000))
    await talk.send(control=pb.FINISH)
    assert not of("cursors", await talk.rest())


@pytest.mark.parametrize("frozen", [False, True])
async def test_where_nothing_is_to_be_refined_the_final_is_the_adapted_text(serving, noise, frozen):
    talk = await (await serving()).opened(adaptation=A(method="count", refine_finals=False))
    if frozen:
        await talk.send(control=pb.FREEZE)
    for index in range(2):
        await talk.say(noise(index, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    assert not of("refinement", rest) and len(of("adaptation_event", rest)) == 2
    finals = of("result", rest)
    assert [(f.utterance_index, f.is_final, f.adapted, f.state_version) for f in finals] == [
        (0, True, not frozen, int(not frozen)), (1, True, not frozen, 2 * int(not frozen))]  # fmt: skip
    assert [f.alternatives[0].transcript.endswith(f"after {f.utterance_index}") for f in finals] == [not frozen] * 2


async def test_effective_values_are_echoed(serving):
    loopback = await serving()
    talk = loopback.talk()
    await talk.send(config=pb.StreamingConfig(
        encoding=pb.CONTAINER, cursors=True, max_alternatives=0, endpointing=E(stop_ms=600, stop_eou_ms=200),
        speech_start_timeout=Duration(seconds=2), adaptation=A(method="count", max_latency_ms=250, refine_finals=False),
    ))  # fmt: skip
    config = (await talk.next("opened")).config
    assert (config.sample_rate_hz, config.max_alternatives, config.endpointing.stop_eou_ms, config.cursors) == (16_000, 1, 200, True)
    assert config.adaptation.settings["max_latency_ms"] == "250.0" and config.adaptation.max_latency_ms == 250
    assert config.adaptation.HasField("refine_finals") and not config.adaptation.refine_finals
    await talk.send(control=pb.FINISH)
    await talk.rest()
    default = loopback.talk()
    await default.send(config=pb.StreamingConfig(encoding=pb.PCM16, sample_rate_hz=8_000, adaptation=A(method="count")))
    assert (await default.next("opened")).config.adaptation.refine_finals


async def test_finals_have_as_many_alternatives_as_were_asked_for(serving, noise, fakes):
    fakes.model.capabilities = fakes.model.capabilities | {"alternatives"}
    talk = await (await serving()).opened(max_alternatives=3, interim=pb.Interim(enable=True, min_interval_ms=100))
    await talk.say(noise(1, 1600))
    guess = await talk.next("result")
    await talk.send(control=pb.FINISH)
    final = await talk.next("result")
    assert len(guess.alternatives) == 1 and [a.transcript.split()[-1] for a in final.alternatives] == ["0", "1", "2"]
    assert sorted((a.confidence for a in final.alternatives), reverse=True) == [a.confidence for a in final.alternatives]


async def test_a_stream_without_speech_times_out_and_closes_well(serving):
    loopback = await serving()
    talk = await loopback.opened(endpointing=E(), speech_start_timeout=Duration(nanos=700_000_000))
    await talk.say(np.zeros(32_000, np.int16))
    rest = await talk.rest()
    (event,) = of("speech_event", rest)
    assert (event.kind, event.offset.ToMilliseconds()) == (S.TIMEOUT, 700)
    assert rest[-1].HasField("closed") and await talk.ended() == ("OK", "")
    other = await loopback.opened()
    await other.send(control=pb.FINISH)
    assert len(await other.rest()) == 1 and (await other.ended())[0] == "OK"


async def test_a_stream_that_falls_silent_times_out_behind_its_last_words(serving, speech):
    talk = await (await serving()).opened(
        endpointing=E(), vad_events=True, speech_start_timeout=Duration(seconds=3), speech_end_timeout=Duration(seconds=1),
    )  # fmt: skip
    await talk.say(np.concatenate([np.zeros(8_000, np.int16), speech, np.zeros(8_000, np.int16), speech]))
    await talk.send(silence=pb.Silence(duration_ms=5000))
    rest = await talk.rest()
    events = of("speech_event", rest)
    assert [event.kind for event in events] == [S.BEGIN, S.END, S.BEGIN, S.END, S.TIMEOUT]
    assert events[-1].offset.ToMilliseconds() == events[-2].offset.ToMilliseconds() + 1000
    assert len([r for r in of("result", rest) if r.is_final]) == len(of("refinement", rest)) == 2
    assert rest[-1].HasField("closed") and (await talk.ended())[0] == "OK"


async def test_a_probable_end_is_said_before_the_end_and_taken_back_by_speech(serving, speech):
    talk = await (await serving()).opened(
        endpointing=E(stop_ms=800, stop_eou_ms=200), vad_events=True, adaptation=NONE,
        interim=pb.Interim(enable=True, min_interval_ms=60_000),
    )  # fmt: skip
    pause = np.zeros(6_400, np.int16)
    await talk.say(np.concatenate([pause, speech, pause, speech, pause, pause, pause]))
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    assert [event.kind for event in of("speech_event", rest)] == [S.BEGIN, S.EOU, S.EOU, S.END]
    kinds = [response.WhichOneof("response") for response in rest]
    results = of("result", rest)
    assert [r.is_final for r in results][-1] and not results[0].is_final  # the early words come with the probable end
    assert kinds.index("speech_event") < kinds.index("result")
