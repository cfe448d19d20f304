"""What one call did, seen from outside: from its requests and responses come its metrics, its line in the log and its spans."""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import grpc

import asrlife
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.metrics import Observe, Row
from asrlife_server.refusal import Refusal
from asrlife_server.session import Session
from asrlife_server.stream import Write
from asrlife_server.tracing import NOT_TRACED, Trace
from asrlife_server.waiting import Requests

_STREAMS = ("StreamingRecognize", "Recognize")
_KNOWN = frozenset(method.name for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods)
_RIVAS = "GetRivaSpeechRecognitionConfig"  # the one call of Riva's that is not called as ours are
_NOT_OURS = "/grpc."  # health and reflection
_IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_EVENT = pb.AdaptationEvent
_MARKS = 2048  # arrivals that are remembered: minutes of sound
_ENDS = (_EVENT.STEPPED, _EVENT.SKIPPED)  # of an utterance's adaptation
Report = Callable[["Call"], None]


class Call:
    """One call from its arrival to its end; `report` is told when it is over. Texts stay in it with `content` alone."""

    def __init__(self, rpc: str, observe: Observe, report: Report, trace: Trace = NOT_TRACED, content: bool = False) -> None:
        self.rpc = rpc
        self.code = "OK"
        self.field = ""
        self.refused = ""
        self.request_id = ""
        self.session: Session | None = None
        self._observe, self._report, self._trace, self._content = observe, report, trace, content
        self._texts: list[str] = []  # finals and refinements, in the order in which they were sent
        self._began = time.time()
        self._arrived = 0.0  # when the request came that is being taken
        self._heard: list[tuple[float, float]] = []  # the sound that has come (s), and when
        self._finals: dict[int, float] = {}  # when each was sent, until its refinement
        self._charged = {"audio": 0.0, "compute": 0.0, "adaptation": 0.0, "steps": 0.0}

    def opened(self, session: Session) -> None:
        """The stream is told `opened` next."""
        self.session = session
        self._count("streams_opened")

    def requests(self, requests: Requests) -> Requests:
        """The same requests, seen."""
        return _Seen(requests, self)

    def write(self, write: Write) -> Write:
        """The same way to the client, seen."""

        async def seen(response: pb.StreamingResponse) -> None:
            self._sent(response)
            await write(response)

        return seen

    def arrived(self, request: pb.StreamingRequest) -> None:
        """A request has come."""
        self._arrived = time.time()
        if request.HasField("config") and _IDENTIFIER.fullmatch(request.config.request_id):
            self.request_id = request.config.request_id

    def taken(self) -> None:
        """The request that came last has been heard: the next one is asked for."""
        audio = self.session.totals.audio if self.session else 0.0
        if audio > (self._heard[-1][0] if self._heard else 0.0):
            self._heard.append((audio, self._arrived))
            if len(self._heard) > 2 * _MARKS:
                del self._heard[:_MARKS]
        if audio >= self._charged["audio"] + 1.0:
            self._charge()

    def refuse(self, refusal: Refusal) -> None:
        """It ends with this."""
        self.code, self.field, self.refused = refusal.code, refusal.field, refusal.message

    def gone(self) -> None:
        """The client went away."""
        self.code = "CANCELLED"

    def ended(self, code: str) -> None:
        """It is over, with this status."""
        self.code = code
        self._charge()
        self._count("calls", 1.0, code.lower())
        if self.session is None and self.rpc in _STREAMS and code != "OK":
            self._count("streams_rejected", 1.0, code.lower())
        if self.session is not None and self.session.totals.audio:
            totals = self.session.totals
            self._count("real_time_factor", totals.compute / totals.audio, "recognition")
            self._count("real_time_factor", totals.adaptation / totals.audio, "adaptation")
        self._trace.ended(self, time.time())
        self._report(self)

    def fields(self) -> dict[str, Any]:
        """What the log says of it; with `content` also what was said, by the speaker and in a refusal."""
        told: dict[str, Any] = {"rpc": self.rpc, "code": self.code, "request_id": self.request_id, "field": self.field}
        told["seconds"] = round(time.time() - self._began, 3)
        if self.session is not None:
            told |= _of(self.session)
        told["version"] = asrlife.__version__
        return told | ({"texts": self._texts, "refusal": self.refused} if self._content else {})

    def _sent(self, response: pb.StreamingResponse) -> None:
        kind = response.WhichOneof("response")
        self._charge()
        if kind == "result":
            self._result(response.result, time.time())
        elif kind == "refinement":
            self._refined(response.refinement, time.time())
        elif kind == "adaptation_event":
            self._adapted(response.adaptation_event, time.time())

    def _result(self, result: pb.Result, now: float) -> None:
        begun, ended = (self._when(span.ToNanoseconds() / 1e9) for span in (result.start, result.end))
        if not result.is_final:
            self._count("partial_seconds", max(0.0, now - ended))
            return
        self._said(result)
        self._count("final_seconds", max(0.0, now - ended))
        goes_on = self.session is not None and self.session.adapts and not result.adapted
        if goes_on:
            self._finals[result.utterance_index] = now
        self._trace.final(result.utterance_index, (begun, ended, now), goes_on)

    def _refined(self, refinement: pb.Refinement, now: float) -> None:
        self._said(refinement)
        final = self._finals.pop(refinement.utterance_index, None)
        if final is not None:
            self._count("refinement_seconds", max(0.0, now - final))

    def _adapted(self, event: pb.AdaptationEvent, now: float) -> None:
        if event.kind == _EVENT.SKIPPED:
            self._count("adaptation_skips", 1.0, event.reason)
        if event.kind == _EVENT.RESET:
            self._count("adaptation_resets", 1.0, event.reason)
        if event.HasField("drift"):
            self._count("adaptation_drift", event.drift)
        if event.kind in _ENDS:
            self._finals.pop(event.utterance_index, None)
            self._trace.adapted(event, now)

    def _said(self, message: pb.Result | pb.Refinement) -> None:
        if self._content:
            self._texts.append(message.alternatives[0].transcript)

    def _when(self, audio: float) -> float:
        """When the sound up to `audio` s had come."""
        place = bisect_left(self._heard, audio - 1e-6, key=lambda mark: mark[0])
        return self._heard[place][1] if place < len(self._heard) else self._arrived or self._began

    def _charge(self) -> None:
        """Count what the session's totals have grown by."""
        if self.session is None:
            return
        rows: dict[str, tuple[Row, str]] = {
            "audio": ("audio_seconds", ""), "compute": ("compute_seconds", "recognition"),
            "adaptation": ("compute_seconds", "adaptation"), "steps": ("adaptation_steps", ""),
        }  # fmt: skip
        for name, (row, label) in rows.items():
            now = float(getattr(self.session.totals, name))
            grown, self._charged[name] = now - self._charged[name], now
            if grown > 0:
                self._count(row, grown, label)

    def _count(self, row: Row, value: float = 1.0, label: str = "") -> None:
        self._observe(row, value, label)


