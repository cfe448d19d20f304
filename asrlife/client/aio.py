"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc

from asrlife.audio.waveform import Waveform
from asrlife.client.access import Access
from asrlife.client.connection import ADDRESS, failure
from asrlife.client.events import Event, answered, event
from asrlife.client.info import ServerInfo
from asrlife.client.requests import Options, Piece, Timed, messages, messages_of, pieces, whole
from asrlife.client.states import Exported, KeptState, export_request, reset_request
from asrlife.client.transcript import Gathering, Transcript
from asrlife.v1 import asrlife_pb2 as pb

Audio = Waveform | str | Path | Iterable[Piece] | AsyncIterable[Piece]
T = TypeVar("T")


class AsyncClient:
    """A connection to one server in the running event loop; raises InputError when none answers within `timeout` s.

    `access` is what Client takes: ca, certificate, key, token, allow_plaintext_token.
    """

    def __init__(self, address: str = ADDRESS, timeout: float = 5.0, **access: Any) -> None:
        self._access = Access(address, **access)
        self.address = address
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None

    async def info(self) -> ServerInfo:
        """What the server is and has."""
        return ServerInfo.of(await self._asked(lambda stub: stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=self._timeout)))

    async def get_state(self, key: str) -> KeptState:
        """Client.get_state for asyncio."""
        request = pb.GetAdaptationStateRequest(adaptation_key=key)
        return KeptState.of(await self._asked(lambda stub: stub.GetAdaptationState(request, timeout=self._timeout)))

    async def reset_state(self, key: str, version: int | None = None) -> KeptState:
        """Client.reset_state for asyncio."""
        return KeptState.of(await self._asked(lambda stub: stub.ResetAdaptation(reset_request(key, version), timeout=self._timeout)))

    async def delete_state(self, key: str) -> None:
        """Client.delete_state for asyncio."""
        await self._asked(lambda stub: stub.DeleteAdaptation(pb.DeleteAdaptationRequest(adaptation_key=key), timeout=self._timeout))

    async def export_state(self, key: str, version: int | None = None) -> Exported:
        """Client.export_state for asyncio."""
        return await self._asked(lambda stub: Exported.later(stub.ExportAdaptation(export_request(key, version))))

    async def import_state(self, state: Exported, key: str | None = None) -> KeptState:
        """Client.import_state for asyncio."""
        return KeptState.of(await self._asked(lambda stub: stub.ImportAdaptation(state.chunks(key or state.key))))

    async def transcribe(self, audio: Audio, unary: bool = False, **options: Any) -> Transcript:
        """Client.transcribe for asyncio."""
        gathering = Gathering()
        async for found in self._at_once(audio, Options(**options)) if unary else self.stream(audio, **options):
            gathering.add(found)
        return gathering.transcript()

    async def _at_once(self, audio: Audio, options: Options) -> AsyncIterator[Event]:
        gathered = [piece async for piece in audio] if isinstance(audio, AsyncIterable) else audio
        try:
            response = await (await self._stub()).Recognize(whole(gathered, options))
        except grpc.aio.AioRpcError as error:
            raise failure(error.code(), error.details()) from error
        for found in answered(response):
            yield found

    async def stream(self, audio: Audio, adapt: str = "", realtime: bool = False, **options: Any) -> AsyncIterator[Event]:
        """Client.stream for asyncio; `audio` may be an asynchronous iterable too."""
        asked = Options(adapt=adapt, **options)
        sending = _Sending(messages_of(audio, asked) if isinstance(audio, AsyncIterable) else _later(audio, asked), realtime)
        call = (await self._stub()).StreamingRecognize(sending.requests(), metadata=asked.affinity)
        verdict = Verdict(call)
        try:
            async for response in call:
                if (found := event(response)) is not None:
                    yield found
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            if sending.error is not None:
                raise sending.error from error
            if isinstance(error, asyncio.CancelledError):
                raise
            raise failure(verdict.code, verdict.details) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the connection; the next verb opens a new one."""
        if self._channel is not None:
            await self._channel.close(None)
            self._channel = None

    async def __aenter__(self) -> AsyncClient:
        await self._stub()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _asked(self, call: Callable[[Any], Awaitable[T]]) -> T:
        try:
            return await call(await self._stub())
        except grpc.aio.AioRpcError as error:
            raise failure(error.code(), error.details()) from error

    async def _stub(self) -> Any:
        if self._channel is None:
            channel = self._access.channel(grpc.aio)
            try:
                await asyncio.wait_for(channel.channel_ready(), self._timeout)
            except (asyncio.TimeoutError, TimeoutError):
                await channel.close(None)
                raise await asyncio.to_thread(self._access.trouble) from None
            self._channel = channel
        return self._access.stub(self._channel)


async def _later(audio: Waveform | str | Path | Iterable[Piece], options: Options) -> AsyncIterator[Timed]:
    for message in messages(pieces(audio), options):
        yield message


class _Sending:
    """gRPC would swallow an error of the requests: it is kept for the caller."""

    def __init__(self, timed: AsyncIterator[Timed], realtime: bool) -> None:
        self.error: Exception | None = None
        self._timed = timed
        self._realtime = realtime

    async def requests(self) -> AsyncIterator[pb.StreamingRequest]:
        clock = asyncio.get_running_loop().time
        due = clock()
        try:
            async for message, seconds in self._timed:
                due += seconds
                if self._realtime:
                    await asyncio.sleep(max(0.0, due - clock()))
                yield message
        except Exception as error:
            self.error = error
            raise


class Verdict:
    """The status that the server gave.

    grpc.aio forgets it when a write fails after it has come (grpc/grpc#36066): callers then see INTERNAL, so it is kept when it comes.
    """

    def __init__(self, call: Any) -> None:
        self.code: grpc.StatusCode | None = None
        self.details: str | None = None
        call.add_done_callback(self._keep)

    def _keep(self, call: Any) -> None:
        if self.code is None:
            self.code, self.details = _settled(call.code()), _settled(call.details())


def _settled(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing left to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    finally:
        coroutine.close()
    return None
