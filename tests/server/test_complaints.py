"""What users of other servers complain about, as tests of ours: one or more for each theme of the list in README.md beside this file."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import stream
from asrlife_server.engine import Priority
from tests.server.keeping import begun, finished, session
from tests.server.test_soak import reads_memory

E, A, SKIPPED = pb.Endpointing, pb.Adaptation, pb.AdaptationEvent.SKIPPED


def of(kind, responses):
    return [getattr(response, kind) for response in responses if response.HasField(kind)]


def finals(responses):
    return [result for result in of("result", responses) if result.is_final]


class Held:
    """Threads of an engine that are busy until they are let go."""

    def __init__(self, engine, *priorities):
        self.go_on = threading.Event()
        self._begun = [threading.Event() for _ in priorities]
        for priority, begun_ in zip(priorities, self._begun, strict=True):
            engine.submit(priority, lambda begun_=begun_: (begun_.set(), self.go_on.wait(60)))

    async def __aenter__(self):
        for each in self._begun:
            assert await asyncio.to_thread(each.wait, 20)
        return self

    async def __aexit__(self, *_):
        self.go_on.set()


async def test_complaint_nobody_waits_behind_all_that_another_has_sent(serving, noise, fakes):
    loopback = await serving(**{"limits.pending_utterances": 8})
    loopback.server.service.tenant_of = lambda context: dict(context.invocation_metadata()).get("tenant", "default")
    async with Held(loopback.server.engine, Priority.FINAL):
        flood = [await loopback.opened(adaptation=A(method="none")) for _ in range(4)]
        for talk in flood:
            for index in range(6):
                await talk.say(noise(index, 800))
                await talk.send(control=pb.FINALIZE_UTTERANCE)
        queues = loopback.server.engine._workers[Priority.FINAL]._queues[Priority.FINAL]
        while len(queues) < len(flood):
            await asyncio.sleep(0.01)
        loopback.metadata = (("tenant", "another"),)
        patient = await loopback.opened(adaptation=A(method="none"))
        await patient.say(noise(9, 1600))
        await patient.send(control=pb.FINALIZE_UTTERANCE)
        while len(queues) < len(flood) + 1:
            await asyncio.sleep(0.01)
    assert (await patient.next("result")).is_final
    for talk in (*flood, patient):
        await finished(talk)
    assert fakes.model.heard.index(1600) <= 1 and len(fakes.model.heard) == 25


async def test_complaint_what_is_behind_says_so_and_sheds_adaptation_first(serving, noise):
    loopback = await serving(**{"limits.adaptation_wait_ms": 1})
    talk = await loopback.opened(cursors=True, endpointing=E(mode=E.EXTERNAL, max_utterance_ms=600))
    async with Held(loopback.server.engine, Priority.ADAPT) as adapting:
        async with Held(loopback.server.engine, Priority.FINAL):
            await talk.say(noise(1, 32_000))
            told = [await talk.next("cursors") for _ in range(2)]
        early = []  # finals and events come in any order
        while len(of("result", early)) < 3 or len(of("adaptation_event", early)) < 3:
            early.append(await talk._read())
        events = of("adaptation_event", early)
        adapting.go_on.set()
        await talk.send(control=pb.FINISH)
        rest = await talk.rest()
    assert [(each.received_ms, each.final_ms, each.backlog_ms) for each in told] == [(1000, 0, 600), (2000, 0, 1800)]
    assert [(event.kind, event.reason) for event in events] == [(SKIPPED, "budget")] * 3
    assert of("cursors", rest)[-1].backlog_ms == 0 and of("closed", rest)[0].utterances == 4


async def test_complaint_a_model_at_work_holds_up_nobody_who_only_asks(serving, noise):
    loopback = await serving()
    talk = await loopback.opened(cursors=True)
    async with Held(loopback.server.engine, Priority.HEAR, Priority.FINAL, Priority.ADAPT):
        health = health_pb2_grpc.HealthStub(loopback.channel)
        for name in ("", "asrlife.v1.SpeechAdapt"):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)).status == 1
        assert (await loopback.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=30)).limits.streams
        await talk.say(noise(1, 16_000))  # whose ends the client names is listened to by nobody, and told where it is
        assert (await talk.next("cursors")).received_ms == 1000
    await finished(talk)


async def test_complaint_ten_minutes_of_mute_with_keepalive_survive_and_without_do_not(serving, noise, monkeypatch):
    """The loop's clock is put forward: half of the time that a stream may be idle, twenty times."""
    loop, ahead, waits = asyncio.get_running_loop(), [0.0], [0]
    now, following = loop.time, stream.Incoming.next

    async def counted(incoming):
        waits[0] += 1
        return await following(incoming)

    monkeypatch.setattr(stream.Incoming, "next", counted)
    monkeypatch.setattr(loop, "time", lambda: now() + ahead[0])
    loopback = await serving()
    idle = loopback.server.config.timeouts.idle_s
    talk = await loopback.opened()
    for turn in range(1, 21):
        ahead[0] += idle / 2
        await talk.send(control=pb.KEEPALIVE)
        while waits[0] <= turn:
            await asyncio.sleep(0)
    assert ahead[0] == 600 and not talk.status.done()
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    assert (await talk.next("refinement")).alternatives[0].transcript.startswith("1600")
    ahead[0] += idle + 1
    assert await talk.rest() == [] or talk.status.done()
    code, details = await talk.ended()
    assert code == "DEADLINE_EXCEEDED" and details.startswith(f"no audio for {idle:g} s")


