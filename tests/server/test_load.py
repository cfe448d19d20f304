"""More than the server can do: what is shed, who waits, and who loses something when a model breaks; through a real socket."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import pace
from asrlife_server.engine import Priority
from tests.server.keeping import finished

ADAPTATION, SKIPPED = pb.AdaptationEvent, pb.AdaptationEvent.SKIPPED


@pytest.fixture
async def busy(serving):
    """A server whose adaptation thread is busy until it is let go."""
    go_on, begun = threading.Event(), threading.Event()

    async def start(**settings):
        loopback = await serving(**settings)
        loopback.server.engine.submit(Priority.ADAPT, lambda: (begun.set(), go_on.wait(60)))
        assert await asyncio.to_thread(begun.wait, 20)
        return loopback, go_on

    yield start
    go_on.set()


async def said(talk, samples):
    await talk.say(samples)
    await talk.send(control=pb.FINALIZE_UTTERANCE)


async def test_row_8_a_lesson_that_would_come_too_late_is_skipped_and_said_so(busy, noise, monkeypatch, undisturbed):
    loopback, go_on = await busy(**{"limits.adaptation_wait_ms": 1})
    async with undisturbed(loopback, adaptation=pb.Adaptation(method="none")):  # ends while the thread is busy
        talk = await loopback.opened()
        await said(talk, noise(1, 1600))
        final = (await talk.next("result")).alternatives[0].transcript
        event = await talk.next("adaptation_event")
    assert final.startswith("1600") and (event.kind, event.reason, event.state_version) == (SKIPPED, "budget", 0)
    go_on.set()
    await loopback.server.engine.run(Priority.ADAPT, int)  # the thread is free again
    monkeypatch.setattr(pace.Pace, "due", None)
    await said(talk, noise(2, 1600))
    assert (await talk.next("refinement")).alternatives[0].transcript.endswith("after 0")
    await talk.send(control=pb.FINISH)
    closed = await talk.next("closed")
    assert (closed.utterances, closed.state_version) == (2, 1)


async def test_a_final_that_was_to_be_the_adapted_text_is_the_unadapted_one_then(busy, asked, noise):
    loopback, _ = await busy(**{"limits.adaptation_wait_ms": 1})
    talk = await loopback.opened(adaptation=pb.Adaptation(method="count", refine_finals=False))
    await said(talk, noise(1, 1600))
    result = await talk.next("result")
    assert result.is_final and not result.adapted and result.alternatives[0].transcript.startswith("1600")
    assert (await talk.next("adaptation_event")).reason == "budget"


async def test_finals_come_while_lessons_wait(busy, noise):
    loopback, go_on = await busy(**{"limits.adaptation_wait_ms": 600_000})
    talk = await loopback.opened()
    for index in range(3):
        await said(talk, noise(index, 1600))
        assert (await talk.next("result")).utterance_index == index
    go_on.set()
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    assert [each.WhichOneof("response") for each in rest] == ["refinement", "adaptation_event"] * 3 + ["closed"]


async def test_a_recording_waits_for_its_lessons(busy, noise, monkeypatch):
    monkeypatch.setattr(pace, "_AHEAD", 0.0)
    loopback, go_on = await busy(**{"limits.adaptation_wait_ms": 0})
    talk = await loopback.opened()
    await talk.send(silence=pb.Silence(duration_ms=9000))
    await said(talk, noise(1, 1600))
    await talk.next("result")
    go_on.set()
    assert (await talk.next("adaptation_event")).kind == ADAPTATION.STEPPED


class Full:
    """A method's hook that breaks in the ways of a device without memory."""

    def __init__(self, error):
        self.error = error

    def __call__(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"), [(RuntimeError("CUDA out of memory"), "out of memory"), (MemoryError(), "out of memory"), (OSError("?"), "failed")]
)
async def test_row_20_a_step_that_breaks_alone_is_skipped_and_the_stream_goes_on(serving, fakes, noise, undisturbed, error, reason):
    loopback = await serving()
    async with undisturbed(loopback):
        talk = await loopback.opened()
        fakes.hook = Full(error)
        broken = await loopback.opened()
        fakes.hook = None
        await said(broken, noise(1, 1600))
        assert (await broken.next("result")).is_final
        event = await broken.next("adaptation_event")
        assert (event.kind, event.reason, event.state_version) == (SKIPPED, reason, 0)
        await broken.send(control=pb.FINISH)
        assert (await broken.next("closed")).state_version == 0
        assert await broken.ended() == ("OK", "")
        await said(talk, noise(1, 1600))
        assert (await talk.next("adaptation_event")).kind == ADAPTATION.STEPPED


