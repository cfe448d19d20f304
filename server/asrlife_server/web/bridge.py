"""One WebSocket as one call of our own service.

What comes: first {"config": ..., "token": ...}, then sound as binary messages (bytes of `audio.content`) and members of StreamingRequest
as text, in proto3's JSON. What goes: StreamingResponse as JSON, and {"error": {"code", "message"}} before a bad end.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
from google.protobuf import json_format

from asrlife.client.aio import Verdict
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.refusal import Refusal, invalid
from asrlife_server.waiting import within

_SILENT = 'the first message is a text with {"config": {...}}'


class Bridge:
    """Carries messages both ways without a queue of its own: whoever reads slowly stops who sends."""

    def __init__(self, stub: Any, patience: float) -> None:
        self._stub = stub
        self._patience = patience

    async def serve(self, socket: Any) -> None:
        """Until either side ends; a browser that goes away ends its call, and nothing under way is committed."""
        try:
            first, token = await self._first(socket)
            await self._carry(socket, first, token)
        except Refusal as refusal:
            await _tell(socket, {"error": {"code": refusal.code, "message": refusal.message}})
        except ConnectionError:  # the browser went away while it was being told something
            return
        await socket.close()

    async def _carry(self, socket: Any, first: pb.StreamingRequest, token: str) -> None:
        call = self._stub.StreamingRecognize(metadata=(("authorization", f"Bearer {token}"),) if token else ())
        verdict = Verdict(call)
        up, down = asyncio.create_task(_up(socket, call, first)), asyncio.create_task(_down(socket, call))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            if not down.done():
                return up.result()  # gone, or not to be understood
            down.result()
        finally:
            call.cancel()
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
        if verdict.code not in (None, grpc.StatusCode.OK):
            await _tell(socket, {"error": {"code": verdict.code.name, "message": verdict.details}})

    async def _first(self, socket: Any) -> tuple[pb.StreamingRequest, str]:
        try:
            message = await within(socket.receive(), self._patience)
        except (asyncio.TimeoutError, TimeoutError):
            raise Refusal("DEADLINE_EXCEEDED", f"no first message for {self._patience:g} s; {_SILENT}") from None
        found = _object(message.data, "request") if isinstance(message.data, str) else {}
        token = found.pop("token", "")
        request = _request(found)
        if request.WhichOneof("request") != "config" or not isinstance(token, str):
            raise invalid("config", _SILENT)
        return request, token


async def _up(socket: Any, call: Any, first: pb.StreamingRequest) -> None:
    """Until the browser closes; what comes after the call's end is thrown away."""
    open_still = await _written(call, first)
    async for message in socket:
        if not open_still:
            continue
        if isinstance(message.data, bytes):
            request = pb.StreamingRequest(audio=pb.Audio(content=message.data))
        elif isinstance(message.data, str):
            request = _request(_object(message.data, "request"))
        else:
            return  # an error of the connection, such as a message above the limit
        open_still = await _written(call, request)


async def _written(call: Any, request: pb.StreamingRequest) -> bool:
    try:
        await call.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False  # the call has ended; its answer says why
    return True


async def _down(socket: Any, call: Any) -> None:
    try:
        async for response in call:
            await socket.send_str(json_format.MessageToJson(response, preserving_proto_field_name=True, indent=None))
    except grpc.aio.AioRpcError:
        return  # the verdict says it


async def _tell(socket: Any, message: dict[str, Any]) -> None:
    if not socket.closed:
        await socket.send_str(json.dumps(message))


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise invalid(what, f"is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise invalid(what, "is no JSON object")
    return found


def _request(found: dict[str, Any]) -> pb.StreamingRequest:
    try:
        return json_format.ParseDict(found, pb.StreamingRequest())
    except json_format.ParseError as error:
        raise invalid("request", str(error)) from error
