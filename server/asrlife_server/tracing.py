"""Spans for OpenTelemetry, where a collector is named; nothing of the package is imported otherwise."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import asrlife
from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import Tracing

if TYPE_CHECKING:
    from asrlife_server.watching import Call

_TOLD = "code request_id session model method audio_s compute_s adaptation_s utterances steps resets state_version".split()
_PATIENCE = 5  # s that a collector may take
_OPEN = 256  # utterances of one call whose adaptation is awaited
Times = tuple[float, float, float]


class Trace(Protocol):
    """What is told of one call; times in s since 1970."""

    def final(self, index: int, times: Times, goes_on: bool) -> None:
        """An utterance that began, ended and got its final at these times; `goes_on` when its adaptation follows."""

    def adapted(self, event: pb.AdaptationEvent, now: float) -> None:
        """The adaptation to an utterance is over."""

    def ended(self, call: Call, now: float) -> None:
        """The call is over."""


class _NotTraced:
    def final(self, index: int, times: Times, goes_on: bool) -> None:
        pass

    def adapted(self, event: pb.AdaptationEvent, now: float) -> None:
        pass

    def ended(self, call: Call, now: float) -> None:
        pass


NOT_TRACED: Trace = _NotTraced()


class Tracer:
    """Makes the traces of one server and sends them to the collector; without an endpoint it does neither."""

    def __init__(self, settings: Tracing) -> None:
        self._provider = _provider(settings) if settings.endpoint is not None else None

    def call(self, rpc: str, context: Any) -> Trace:
        """The trace of a call that has come, below the caller's own where the metadata name one (traceparent)."""
        if self._provider is None:
            return NOT_TRACED
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
        above = TraceContextTextMapPropagator().extract(carrier)
        tracer = self._provider.get_tracer("asrlife", asrlife.__version__)
        return _Traced(tracer, tracer.start_span(f"asrlife.v1.SpeechAdapt/{rpc}", above, kind=SpanKind.SERVER))

    def close(self) -> None:
        """Send what has not been sent; takes a while where the collector does not answer."""
        if self._provider is not None:
            self._provider.shutdown()


class _Traced:
    """A span for the call, one below it for each utterance, and below that one for its final and one for its adaptation."""

    def __init__(self, tracer: Any, span: Any) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span, self._below = tracer, span, set_span_in_context
        self._open: dict[int, tuple[Any, float]] = {}  # utterances with a final, and when that was

    def final(self, index: int, times: Times, goes_on: bool) -> None:
        began, ended, now = times
        utterance = self._begin("utterance", self._span, began, {"asrlife.utterance": index})
        self._begin("final", utterance, ended, {}).end(_ns(now))
        if goes_on and len(self._open) < _OPEN:
            self._open[index] = utterance, now
        else:
            utterance.end(_ns(now))

    def adapted(self, event: pb.AdaptationEvent, now: float) -> None:
        utterance, since = self._open.pop(event.utterance_index, (None, now))
        if utterance is None:
            return
        told = {"asrlife.event": pb.AdaptationEvent.Kind.Name(event.kind), "asrlife.state_version": event.state_version}
        self._begin("adaptation", utterance, since, told).end(_ns(now))
        utterance.end(_ns(now))

    def ended(self, call: Call, now: float) -> None:
        from opentelemetry.trace import Status, StatusCode

        for utterance, _ in self._open.values():
            utterance.end(_ns(now))
        told = call.fields()
        self._span.set_attributes({f"asrlife.{name}": told[name] for name in _TOLD if told.get(name, "") != ""})
        if call.code != "OK":
            self._span.set_status(Status(StatusCode.ERROR, call.code))
        self._span.end(_ns(now))

    def _begin(self, name: str, above: Any, at: float, attributes: dict[str, Any]) -> Any:
        return self._tracer.start_span(name, self._below(above), start_time=_ns(at), attributes=attributes)


def check_installed() -> None:
    """Raise InputError where the package is missing."""
    for package in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc"):
        try:
            there = find_spec(package)
        except ModuleNotFoundError:
            there = None
        if there is None:
            raise InputError("tracing.endpoint needs OpenTelemetry, which is not installed: pip install asrlife[otel]")


def exporter(endpoint: str) -> Any:
    """What sends spans to a collector."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"), timeout=_PATIENCE)


def _provider(settings: Tracing) -> Any:
    check_installed()
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    assert settings.endpoint is not None
    resource = Resource.create({"service.name": "asrlife", "service.version": asrlife.__version__})
    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(settings.ratio), resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter(settings.endpoint)))
    return provider


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