async def test_row_20_recognition_that_does_not_fit_is_split_until_only_the_culprit_is_refused(serving, fakes, noise, monkeypatch, beside):
    """Four streams in one batch of a device that holds two utterances, and none of more than 3500 samples."""
    sizes, true = [], type(fakes.model).transcribe

    def full(self, waveforms, batch_size=8):
        sizes.append(len(waveforms))
        if len(waveforms) > 2 or any(len(each.samples) > 3500 for each in waveforms):
            raise RuntimeError("CUDA out of memory")
        return true(self, waveforms, batch_size)

    monkeypatch.setattr(type(fakes.model), "transcribe", full)
    loopback = await serving(**{"batching.recognitions": 8})
    await beside(loopback)
    sizes.clear()
    begun, go_on = threading.Event(), threading.Event()
    loopback.server.engine.submit(Priority.FINAL, lambda: (begun.set(), go_on.wait(60)))
    assert await asyncio.to_thread(begun.wait, 20)
    talks = [await loopback.opened() for _ in range(4)]
    for index, talk in enumerate(talks):
        await said(talk, noise(index, 4000 if index == 2 else 1600))
    recognising = loopback.server.engine._workers[Priority.FINAL]
    while len(recognising._queues[Priority.FINAL]) < 4:
        await asyncio.sleep(0.01)
    go_on.set()
    for index in (0, 1, 3):
        result = await talks[index].next("result")
        assert result.is_final and result.alternatives[0].transcript.startswith("1600 ")
        await finished(talks[index])
    await talks[2].rest()
    code, details = await talks[2].ended()
    assert code == "RESOURCE_EXHAUSTED" and "utterance 0" in details
    assert sizes[0] == 4 and max(sizes[1:]) == 2


class Death(BaseException):
    """What no wall catches."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_row_21_a_worker_that_dies_ends_its_streams_and_another_takes_its_place(serving, fakes, noise, undisturbed):
    loopback = await serving()
    async with undisturbed(loopback):
        fakes.hook = Full(Death())
        victim = await loopback.opened(session_id="victim")
        fakes.hook = None
        await said(victim, noise(1, 1600))
        await victim.rest()
        code, details = await victim.ended()
        assert code == "UNAVAILABLE" and "session_id=victim" in details
        other = await loopback.opened()
        await said(other, noise(1, 1600))
        assert (await other.next("adaptation_event")).kind == ADAPTATION.STEPPED


async def test_a_chunk_that_is_refused_is_refused_alone_and_no_chunk_is_heard_twice(serving, asked):
    loopback = await serving()
    loopback.server.service._ear = lambda: lambda window: 1.0
    begun, go_on = threading.Event(), threading.Event()
    server = {"endpointing": pb.Endpointing(mode=pb.Endpointing.SERVER), "encoding": pb.FLOAT32}
    talks = [await loopback.opened(**server) for _ in range(4)]
    loopback.server.engine.submit(Priority.HEAR, lambda: (begun.set(), go_on.wait(60)))
    assert await asyncio.to_thread(begun.wait, 20)
    for index, talk in enumerate(talks):
        samples = np.full(8000, np.nan if index == 2 else 0.1, "<f4")
        await talk.send(audio=pb.Audio(content=samples.tobytes()))
    while len(loopback.server.engine._workers[Priority.HEAR]._queues[Priority.HEAR]) < 4:
        await asyncio.sleep(0.01)
    go_on.set()
    for index in (0, 1, 3):
        await talks[index].send(control=pb.FINISH)
        assert (await talks[index].next("closed")).audio.ToMilliseconds() == 500
    await talks[2].rest()
    assert (await talks[2].ended())[0] == "INVALID_ARGUMENT"
