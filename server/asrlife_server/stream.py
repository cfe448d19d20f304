"""One stream in time: requests are read, finals decoded and refinements made side by side, each in the order of the utterances."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from asrlife.text.hypothesis import Hypothesis
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import hearing
from asrlife_server.config import Limits, Timeouts
from asrlife_server.engine import Engine, Late, Priority
from asrlife_server.fields import check, check_size, holds_sound
from asrlife_server.jobs import Done, Owner, exhausted
from asrlife_server.lessons import Lesson
from asrlife_server.longest import Longest
from asrlife_server.outbox import Outbox
from asrlife_server.pace import Pace
from asrlife_server.refusal import Refusal, about, invalid
from asrlife_server.session import Session
from asrlife_server.state.kept import Kept
from asrlife_server.waiting import Incoming, Requests
from asrlife_server.work import Command, Heard, Spoken, Step

_log = logging.getLogger("asrlife.server")
_MOMENT = 16_384  # bytes that take some 50 us to put away
_LINGER = 1.0  # s for the last responses of a stream that failed
T = TypeVar("T")
Write = Callable[[pb.StreamingResponse], Awaitable[None]]


class Stream:
    """Drives a session between a client and the engine.

    Every queue is bounded: when the engine is behind, requests are not read, and gRPC's window stops the client. Only FINISH ends a
    stream; whatever else ends it leaves the session at its last committed utterance.
    """

    def __init__(
        self,
        session: Session,
        engine: Engine,
        limits: Limits,
        timeouts: Timeouts,
        longest: Longest | None = None,
        kept: Kept | None = None,
        tenant: str = "",
    ) -> None:
        self.session = session
        self._longest = longest or Longest(limits.stream_s)
        self._verdict: Callable[[], Refusal] | None = None  # asked when all that came before is settled
        self._over = False
        self._engine = engine
        self._limits = limits
        self._timeouts = timeouts
        self._deaf = session.opening.deaf
        self._quick = min(_MOMENT, limits.chunk_bytes)
        self._kept = kept
        self._owner = Owner(tenant, session.name)
        self._pace = Pace(limits.adaptation_wait_ms)
        self._out = Outbox(limits.unread_responses)
        self._finals: asyncio.Queue[Spoken | Command | None] = asyncio.Queue(limits.pending_utterances)
        self._lessons: asyncio.Queue[tuple[Spoken | Command, float | None] | None] = asyncio.Queue(limits.pending_utterances)
        self._glances: asyncio.Queue[Spoken | None] = asyncio.Queue(1)
        self._decoded = 0  # utterances whose final is out
        self._ending: Refusal | None = None  # why this side ends the stream
        self._running: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()

    async def serve(self, requests: Requests, write: Write) -> None:
        """Answer until `closed` is sent; raises Refusal where the stream cannot go on."""
        self._running = asyncio.create_task(self._run(requests))
        self._running.add_done_callback(lambda _: self._out.close())
        sending = asyncio.create_task(self._send_out(write))
        if self._ending is not None:  # since before it ran
            self._running.cancel()
        try:
            await asyncio.wait([self._running, sending], return_when=asyncio.FIRST_COMPLETED)
            # a client that reads nothing holds `write` for ever
            await asyncio.wait([sending], timeout=None if self._went_well() else _LINGER)
            if sending.done():
                sending.result()
            if self._ending is not None:
                if self._ending.code == "UNAVAILABLE":
                    for message in await self._parting():
                        await write(message)
                raise self._ending
            await self._running
        finally:
            await _ended(self._running, sending)

    def expire(self) -> None:
        """End the stream at its last committed utterance, because the server stops."""
        self._end(Refusal("UNAVAILABLE", "the server is stopping; the utterance under way was dropped"))

    def supersede(self) -> None:
        """End the stream at its last committed utterance, because its session has a newer connection."""
        self._end(about("ABORTED", "session_id", "a newer connection has taken up this session"))

    def _end(self, why: Refusal) -> None:
        if self._running is None or not self._running.done():
            self._ending = why
            if self._running is not None:
                self._running.cancel()

    async def _run(self, requests: Requests) -> None:
        tasks = [asyncio.create_task(part) for part in (self._read(requests), self._glance(), self._decode(), self._learn())]
        try:
            await asyncio.gather(*tasks)
        finally:
            await _ended(*tasks)
        if self._verdict is not None:
            raise self._verdict()
        self._send(self.session.cursors())
        self._out.put(await self._closed())

    async def _send_out(self, write: Write) -> None:
        async for response in self._out.drained():
            await write(response)

    def _went_well(self) -> bool:
        running = self._running
        return running is not None and running.done() and not running.cancelled() and running.exception() is None

    async def _closed(self) -> pb.StreamingResponse:
        return self.session.closed(await asyncio.to_thread(self.session.state.digest))

    async def _parting(self) -> list[pb.StreamingResponse]:
        """The last words of a server that stops; what is committed is kept first, because who takes it up elsewhere starts from that."""
        flushed = await self._kept.finish(self.session, well=False) if self._kept is not None else []
        return [*flushed, await self._closed()]

    async def _read(self, requests: Requests) -> None:
        try:
            await self._take_all(requests)
        except Refusal as refusal:
            if not refusal.settles:
                raise
            found = refusal
            self._verdict = lambda: found
        await self._finals.put(None)
        await self._glances.put(None)

    async def _take_all(self, requests: Requests) -> None:
        with Incoming(requests, self._timeouts.idle_s, "audio") as incoming:
            while not self._over:
                request = await incoming.next()
                if request is None:
                    raise about("INVALID_ARGUMENT", "control", "the stream ended without FINISH; the utterance under way was dropped")
                if not self._put_away(request):
                    check(request)
                    await self._take(request)
                if self._longest.exceeded(self.session):
                    self._verdict = partial(self._longest.refusal, self.session)
                    return
                if request.control == pb.FINISH:
                    return

    def _put_away(self, request: pb.StreamingRequest) -> bool:
        """Take sound from which nothing follows but that it is there, and which is most of what a client sends; False for all else."""
        if not (self._deaf and holds_sound(request)):
            return False
        content = request.audio.content
        done = len(content) <= self._quick and self.session.put_away(content)
        self._pace.sent(self.session.totals.audio)
        return done

    async def _take(self, request: pb.StreamingRequest) -> None:
        kind = request.WhichOneof("request")
        if kind == "audio":
            check_size("audio.content", len(request.audio.content), self._limits.chunk_bytes, "bytes")
            await self._hear(await self._heard(request.audio))
        elif kind == "silence":
            check_size("silence.duration_ms", request.silence.duration_ms, self._limits.silence_ms, "ms")
            await self._hear(await self._listen(partial(self.session.silence, request.silence.duration_ms)))
        elif kind == "control":
            await self._control(request.control)
        else:
            raise invalid(kind or "request", "sent twice; one stream has one config" if kind else "holds nothing; set one of its members")

    async def _control(self, control: int) -> None:
        if control == pb.FINALIZE_UTTERANCE:
            await self._hear(await self._listen(self.session.finalise))
        elif control == pb.FINISH:
            await self._hear(await self._listen(self.session.finish))
        elif control in (pb.RESET_ADAPTATION, pb.FREEZE, pb.UNFREEZE):
            await self._finals.put(Command(control))
        elif control != pb.KEEPALIVE:
            raise invalid("control", f"{control} is no control of this server")

    async def _heard(self, audio: pb.Audio) -> Any:
        if self._deaf and len(audio.content) <= self._quick:
            return self.session.hear(audio)  # sooner done than handed over to another thread
        heard = await self._listen(hearing.task(self.session, audio))
        if isinstance(heard, Refusal):
            raise heard
        return heard

    async def _listen(self, work: Any) -> Any:
        return self._charged(await self._engine.run(Priority.HEAR, work, self._owner))

    async def _hear(self, heard: Heard) -> None:
        self._pace.sent(self.session.totals.audio)
        for message in heard.messages:
            self._out.put(message)
        for work in heard.work:
            if isinstance(work, Command) or work.whole:
                await self._finals.put(work)
            else:
                self._offer(work)
        self._over = self._over or heard.over

    def _offer(self, glance: Spoken) -> None:
        if self._glances.full():
            self._glances.get_nowait()  # the older one has not begun; the newer one says more
        self._glances.put_nowait(glance)

    async def _glance(self) -> None:
        while (spoken := await self._glances.get()) is not None:
            if spoken.index < self._decoded:
                continue
            found = self._charged(await self._engine.run(Priority.INTERIM, self.session.recognition(spoken), self._owner))
            if spoken.index >= self._decoded:
                self._out.put(self.session.told(spoken, found))

    async def _decode(self) -> None:
        while (work := await self._finals.get()) is not None:
            if isinstance(work, Spoken):
                found = self._charged(await self._recognised(work))
                self._decoded = work.index + 1
                self.session.totals.utterances += 1
                self._send(self.session.answer(work, found))
            await self._lessons.put((work, self._pace.due))
        await self._lessons.put(None)

    async def _recognised(self, spoken: Spoken) -> Done[Sequence[Hypothesis]]:
        try:
            return await self._engine.run(Priority.FINAL, self.session.recognition(spoken), self._owner)
        except Exception as error:
            if not exhausted(error):
                raise
            raise Refusal("RESOURCE_EXHAUSTED", f"utterance {spoken.index} is more than the memory of the model's device holds") from error

    async def _learn(self) -> None:
        while (lesson := await self._lessons.get()) is not None:
            work, due = lesson
            if isinstance(work, Spoken):
                await self._adapt(work, due)
            elif work.control == pb.RESET_ADAPTATION:
                state = (await self._engine.run(Priority.ADAPT, self.session.start, self._owner)).value
                self._send(self.session.restart(state))
            else:
                self.session.obey(work)
            await self._keep(work)
        if self._kept is not None:
            # behind a verdict the client is told to go on elsewhere, so that its session must still be there
            self._send(await self._kept.finish(self.session, well=self._verdict is None))

    async def _keep(self, work: Spoken | Command) -> None:
        if self._kept is not None and (isinstance(work, Spoken) or work.control == pb.RESET_ADAPTATION):
            done = work.index if isinstance(work, Spoken) else -1
            self._send(await self._kept.save(self.session, done))

    async def _adapt(self, spoken: Spoken, due: float | None) -> None:
        if not self.session.adapts:
            return
        lesson = self.session.lesson(spoken)
        done = Done(lesson.passed("frozen"), 0.0) if self.session.frozen else await self._learnt(lesson, due)
        # no await from here on: an utterance is committed whole or not at all
        self.session.totals.adaptation += done.seconds
        self._send(self.session.commit(done.value))

    async def _learnt(self, lesson: Lesson, due: float | None) -> Done[Step]:
        """A step, or what stands in for one that could not be taken: the unadapted text stands."""
        try:
            return await self._engine.run(Priority.ADAPT, self.session.learning(lesson), self._owner, due)
        except Late:
            return Done(lesson.passed("budget"), 0.0)
        except Refusal:
            raise
        except Exception as error:  # the last wall: the method broke on this utterance, and the stream can do without
            _log.exception("utterance %d of a stream could not be learnt from", lesson.spoken.index)
            return Done(lesson.passed("out of memory" if exhausted(error) else "failed"), 0.0)

    def _send(self, messages: list[pb.StreamingResponse]) -> None:
        for message in messages:
            self._out.put(message)

    def _charged(self, done: Done[T]) -> T:
        self.session.totals.compute += done.seconds
        return done.value


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
