"""The calls of the protocol that are about kept states."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import grpc

from asrlife.methods.online.state import State
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server.config import ServerConfig
from asrlife_server.engine import Engine, Priority
from asrlife_server.fields import check
from asrlife_server.opening import Make, check_name, settle_method
from asrlife_server.refusal import Refusal, about, invalid
from asrlife_server.state.entry import Address, QuotaError, StoreError
from asrlife_server.state.keeper import Keeper
from asrlife_server.state.verbs import Verbs, checked
from asrlife_server.tenancy import Tenancy
from asrlife_server.waiting import received

_PIECE = 64 * 1024  # bytes of an exported state in one message
_IMPORTS = 4  # at a time; each may hold state.import_bytes in memory
T = TypeVar("T")


class StateRpcs(asrlife_pb2_grpc.SpeechAdaptServicer):
    """Answers for the states of the caller's tenant, which `tenancy` names; no other tenant's is ever looked at."""

    def __init__(self, config: ServerConfig, model: Any, engine: Engine, make: Make, keeper: Keeper, tenancy: Tenancy) -> None:
        self.tenant_of = tenancy.tenant_of
        self.keeper = keeper
        self._config = config
        self._model = model
        self._base: str = model.fingerprint()
        self._engine = engine
        self._make = make
        self._imports = asyncio.Semaphore(_IMPORTS)
        self._importing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by tenant: one must not take all

    async def GetAdaptationState(self, request: pb.GetAdaptationStateRequest, context: Any) -> pb.AdaptationState:
        """See the protocol."""
        return await _answered(context, self._on(request, context, lambda verbs: verbs.get()))

    async def ResetAdaptation(self, request: pb.ResetAdaptationRequest, context: Any) -> pb.AdaptationState:
        """See the protocol."""
        version = request.version if request.HasField("version") else None
        return await _answered(context, self._on(request, context, lambda verbs: verbs.reset(version)))

    async def DeleteAdaptation(self, request: pb.DeleteAdaptationRequest, context: Any) -> pb.DeleteAdaptationResponse:
        """See the protocol."""
        await _answered(context, self._on(request, context, lambda verbs: verbs.delete()))
        return pb.DeleteAdaptationResponse()

    async def ExportAdaptation(self, request: pb.ExportAdaptationRequest, context: Any) -> AsyncIterator[pb.AdaptationChunk]:
        """See the protocol."""
        version = request.version if request.HasField("version") else None
        state, blob = await _answered(context, self._on(request, context, lambda verbs: verbs.export(version)))
        yield pb.AdaptationChunk(state=state)
        for start in range(0, len(blob), _PIECE):
            yield pb.AdaptationChunk(content=blob[start : start + _PIECE])

    async def ImportAdaptation(self, request_iterator: AsyncIterator[pb.AdaptationChunk], context: Any) -> pb.AdaptationState:
        """See the protocol."""
        return await _answered(context, self._imported(request_iterator, context))

    async def caller(self, context: Any) -> str:
        """The tenant that calls; ends a call of nobody's."""

        async def tenant() -> str:
            return self.tenant_of(context)

        return await _answered(context, tenant())

    async def _on(self, request: Any, context: Any, verb: Callable[[Verbs], Awaitable[T]]) -> T:
        check(request)
        check_name("adaptation_key", request.adaptation_key)
        return await verb(Verbs(self.keeper, Address(self.tenant_of(context), request.adaptation_key), self._base))

    async def _imported(self, chunks: AsyncIterator[pb.AdaptationChunk], context: Any) -> pb.AdaptationState:
        tenant = self.tenant_of(context)
        if not self._config.state.allow_import:
            raise Refusal(
                "FAILED_PRECONDITION", "this server takes no states from outside; its configuration may say state.allow_import: true"
            )
        async with self._importing.setdefault(tenant, asyncio.Lock()), self._imports:
            told, blob = await self._received(chunks)
            start = (await self._engine.run(Priority.HEAR, lambda: self._start(told.current))).value
            entry = await asyncio.to_thread(checked, told.current, blob, start, self._config.state.drift_cap)
        return await Verbs(self.keeper, Address(tenant, told.adaptation_key), self._base).bring(entry, blob)

    async def _received(self, chunks: AsyncIterator[pb.AdaptationChunk]) -> tuple[pb.AdaptationState, bytes]:
        first = await self._next(chunks)
        if first is None or first.WhichOneof("chunk") != "state":
            raise invalid("state", "must be the first message of an import")
        check_name("state.adaptation_key", first.state.adaptation_key)
        content = bytearray()
        while (chunk := await self._next(chunks)) is not None:
            if chunk.WhichOneof("chunk") != "content":
                raise invalid("content", "every message of an import but the first holds bytes")
            if len(content) + len(chunk.content) > self._config.state.import_bytes:
                raise about("RESOURCE_EXHAUSTED", "content", f"is above {self._config.state.import_bytes} bytes (state.import_bytes)")
            content += chunk.content
        return first.state, bytes(content)

    async def _next(self, chunks: AsyncIterator[pb.AdaptationChunk]) -> pb.AdaptationChunk | None:
        patience = self._config.timeouts.first_message_s
        chunk = await received(chunks, patience, "AdaptationChunk", f"no further message of the import for {patience:g} s")
        if chunk is not None:
            check(chunk)
        return chunk

    def _start(self, told: pb.StateVersion) -> State:
        if not told.method:
            raise invalid("state.current.method", "is missing; it is what `export` said")
        # what was None is told as text, and unset is None again
        settings = {name: value for name, value in told.settings.items() if value != "None"}
        method = settle_method(pb.Adaptation(method=told.method, settings=settings), self._config, self._model, self._make)
        start: State = method.start(self._model)
        if not start.vectors:
            raise invalid("state.current.method", f"{told.method!r} carries nothing from utterance to utterance")
        return start


async def _answered(context: Any, answer: Awaitable[T]) -> T:
    """The answer to a call, or its end where there is none."""
    try:
        return await answer
    except Refusal as error:
        refusal = error
    except QuotaError as error:
        refusal = Refusal("RESOURCE_EXHAUSTED", str(error))
    except StoreError as error:
        refusal = Refusal("UNAVAILABLE", f"the store of states cannot answer: {error}")
    await context.abort(grpc.StatusCode[refusal.code], refusal.message, refusal.metadata)
    raise AssertionError("abort does not return")
