from __future__ import annotations

import asyncio
import threading

import grpc
import numpy as np
import pytest

from asrlife.audio.speak import speak
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server.engine import Priority


def kinds(responses):
    return [response.WhichOneof("response") for response in responses]


async def test_an_utterance_is_opened_guessed_finalised_refined_and_closed_in_this_order(serving, noise):
    loopback = await serving()
    talk = loopback.talk()
    await talk.send(config=pb.StreamingConfig(
        encoding=pb.PCM16, sample_rate_hz=16_000, interim=pb.Interim(enable=True, min_interval_ms=200), request_id="r-1",
        endpointing=pb.Endpointing(mode=pb.Endpointing.EXTERNAL), adaptation=pb.Adaptation(method="count", settings={"gain": "2"}),
        word_times=True,
    ))  # fmt: skip
    opened = await talk.next("opened")
    assert opened.config.request_id == "r-1"
    assert dict(opened.config.adaptation.settings)["gain"] == "2.0"
    assert (opened.config.language, opened.config.model, opened.config.endpointing.max_utterance_ms) == ("en", "fake", 20_000)
    assert opened.base_hash == "fake-weights"
    await talk.say(noise(1, 4800))
    guess = await talk.next("result")
    assert not guess.is_final and guess.alternatives[0].transcript.startswith(("3200 ", "4800 "))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    final, refinement, event, closed = (
        getattr(r, r.WhichOneof("response")) for r in rest if not (r.HasField("result") and not r.result.is_final)
    )
    assert final.is_final and final.alternatives[0].transcript.startswith("4800 ") and final.end.ToMilliseconds() == 300
    assert final.alternatives[0].words[0].end.ToMilliseconds() == 300
    assert refinement.alternatives[0].transcript.endswith("after 0") and refinement.state_version == 1
    assert (refinement.entropy_before, refinement.entropy_after, refinement.steps) == (2.0, 1.0, 2)
    assert event.kind == pb.AdaptationEvent.STEPPED and event.loss_after == 0.5
    assert (closed.utterances, closed.steps, closed.state_version) == (1, 2, 1) and closed.audio.ToMilliseconds() == 300
    assert await talk.ended() == ("OK", "")


async def test_finish_sends_every_refinement_before_closed(serving, noise):
    talk = await (await serving()).opened()
    for index in range(5):
        await talk.say(noise(index, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.say(noise(9, 1600))
    await talk.send(control=pb.FINISH)
    found = kinds(await talk.rest())
    assert found.count("result") == found.count("refinement") == 6 and found[-1] == "closed"


async def test_an_empty_stream_with_finish_closes_well(serving):
    talk = await (await serving()).opened()
    await talk.send(control=pb.FINISH)
    assert kinds(await talk.rest()) == ["closed"] and (await talk.ended())[0] == "OK"


async def test_cancel_in_an_utterance_commits_and_finalises_nothing(serving, noise):
    loopback = await serving()
    talk = await loopback.opened()
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.next("adaptation_event")
    (stream,) = loopback.server.service.streams.values()
    digest = stream.session.state.digest()
    await talk.say(noise(2, 3200))
    talk.call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 5)
    assert (stream.session.version, stream.session.state.digest()) == (1, digest)
    assert loopback.fakes.model.heard == [1600]


async def test_cancel_during_a_step_drops_what_the_step_learnt(serving, fakes, noise):
    begun, go_on = threading.Event(), threading.Event()
    fakes.hook = lambda: (begun.set(), go_on.wait(20))
    loopback = await serving()
    talk = await loopback.opened()
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    assert await asyncio.to_thread(begun.wait, 10)
    (stream,) = loopback.server.service.streams.values()
    talk.call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 5)
    go_on.set()
    await loopback.server.engine.run(Priority.ADAPT, int)  # waits behind the step
    other = await loopback.opened()
    assert stream.session.version == 0 and stream.session.state.record["seen"] == []
    await other.send(control=pb.FINISH)
    assert (await other.next("closed")).state_version == 0


async def test_an_end_without_finish_is_no_clean_end(serving, noise):
    loopback = await serving()
    talk = await loopback.opened()
    (stream,) = loopback.server.service.streams.values()
    await talk.say(noise(1, 1600))
    await talk.call.done_writing()
    assert kinds(await talk.rest()) == []
    code, details = await talk.ended()
    assert code == "INVALID_ARGUMENT" and "FINISH" in details
    assert stream.session.version == 0 and loopback.fakes.model.heard == []


