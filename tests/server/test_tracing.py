"""Spans: through the SDK's exporter in memory, through a real collector's socket, and not at all."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import tracing
from asrlife_server.config import Tracing

memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="opentelemetry-sdk is not here")
ENDPOINT = "http://127.0.0.1:4317"


@pytest.fixture
def spans(monkeypatch):
    """What was exported, once its server has stopped."""
    exporter = memory.InMemorySpanExporter()
    monkeypatch.setattr(tracing, "exporter", lambda endpoint: exporter)
    return exporter.get_finished_spans


async def said(loopback, noise, count=2, **fields):
    talk = await loopback.opened(**fields)
    for seed in range(count):
        await talk.say(noise(seed, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.send(control=pb.FINISH)
    return await talk.rest()


def named(spans, name):
    return [span for span in spans if span.name == name]


def below(spans, above):
    return sorted(span.name for span in spans if span.parent and span.parent.span_id == above.context.span_id)


async def test_a_call_has_a_span_with_one_below_it_for_each_utterance_and_its_parts(serving, noise, spans):
    loopback = await serving(**{"tracing.endpoint": ENDPOINT})
    await said(loopback, noise, request_id="r1", session_id="s1")
    await loopback.server.stop(0)
    found = spans()
    (call,) = named(found, "asrlife.v1.SpeechAdapt/StreamingRecognize")
    assert below(found, call) == ["utterance", "utterance"]
    for index, utterance in enumerate(sorted(named(found, "utterance"), key=lambda span: span.start_time)):
        assert below(found, utterance) == ["adaptation", "final"] and utterance.attributes["asrlife.utterance"] == index
        assert call.start_time <= utterance.start_time <= utterance.end_time <= call.end_time
    told = {"asrlife.request_id": "r1", "asrlife.session": "s1", "asrlife.code": "OK", "asrlife.utterances": 2, "asrlife.steps": 4,
            "asrlife.method": "count", "asrlife.audio_s": 0.2}  # fmt: skip
    assert {key: call.attributes[key] for key in told} == told


async def test_without_adaptation_an_utterance_has_its_final_alone(serving, noise, spans):
    loopback = await serving(**{"tracing.endpoint": ENDPOINT})
    await said(loopback, noise, 1, adaptation=pb.Adaptation(method="none"))
    await loopback.server.stop(0)
    (utterance,) = named(spans(), "utterance")
    assert below(spans(), utterance) == ["final"]


async def test_no_span_says_what_was_said_or_by_whom(serving, noise, spans):
    loopback = await serving(**{"tracing.endpoint": ENDPOINT})
    adaptation = pb.Adaptation(method="count", adaptation_key="anna", persist=pb.Adaptation.KEY)
    rest = await said(loopback, noise, adaptation=adaptation)
    texts = [r.result.alternatives[0].transcript for r in rest if r.HasField("result")]
    await loopback.server.stop(0)
    told = "".join(span.to_json() for span in spans())
    assert texts and not [word for word in ("anna", *texts) if word in told]


async def test_a_refused_call_is_an_error(serving, asked, spans):
    loopback = await serving(**{"tracing.endpoint": ENDPOINT})
    talk = loopback.talk()
    await talk.send(config=asked(channels=2))
    await talk.rest()
    await loopback.server.stop(0)
    (call,) = spans()
    assert call.status.status_code.name == "ERROR" and call.attributes["asrlife.code"] == "INVALID_ARGUMENT"


async def test_an_utterance_whose_adaptation_never_ends_has_an_end_all_the_same(serving, noise, spans, fakes):
    def broken():
        raise SystemExit  # the thread ends in it

    fakes.hook = broken
    loopback = await serving(**{"tracing.endpoint": ENDPOINT})
    await said(loopback, noise, 1)
    await loopback.server.stop(0)
    (utterance,) = named(spans(), "utterance")
    assert below(spans(), utterance) == ["final"] and utterance.end_time >= utterance.start_time


async def test_a_callers_own_trace_goes_on(serving, asked, spans):
    loopback = await serving(**{"tracing.endpoint": ENDPOINT, "tracing.ratio": 0.0})
    trace = "0af7651916cd43dd8448eb211c80319c"
    for sampled in ("01", "00"):
        metadata = [("traceparent", f"00-{trace}-b7ad6b7169203331-{sampled}")]
        await loopback.stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=metadata)
    await loopback.stub.GetServerInfo(pb.GetServerInfoRequest())
    await loopback.server.stop(0)
    (call,) = spans()  # neither the one that the caller does not sample nor, at ratio 0, the one without a caller
    assert f"{call.context.trace_id:032x}" == trace and f"{call.parent.span_id:016x}" == "b7ad6b7169203331"


async def test_spans_reach_a_collector_over_otlp(serving, noise):
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    received = []

    class Collector(service.TraceServiceServicer):
        def Export(self, request, context):
            received.append(request)
            return messages.ExportTraceServiceResponse()

    collector = grpc.server(ThreadPoolExecutor(1))
    service.add_TraceServiceServicer_to_server(Collector(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    try:
        loopback = await serving(**{"tracing.endpoint": f"http://127.0.0.1:{port}"})
        await said(loopback, noise, 1)
        await loopback.server.stop(0)
    finally:
        await asyncio.to_thread(collector.stop(0).wait)
    resources = [resource for request in received for resource in request.resource_spans]
    names = [span.name for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == ["adaptation", "asrlife.v1.SpeechAdapt/StreamingRecognize", "final", "utterance"]
    attributes = {each.key: each.value.string_value for each in resources[0].resource.attributes}
    assert attributes["service.name"] == "asrlife"


def test_without_the_package_the_server_says_what_to_install(monkeypatch):
    for missing in ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.exporter.otlp"):
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"pip install asrlife\[otel\]") as error:
        tracing.Tracer(Tracing(endpoint=ENDPOINT))
    assert "\n" not in str(error.value)
    tracing.Tracer(Tracing()).close()


def test_a_server_that_traces_nothing_imports_nothing():
    run = (
        "import sys; from asrlife_server.main import Server; from asrlife_server.tracing import Tracer; "
        "from asrlife_server.config import Tracing; Tracer(Tracing()).call('x', None); "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", run], check=False).returncode == 0
