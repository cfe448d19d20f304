"""What the tests of kept states say and hear."""

from __future__ import annotations

import asyncio
import threading

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.state.entry import Address, Quota, StoreError

A, AE = pb.Adaptation, pb.AdaptationEvent
QUOTA = Quota(16, 10**8, 100)
ANNA = Address("default", "anna")


def keyed(key="anna", method="count", **more):
    return pb.Adaptation(method=method, adaptation_key=key, persist=A.KEY, **more)


async def begun(loopback, asked, **fields):
    """A stream with its `opened` and what came of the state that was there."""
    talk = loopback.talk()
    await talk.send(config=asked(**fields))
    return talk, await talk.next("opened")


async def spoken(talk, noise, seed=1, samples=1600):
    """Say one utterance; its refinement and the outcome of keeping it."""
    await talk.say(noise(seed, samples))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    refinement = await talk.next("refinement")
    return refinement, await kept(talk)


async def kept(talk):
    while (event := await talk.next("adaptation_event")).kind not in (AE.PERSISTED, AE.PERSIST_FAILED):
        pass
    return event


async def finished(talk):
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    assert await talk.ended() == ("OK", "")
    return rest[-1].closed


def after(refinement):
    return int(refinement.alternatives[0].transcript.rpartition(" ")[2])


async def restored(talk):
    event = await talk.next("adaptation_event")
    assert event.kind == AE.RESTORED and event.HasField("restored")
    return event


def session(**more):
    return pb.Adaptation(method="count", persist=A.SESSION, **more)


async def broken_off(loopback, asked, noise, utterances, **fields):
    """A session that breaks off in an utterance after so many committed ones; its id."""
    talk, opened = await begun(loopback, asked, **{"adaptation": session(), **fields})
    for seed in range(utterances):
        await spoken(talk, noise, seed)
    await talk.say(noise(99, 1600))
    talk.call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 10)
    return opened.session_id


class Failing:
    """A store that can be told to fail or to hang."""

    def __init__(self, inner):
        self.inner = inner
        self.fault: Exception | None = None
        self.after: Exception | None = None  # the call is carried out and its answer lost
        self.puts = 0
        self.gate = threading.Event()
        self.gate.set()

    def put(self, *arguments):
        self.puts += 1
        self.gate.wait(30)
        if self.fault:
            raise self.fault
        self.inner.put(*arguments)
        if self.after:
            fault, self.after = self.after, None
            raise fault

    def __getattr__(self, name):
        def call(*arguments):
            if self.fault:
                raise self.fault
            return getattr(self.inner, name)(*arguments)

        return call


FULL = StoreError("state.sqlite: database or disk is full")