async def test_reset_freeze_and_unfreeze_act_between_the_utterances_they_stand_between(serving, noise):
    talk = await (await serving()).opened()
    for index, control in enumerate((pb.FREEZE, pb.UNFREEZE, pb.RESET_ADAPTATION, pb.FINISH)):
        await talk.say(noise(index, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
        await talk.send(control=control)
    rest = await talk.rest()
    refined = [r.refinement.alternatives[0].transcript.split(" after ")[1] for r in rest if r.HasField("refinement")]
    assert refined == ["0", "1", "0"]  # the second utterance is frozen, the fourth starts anew
    events = [(r.adaptation_event.kind, r.adaptation_event.reason) for r in rest if r.HasField("adaptation_event")]
    assert events[1] == (pb.AdaptationEvent.SKIPPED, "frozen") and events[3] == (pb.AdaptationEvent.RESET, "requested")
    assert rest[-1].closed.resets == 1 and rest[-1].closed.state_version == 4


async def test_digital_silence_has_no_words_and_takes_no_step(serving):
    loopback = await serving()
    talk = await loopback.opened()
    await talk.say(np.zeros(16_000, np.int16))
    await talk.send(silence=pb.Silence(duration_ms=500))
    await talk.send(control=pb.FINISH)
    warned, result, event, closed = await talk.rest()
    assert warned.warning.code == "SILENT" and result.result.alternatives[0].transcript == "" and result.result.end.ToMilliseconds() == 1500
    assert (event.adaptation_event.kind, event.adaptation_event.reason) == (pb.AdaptationEvent.SKIPPED, "no speech")
    assert closed.closed.state_version == 0 and loopback.fakes.model.heard == []


async def test_without_a_method_there_are_finals_only(serving, noise, asked):
    talk = await (await serving()).opened(adaptation=pb.Adaptation())
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINISH)
    assert kinds(await talk.rest()) == ["result", "closed"]


async def test_an_utterance_without_an_end_is_cut_and_the_cut_is_said(serving, noise):
    talk = await (await serving()).opened(endpointing=pb.Endpointing(mode=pb.Endpointing.EXTERNAL, max_utterance_ms=500))
    await talk.say(noise(1, 20_000))
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    ends = [r.result.end.ToMilliseconds() for r in rest if r.HasField("result")]
    assert ends == [500, 1000, 1250]
    assert [r.speech_event.kind for r in rest if r.HasField("speech_event")] == [pb.SpeechEvent.FORCED] * 2


async def test_the_server_hears_where_speech_begins_and_ends(serving):
    loopback = await serving()
    talk = await loopback.opened(endpointing=pb.Endpointing(), vad_events=True)
    speech = (speak("turn on the kitchen light please").samples * 32767).astype(np.int16)
    gap = np.zeros(16_000, np.int16)
    await talk.say(np.concatenate([gap, speech, gap, speech, gap]))
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    events = [(r.speech_event.kind, r.speech_event.offset.ToMilliseconds() / 1000) for r in rest if r.HasField("speech_event")]
    assert [kind for kind, _ in events] == [pb.SpeechEvent.BEGIN, pb.SpeechEvent.END] * 2
    length = len(speech) / 16_000
    for found, true in zip([offset for _, offset in events], [1, 1 + length, 2 + length, 2 + 2 * length], strict=True):
        assert abs(found - true) < 0.6
    assert [r.result.is_final for r in rest if r.HasField("result")] == [True, True]


async def test_two_streams_at_once_get_what_each_gets_alone(serving, noise):
    loopback = await serving()

    async def run(seed):
        talk = await loopback.opened()
        for index in range(4):
            await talk.say(noise(100 * seed + index, 2400))
            await talk.send(control=pb.FINALIZE_UTTERANCE)
            await asyncio.sleep(0)
        await talk.send(control=pb.FINISH)
        rest = await talk.rest()
        texts = [r.refinement.alternatives[0].transcript for r in rest if r.HasField("refinement")]
        return texts, rest[-1].closed.state_digest

    solo = [await run(seed) for seed in (1, 2)]
    assert list(await asyncio.gather(run(1), run(2))) == solo and solo[0] != solo[1]


async def test_a_gap_in_the_sequence_and_half_a_sample_are_said(serving):
    talk = await (await serving()).opened()
    await talk.send(audio=pb.Audio(content=b"\1\0" * 800 + b"\1", sequence=7))
    await talk.send(audio=pb.Audio(content=b"\0" + b"\1\0" * 799, sequence=8))
    await talk.send(audio=pb.Audio(content=b"\1", sequence=10))
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    assert [r.warning.code for r in rest if r.HasField("warning")] == ["DATA_LOSS", "SILENT", "TRUNCATED_SAMPLE"]
    assert next(r.result.end.ToMilliseconds() for r in rest if r.HasField("result")) == 100


async def test_row_8_a_blocked_engine_lets_a_client_push_little(serving, noise, beside):
    loopback = await serving()
    await beside(loopback)
    talk = await loopback.opened(endpointing=pb.Endpointing(mode=pb.Endpointing.SERVER))
    go_on = threading.Event()
    blocked = asyncio.create_task(loopback.server.engine.run(0, lambda: go_on.wait(60)))
    await asyncio.sleep(0.05)
    accepted, chunk = 0, noise(1, 1600).tobytes()
    try:
        while accepted < 4_000_000:
            await asyncio.wait_for(talk.call.write(pb.StreamingRequest(audio=pb.Audio(content=chunk))), 0.5)
            accepted += len(chunk)
    except (asyncio.TimeoutError, TimeoutError):
        pass
    go_on.set()
    await blocked
    assert accepted < 200_000, accepted


async def test_a_client_that_reads_nothing_is_ended_and_others_go_on(serving, noise, asked):
    loopback = await serving(**{"limits.unread_responses": 16})
    loopback.fakes.model.tail = " and so on" * 1000  # fills the client's window soon
    content = noise(1, 160).tobytes()

    def requests():
        yield pb.StreamingRequest(config=asked())
        while True:
            yield pb.StreamingRequest(audio=pb.Audio(content=content))
            yield pb.StreamingRequest(control=pb.FINALIZE_UTTERANCE)

    with grpc.insecure_channel(f"127.0.0.1:{loopback.server.port}", options=[("grpc.http2.bdp_probe", 0)]) as channel:
        call = asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize(requests())
        while not loopback.fakes.model.heard:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(loopback.until_idle(), 30)
        other = await loopback.opened()
        await other.send(control=pb.FINISH)
        assert kinds(await other.rest()) == ["closed"]
        with pytest.raises(grpc.RpcError) as ended:
            await asyncio.to_thread(list, call)
    assert ended.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "unread" in ended.value.details()
