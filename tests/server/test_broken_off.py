"""Rows 8, 11, 19 and 21 of the failure matrix, through a real socket: clients who are too fast or go away, steps and workers that break."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import numpy as np
import pytest

import asrlife
from asrlife.audio.speak import speak
from asrlife.methods.online import losses
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server.config import ServerConfig
from asrlife_server.engine import Priority
from asrlife_server.main import Server
from tests.server.conftest import Fakes, Loopback, Talk
from tests.server.keeping import begun, finished, session, spoken
from tests.server.test_complaints import Held, finals, of

A, SKIPPED, STEPPED = pb.Adaptation, pb.AdaptationEvent.SKIPPED, pb.AdaptationEvent.STEPPED


@asynccontextmanager
async def cable(port):
    """A way to a server that can be cut without a word; gives its port and the cut."""
    ends = []

    async def pass_on(reader, writer):
        ends.append(writer)
        while data := await reader.read(65_536):
            writer.write(data)

    async def join(reader, writer):
        there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer), return_exceptions=True)

    def cut():
        for writer in ends:
            writer.transport.abort()

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], cut
    finally:
        cut()
        server.close()


async def gone(how, call, channel, cut):
    """The client goes away in one of the ways that there are; a deadline comes by itself."""
    if how == "cancel":
        call.cancel()
    elif how == "connection closed":
        await channel.close()
    elif how == "cable cut":
        cut()


def served(loopback, name):
    return loopback.server.service.streams["default", name]


@pytest.mark.parametrize("how", ["cancel", "connection closed", "cable cut", "deadline"])
@pytest.mark.parametrize("when", ["in an utterance", "in a step"])
async def test_row_11_who_goes_away_leaves_the_last_commit_and_no_work(serving, asked, noise, fakes, undisturbed, how, when):
    loopback, stepping, go_on = await serving(), threading.Event(), threading.Event()
    async with undisturbed(loopback), cable(loopback.server.port) as (port, cut):
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        call = asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize(timeout=6.0 if how == "deadline" else None)
        talk, calls = Talk(call), []
        fakes.hook = lambda: calls.append(1) or (len(calls) > 1 and (stepping.set(), go_on.wait(30)))
        await talk.send(config=asked(session_id="this"))
        await talk.next("opened")
        fakes.hook = None
        stream = served(loopback, "this")
        await talk.say(noise(1, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
        await talk.next("adaptation_event")
        digest = stream.session.state.digest()
        await talk.say(noise(2, 3200))
        if when == "in a step":
            await talk.send(control=pb.FINALIZE_UTTERANCE)
            assert await asyncio.to_thread(stepping.wait, 20)
        await gone(how, call, channel, cut)
        await asyncio.wait_for(loopback.until_gone(stream), 20)
        go_on.set()
        await loopback.server.engine.run(Priority.ADAPT, int)  # waits behind the step
        assert (stream.session.version, stream.session.state.digest()) == (1, digest)
        await channel.close()


async def test_row_11_what_the_model_was_to_do_for_who_is_gone_is_not_done(serving, noise, fakes, beside):
    loopback = await serving()
    await beside(loopback)
    fakes.model.heard.clear()
    async with Held(loopback.server.engine, Priority.FINAL):
        talk, other = await loopback.opened(session_id="this"), await loopback.opened()
        for each, length in ((talk, 3200), (other, 1600)):
            await each.say(noise(1, length))
            await each.send(control=pb.FINALIZE_UTTERANCE)
        queues = loopback.server.engine._workers[Priority.FINAL]._queues[Priority.FINAL]
        while len(queues) < 2:
            await asyncio.sleep(0.01)
        stream = served(loopback, "this")
        talk.call.cancel()
        await asyncio.wait_for(loopback.until_gone(stream), 20)
    assert (await other.next("result")).is_final
    await finished(other)
    assert fakes.model.heard == [1600]


async def test_row_8_a_live_stream_loses_lessons_before_words(serving, noise, undisturbed):
    loopback = await serving(**{"limits.adaptation_wait_ms": 1})
    other = undisturbed(loopback, adaptation=A(method="none"))  # its words come while the lessons' thread is held up
    async with Held(loopback.server.engine, Priority.ADAPT), other:
        talk = await loopback.opened()
        for index in range(4):
            await talk.say(noise(index, 1600))
            await talk.send(control=pb.FINALIZE_UTTERANCE)
        assert [(await talk.next("adaptation_event")).reason for _ in range(4)] == ["budget"] * 4
    closed = await finished(talk)
    assert (closed.utterances, closed.steps, closed.audio.ToMilliseconds()) == (4, 0, 400)


@pytest.fixture(scope="module")
def model():
    return asrlife.load("embedded:ctc")


@pytest.fixture
async def real(model):
    """A server with a model that recognises words."""
    server = Server(ServerConfig.read(None, {"port": 0, "state.backend": "memory", "limits.adaptation_wait_ms": 600_000}), model)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Loopback(server, channel, Fakes())
    await server.stop(0)


def spoken_words(text):
    return (speak(text).samples * 32_767).astype(np.int16)


@pytest.mark.parametrize("method", ["suta", "csuta"])
async def test_row_19_a_step_that_collapses_is_taken_back_and_the_unadapted_text_stands(real, undisturbed, method):
    """With a learning rate of 1 nothing is left of any text."""
    samples = spoken_words("turn on the kitchen light")
    async with undisturbed(real, np.split(samples, [8000]), adaptation=A(method=method)):  # learns all the same
        talk = await real.opened(session_id="this", adaptation=A(method=method, settings={"lr": "1", "steps": "3"}))
        base = served(real, "this").session.state.digest()
        other = await real.opened(adaptation=A(method="none"))
        for each in (talk, other):
            for _ in range(2):
                await each.say(samples)
                await each.send(control=pb.FINALIZE_UTTERANCE)
            await each.send(control=pb.FINISH)
        rest, plain = await talk.rest(), await other.rest()
    texts = [[final.alternatives[0].transcript for final in finals(each)] for each in (rest, plain)]
    assert texts[0] == texts[1] and texts[0][0]
    assert [(event.kind, event.reason) for event in of("adaptation_event", rest)] == [(SKIPPED, "collapsed")] * 2
    assert [each.alternatives[0].transcript for each in of("refinement", rest)] == texts[0]
    assert rest[-1].closed.state_digest == base


@pytest.mark.parametrize("method", ["csuta", "dsuta"])
async def test_row_19_a_loss_that_is_not_finite_is_not_learnt_from(real, undisturbed, monkeypatch, method):
    """The utterances before and behind it are."""
    samples, whole, broken = spoken_words("turn on the kitchen light"), losses.suta, []

    def suta(*arguments):
        found = whole(*arguments)
        return replace(found, blend=found.blend * float("nan")) if broken else found

    monkeypatch.setattr(losses, "suta", suta)
    async with undisturbed(real, np.split(samples, [8000]), adaptation=A(method=method)):
        talk = await real.opened(session_id="this", adaptation=A(method=method))
        events, digests, texts = [], [], []
        for index in range(3):
            broken[:] = [True] * (index == 1)
            await talk.say(samples)
            await talk.send(control=pb.FINALIZE_UTTERANCE)
            final, refinement = (await talk.next("result")).alternatives[0], (await talk.next("refinement")).alternatives[0]
            events.append(await talk.next("adaptation_event"))
            digests.append(served(real, "this").session.state.digest())
            texts.append((final.transcript, refinement.transcript))
        await finished(talk)
    assert [(event.kind, event.reason) for event in events] == [(STEPPED, ""), (SKIPPED, "diverged"), (STEPPED, "")]
    assert events[1].state_version == events[0].state_version and digests[1] == digests[0]
    assert texts[1][0] == texts[0][0] and texts[1][1]
    assert digests[2] != digests[1]


@pytest.mark.parametrize("cap", [None, 100.0])
async def test_row_19_a_method_that_learns_what_is_not_finite_is_not_believed(serving, noise, beside, cap):
    loopback = await serving(**({} if cap is None else {"state.drift_cap": cap}))
    await beside(loopback)
    talk = await loopback.opened(session_id="this", adaptation=A(method="count", settings={"gain": "nan"}))
    base = served(loopback, "this").session.state.digest()
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    assert [final.alternatives[0].transcript.split()[0] for final in finals(rest)] == ["1600"] and not of("refinement", rest)
    assert [(event.kind, event.reason, event.state_version) for event in of("adaptation_event", rest)] == [(SKIPPED, "diverged", 0)]
    assert rest[-1].closed.state_digest == base and await talk.ended() == ("OK", "")


class Death(BaseException):
    """What no wall catches."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_row_21_what_was_kept_before_a_worker_died_is_there_to_go_on_from(serving, asked, noise, fakes, undisturbed):
    loopback, deadly = await serving(), []

    def die():
        if deadly:
            raise Death

    async with undisturbed(loopback):
        fakes.hook = die
        talk, opened = await begun(loopback, asked, adaptation=session())
        fakes.hook = None
        await spoken(talk, noise, 1)
        deadly.append(True)
        await talk.say(noise(2, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
        await talk.rest()
        code, details = await talk.ended()
        assert code == "UNAVAILABLE" and f"session_id={opened.session_id}" in details
        again = {"session_id": opened.session_id, "resume_after_utterance": 0}
        talk, opened = await begun(loopback, asked, adaptation=session(), **again)
        assert (opened.config.resume_after_utterance, opened.state_version) == (0, 1)
        await finished(talk)
