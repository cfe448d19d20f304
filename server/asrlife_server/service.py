"""The gRPC service: who may open a stream, and what a stream says first and last."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from weakref import WeakValueDictionary

import grpc

import asrlife
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import unary, wire
from asrlife_server.admission import Admission, Place
from asrlife_server.config import ServerConfig
from asrlife_server.endpointing import Endpointer, External, Judge, Listening
from asrlife_server.engine import Engine, Priority
from asrlife_server.longest import Longest
from asrlife_server.opening import ENCODINGS, Make, Opening, language, opened_with
from asrlife_server.refusal import Refusal, about
from asrlife_server.session import Session
from asrlife_server.state.keeper import Keeper
from asrlife_server.state.kept import Kept, asked
from asrlife_server.state.rpcs import StateRpcs
from asrlife_server.stream import Stream, Write
from asrlife_server.tenancy import Tenancy
from asrlife_server.waiting import Requests, awaited, within
from asrlife_server.watching import current

NAME: str = pb.DESCRIPTOR.services_by_name["SpeechAdapt"].full_name
_WORDS = 1.0  # s for the last words of a stream that the server ends
_PARTING = 10.0  # s that a stream may take to end
_KNOCK = 1.0  # s in which a caller for whom there is no place may say that it takes up a live session of its own
_log = logging.getLogger("asrlife.server")


class Service(StateRpcs):
    """Serves one model. `ear` makes a voice activity judge for one stream, `make` a method from its name and settings."""

    def __init__(
        self, config: ServerConfig, model: Any, engine: Engine, ear: Callable[[], Judge], make: Make, keeper: Keeper, tenancy: Tenancy
    ) -> None:
        super().__init__(config, model, engine, make, keeper, tenancy)
        self.streams: dict[tuple[str, str], Stream] = {}  # by tenant and session
        self.admission = Admission(config.limits.streams, tenancy.streams)
        self._ear = ear
        self._allowed = tenancy.streams
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def Recognize(self, request: pb.RecognizeRequest, context: Any) -> pb.RecognizeResponse:
        """See the protocol."""
        gathered = unary.Gathered()
        await self.answer(context, unary.requests(request, self._config.limits), gathered.write, unary.longest(self._config.limits))
        return gathered.response

    async def StreamingRecognize(self, request_iterator: Requests, context: Any) -> None:  # type: ignore[override]
        """See the protocol."""
        await self.answer(context, request_iterator, context.write)

    async def answer(
        self, context: Any, requests: Requests, write: Write, longest: Longest | None = None, names: Mapping[str, str] | None = None
    ) -> None:
        """Serve one call, whole or in pieces (`longest` None), and say why where it cannot be; `names` as in Refusal.renamed."""
        call = current()
        try:
            with self.admission.place(self.tenant_of(context)) as place:
                await self._serve(call.requests(requests), call.write(write), place, longest)
        except Refusal as found:
            refusal = found.renamed(names) if names else found
            call.refuse(refusal)
            await context.abort(grpc.StatusCode[refusal.code], refusal.message, refusal.metadata)
        except grpc.aio.BaseError:
            call.gone()
            _log.debug("a client went away", exc_info=True)
        except Exception:  # the last wall: whatever broke, its cause goes to the log and only this caller's stream ends
            _log.exception("a stream failed")
            await context.abort(grpc.StatusCode.INTERNAL, "the server failed on this stream; its log says why")

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.ServerInfo:
        """See the protocol."""
        from asrlife.methods.online import METHODS

        tenant = await self.caller(context)
        return pb.ServerInfo(
            version=asrlife.__version__,
            models=[self._described()],
            encodings=list(ENCODINGS),
            adaptation_methods=list(METHODS),
            limits=wire.limits(self._config, self._allowed(tenant)),
        )

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        """See the protocol."""
        await self.caller(context)
        return pb.ListModelsResponse(models=[self._described()])

    async def drain(self, grace: float) -> None:
        """Refuse new streams, give the live ones `grace` s to finish, then end them at their last committed utterance."""
        self.admission.draining = True
        try:
            await within(self.admission.quiet.wait(), grace)
        except (asyncio.TimeoutError, TimeoutError):
            self.expire()
            with suppress(asyncio.TimeoutError, TimeoutError):  # they keep their states before their last words
                await within(self.admission.quiet.wait(), self._config.state.timeout_s + _WORDS)

    def expire(self) -> None:
        """End every live stream now."""
        for stream in list(self.streams.values()):
            stream.expire()

    async def _serve(self, requests: Requests, write: Write, place: Place, longest: Longest | None) -> None:
        session = await self._opened(requests, place)
        if longest is not None:
            unary.check_episodic(session.state, session.opening.config.adaptation.method)
        async with self._registered(session, place, longest) as (stream, kept):
            current().opened(session)
            await write(self._greeting(session, place.tenant))
            for message in kept.greeting() if kept else []:
                await write(message)
            await stream.serve(requests, write)

    @asynccontextmanager
    async def _registered(self, session: Session, place: Place, longest: Longest | None) -> AsyncIterator[tuple[Stream, Kept | None]]:
        name = place.tenant, session.name
        async with self._turns.setdefault(name, asyncio.Lock()):
            await self._superseded(name)
            self.admission.exchanged(place)
            kept = await self._kept(session, place.tenant)
            limits, timeouts = self._config.limits, self._config.timeouts
            stream = self.streams[name] = Stream(session, self._engine, limits, timeouts, longest, kept, place.tenant)
        try:
            yield stream, kept
        finally:
            if kept is not None:
                kept.release()
            del self.streams[name]
            stream.gone.set()

    async def _superseded(self, name: tuple[str, str]) -> None:
        older = self.streams.get(name)
        if older is None:
            return
        older.supersede()
        try:
            await within(older.gone.wait(), _PARTING)
        except (asyncio.TimeoutError, TimeoutError):
            raise about("ABORTED", "config.session_id", "the older connection of this session does not end; try again") from None

    async def _kept(self, session: Session, tenant: str) -> Kept | None:
        ask = asked(session, tenant, self._config.state.drift_cap)
        if ask is None:
            return None
        kept = Kept(self.keeper, await self.keeper.claim(ask))
        kept.apply(session)
        return kept

    async def _opened(self, requests: Requests, place: Place) -> Session:
        if place.full is None:
            first = await awaited(requests, self._config.timeouts.first_message_s, "first message")
        else:
            first = await self._exchanged(requests, place, place.full)
        if first is None:
            raise about("INVALID_ARGUMENT", "config", "the stream ended before its first message, which must be `config`")
        return (await self._engine.run(Priority.HEAR, lambda: self._begin(first))).value

    async def _exchanged(self, requests: Requests, place: Place, full: Refusal) -> pb.StreamingRequest:
        """The first message of a caller for whom there is no place but that of a live session of its own."""
        try:
            first = await awaited(requests, min(_KNOCK, self._config.timeouts.first_message_s), "first message")
        except Refusal:  # to say what is wrong with a call that has no place helps nobody
            raise full from None
        if first is None or (place.tenant, first.config.session_id) not in self.streams:
            raise full
        self.admission.exchange(place, first.config.session_id)
        return first

    def _begin(self, first: pb.StreamingRequest) -> Session:
        opening = opened_with(first, self._config, self._model, self._make)
        try:
            state = opening.method.start(self._model)
        except asrlife.InputError as error:
            raise about("INVALID_ARGUMENT", "config.adaptation", str(error)) from error
        return Session(opening.config.session_id or uuid.uuid4().hex, opening, self._model, self._endpointer(opening), state)

    def _endpointer(self, opening: Opening) -> Endpointer:
        if opening.external:
            return External(opening.rules.longest_ms * opening.rate // 1000)
        return Listening(self._ear(), opening.rate, opening.rules)

    def _greeting(self, session: Session, tenant: str) -> pb.StreamingResponse:
        opened = pb.Opened(session_id=session.name, config=session.opening.config, base_hash=self._base, state_version=session.version)
        opened.limits.CopyFrom(wire.limits(self._config, self._allowed(tenant)))
        return pb.StreamingResponse(opened=opened)

    def _described(self) -> pb.Model:
        model = self._model
        told = pb.Model(name=model.name, sample_rate_hz=model.rate, base_hash=self._base, language=language(model))
        told.capabilities.extend(sorted(model.capabilities))
        return told