async def test_complaint_no_stream_ends_after_five_minutes(serving):
    loopback = await serving()
    talk = loopback.talk()
    await talk.send(
        config=pb.StreamingConfig(encoding=pb.PCM16, sample_rate_hz=8000, endpointing=E(mode=E.EXTERNAL), adaptation=A(method="none"))
    )
    assert (await talk.next("opened")).limits.stream_audio.ToSeconds() >= 4 * 3600
    for _ in range(40):
        await talk.send(silence=pb.Silence(duration_ms=10_000))
    assert (await finished(talk)).audio.ToSeconds() == 400


async def test_complaint_where_streams_have_a_limit_nothing_is_lost_at_it(serving, asked, noise):
    """Connections of a second each, each taken up where the last one ended: every sample is heard once, and the same is learnt."""
    cut, sound = E(mode=E.EXTERNAL, max_utterance_ms=500), noise(1, 64_000)
    whole, _ = await begun(await serving(), asked, adaptation=session(), endpointing=cut)
    await whole.say(sound)
    await whole.send(control=pb.FINISH)
    rest = await whole.rest()
    expected, digest = [r.alternatives[0].transcript for r in of("refinement", rest)], rest[-1].closed.state_digest
    loopback, texts, at, resumed, connections = await serving(**{"limits.stream_s": 1.0}), [], 0, {}, 0
    while True:
        talk, _ = await begun(loopback, asked, adaptation=session(), endpointing=cut, **resumed)
        connections += 1
        await talk.say(sound[at : at + 17_600])  # with the chunk that is too much, and none behind it
        if len(sound) - at <= 16_000:
            await talk.send(control=pb.FINISH)
        rest = await talk.rest()
        texts += [r.alternatives[0].transcript for r in of("refinement", rest)]
        if of("closed", rest):
            break
        code, details = await talk.ended()
        assert code == "OUT_OF_RANGE", details
        name, final_ms = re.search(r"session_id=(\S+) final_ms=(\d+)", details).groups()
        assert int(final_ms)
        at += int(final_ms) * 16
        resumed = {"session_id": name, "resume_after_utterance": of("refinement", rest)[-1].utterance_index}
    assert connections == 4 and texts == expected and rest[-1].closed.state_digest == digest


async def test_complaint_chunks_of_nothing_and_streams_of_nothing_divide_nothing_by_zero(serving):
    loopback = await serving()
    talk = await loopback.opened()
    await talk.send(audio=pb.Audio())
    await talk.send(silence=pb.Silence())
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    assert (await finished(talk)).utterances == 0


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@reads_memory
@pytest.mark.slow
async def test_complaint_six_hours_in_one_stream_take_no_more_memory_than_one(serving, noise):
    """One utterance a minute with silence between them, as fast as it goes."""
    loopback = await serving(**{"limits.stream_s": 30_000})
    talk = await loopback.opened(adaptation=A(method="alone"), cursors=True)
    reading, sizes = asyncio.create_task(talk.next("closed")), []
    try:
        for _hour in range(6):
            for _minute in range(60):
                await talk.say(noise(1, 1600))
                await talk.send(control=pb.FINALIZE_UTTERANCE)
                for _ in range(6):
                    await talk.send(silence=pb.Silence(duration_ms=9_990))
            sizes.append(resident())
        await talk.send(control=pb.FINISH)
    except grpc.aio.AioRpcError as error:  # says only that a write failed: what the server said came before
        raise AssertionError(f"ended in hour {len(sizes)}: {await talk.ended()}") from error
    closed = await asyncio.wait_for(reading, 60)
    assert closed.audio.ToSeconds() >= 6 * 3600 and closed.steps >= 720
    assert sizes[-1] - sizes[0] < 16 * 2**20, sizes


@reads_memory
async def test_complaint_a_stream_takes_its_own_state_and_little_more(serving, noise):
    loopback = await serving()

    async def listening():
        talk = await loopback.opened(endpointing=E(), adaptation=A(method="none"), interim=pb.Interim(enable=True))
        await talk.send(silence=pb.Silence(duration_ms=2000))
        return talk

    talks = [await listening() for _ in range(8)]
    before, model = resident(), loopback.server.service._model
    talks += [await listening() for _ in range(48)]
    grown = (resident() - before) / 48
    assert {id(each.session._model) for each in loopback.server.service.streams.values()} == {id(model)}
    assert grown < 2**20, f"{grown / 2**20:.2f} MiB for each stream"
    for talk in talks:
        await finished(talk)