def _of(session: Session) -> dict[str, Any]:
    totals, config = session.totals, session.opening.config
    return {
        "session": session.name, "model": config.model, "method": config.adaptation.method, "audio_s": round(totals.audio, 3),
        "compute_s": round(totals.compute, 4), "adaptation_s": round(totals.adaptation, 4), "utterances": totals.utterances,
        "steps": totals.steps, "resets": totals.resets, "state_version": session.version,
    }  # fmt: skip


class _Seen:
    """Requests that tell a call of themselves."""

    def __init__(self, requests: Requests, call: Call) -> None:
        self._requests, self._call = requests, call

    def __aiter__(self) -> _Seen:
        return self

    async def __anext__(self) -> pb.StreamingRequest:
        self._call.taken()
        request = await anext(self._requests)
        self._call.arrived(request)
        return request


_CURRENT: ContextVar[Call] = ContextVar("call")


def current() -> Call:
    """The call that is being answered; outside of one, a call that nobody hears of."""
    found = _CURRENT.get(None)
    return found if found is not None else Call("", lambda row, value, label: None, lambda call: None)


@contextmanager
def following(call: Call, context: Any) -> Iterator[None]:
    """Make `call` the current one for as long as it is answered, and end it with the status it got; `context` is gRPC's."""
    token, code = _CURRENT.set(call), "INTERNAL"
    try:
        yield
        code = call.code if call.code != "OK" else _code(context)
    except asyncio.CancelledError:
        code = "CANCELLED"
        raise
    except grpc.aio.AbortError:
        code = _code(context)
        raise
    finally:
        _CURRENT.reset(token)
        call.ended(code)


class Watch(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Makes a Call of every call but those of gRPC's own services, refused or not: it has to be the first interceptor."""

    def __init__(self, begin: Callable[[str, Any], Call]) -> None:
        self._begin = begin

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """See grpc.aio."""
        handler = await continuation(handler_call_details)
        rpc: str = handler_call_details.method
        if handler is None or rpc.startswith(_NOT_OURS):
            return handler
        name = rpc.rpartition("/")[2]
        return self._seen(handler, name if name in _KNOWN or name == _RIVAS else "unknown")  # a caller's own words are not repeated

    def _seen(self, handler: Any, rpc: str) -> Any:
        answer = handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream

        async def seen(request: Any, context: Any) -> Any:
            with following(self._begin(rpc, context), context):
                return await _answered(answer(request, context), context)

        kind = "_".join("stream" if streams else "unary" for streams in (handler.request_streaming, handler.response_streaming))
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(seen, handler.request_deserializer, handler.response_serializer)


async def _answered(answer: Any, context: Any) -> Any:
    if not hasattr(answer, "__aiter__"):
        return await answer
    async for response in answer:
        await context.write(response)
    return None


def _code(context: Any) -> str:
    code = context.code()
    return next((each.name for each in grpc.StatusCode if code in (each, each.value[0])), "OK")
