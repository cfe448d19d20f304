"""What stands on standard error: lines of JSON that say how every call ended, and never what was said."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import subprocess
import sys

import grpc
import pytest

from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server import logs
from asrlife_server.config import Log
from tests.server.callers import tokens

FIELDS = {
    "time", "level", "logger", "message", "rpc", "code", "request_id", "field", "seconds", "session", "model", "method", "audio_s",
    "compute_s", "adaptation_s", "utterances", "steps", "resets", "state_version", "version",
}  # fmt: skip


@pytest.fixture
def lines(monkeypatch):
    """Writes the log while it is used; gives what was written so far."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)

    def read():
        return [json.loads(line) for line in written.getvalue().splitlines()]

    with logs.written(Log()):
        yield read


async def calls(lines, loopback, number=1):
    """The lines of calls, once so many have ended."""
    await loopback.until_idle()
    while len(found := [line for line in lines() if line["message"] == "call"]) < number:
        await asyncio.sleep(0.01)
    return found


async def said(loopback, noise, **fields):
    talk = await loopback.opened(**fields)
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINISH)
    rest = await talk.rest()
    return [r.result.alternatives[0].transcript for r in rest if r.HasField("result")] + [
        r.refinement.alternatives[0].transcript for r in rest if r.HasField("refinement")
    ]


async def test_a_call_is_one_line_with_what_it_was_and_took(serving, noise, lines):
    loopback = await serving()
    await said(loopback, noise, request_id="req-1", session_id="ses-1")
    (line,) = await calls(lines, loopback)
    assert line.keys() == FIELDS
    expected = {"rpc": "StreamingRecognize", "code": "OK", "request_id": "req-1", "session": "ses-1", "method": "count", "audio_s": 0.1,
                "utterances": 1, "steps": 2, "resets": 0, "state_version": 1, "level": "info"}  # fmt: skip
    assert {name: line[name] for name in expected} == expected and line["compute_s"] >= 0


@pytest.mark.parametrize("content", [False, True])
async def test_what_was_said_stands_in_the_log_only_where_it_is_asked_for(serving, noise, lines, content):
    loopback = await serving(**{"log.content": content})
    texts = await said(loopback, noise)
    (line,) = await calls(lines, loopback)
    assert len(texts) == 2 and all((text in json.dumps(lines())) == content for text in texts)
    assert line.get("texts") == (texts if content else None)


async def test_a_refused_call_says_its_field_and_neither_key_nor_token(serving, asked, lines):
    loopback = await serving()
    talk = loopback.talk()
    await talk.send(
        config=asked(adaptation=pb.Adaptation(method="count", adaptation_key="an/na", persist=pb.Adaptation.KEY), request_id="r1")
    )
    await talk.rest()
    call = loopback.stub.GetAdaptationState(
        pb.GetAdaptationStateRequest(adaptation_key="anna"), metadata=[("authorization", "Bearer hunter2")]
    )
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    refused, unknown = await calls(lines, loopback, 2)
    assert (refused["code"], refused["field"], refused["request_id"]) == ("INVALID_ARGUMENT", "config.adaptation.adaptation_key", "r1")
    assert (unknown["rpc"], unknown["code"]) == ("GetAdaptationState", "NOT_FOUND")
    text = json.dumps(lines())
    assert not [word for word in ("an/na", "anna", "hunter2", "Bearer") if word in text]


async def test_a_request_id_that_is_none_is_not_repeated(serving, asked, lines):
    loopback = await serving()
    talk = loopback.talk()
    await talk.send(config=asked(request_id='"}\n{"forged": 1'))
    await talk.rest()
    (line,) = await calls(lines, loopback)
    assert line["request_id"] == "" and line["field"] == "config.request_id"


@pytest.mark.parametrize("name", ["Forged", "x" * 1000, "sk-secret"])
async def test_the_name_of_a_made_up_call_is_not_repeated(serving, lines, tmp_path, name):
    loopback = await serving(**{"security.tokens": tokens(tmp_path / "tokens", known="acme")})
    call = loopback.channel.unary_unary(f"/asrlife.v1.SpeechAdapt/{name}")(b"", timeout=20)
    assert await call.code() == grpc.StatusCode.UNAUTHENTICATED
    (line,) = await calls(lines, loopback)
    assert (line["rpc"], line["code"]) == ("unknown", "UNAUTHENTICATED") and name not in json.dumps(lines())


async def test_one_line_each_for_calls_of_one_answer_and_for_clients_who_leave(serving, asked, noise, lines):
    loopback = await serving()
    config = asked(adaptation=pb.Adaptation())
    config.endpointing.Clear()
    await loopback.stub.Recognize(pb.RecognizeRequest(config=config, audio=noise(1, 8000).tobytes()))
    await calls(lines, loopback)
    await loopback.stub.GetServerInfo(pb.GetServerInfoRequest())
    talk = await loopback.opened()
    talk.call.cancel()
    found = await calls(lines, loopback, 3)
    assert [(line["rpc"], line["code"]) for line in found] == [
        ("Recognize", "OK"), ("GetServerInfo", "OK"), ("StreamingRecognize", "CANCELLED"),
    ]  # fmt: skip


async def test_a_stream_that_fails_is_two_lines_one_of_them_the_cause(serving, noise, lines, fakes):
    def broken(waveforms, batch_size):
        raise RuntimeError("no memory left")

    fakes.model.transcribe = broken
    loopback = await serving()
    await said(loopback, noise)
    (line,) = await calls(lines, loopback)
    (cause,) = [each for each in lines() if "exception" in each]
    assert line["code"] == "INTERNAL" and cause["level"] == "error" and "no memory left" in cause["exception"]


def record(**given):
    made = logging.LogRecord("asrlife.server", logging.INFO, "file", 1, "a %s\nline", ("broken",), None)
    made.__dict__.update(given)
    return made


def test_a_record_is_one_line_whatever_is_in_it():
    assert "\n" not in logs.Json().format(record(fields={"odd": "a\nb"}))
    assert logs.Text().format(record(fields={"steps": 2})).endswith("info a broken line steps=2")


def test_the_level_is_honoured_and_others_may_only_warn(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with logs.written(Log(level="warning", format="text")):
        logging.getLogger("asrlife.server").info("nothing")
        logging.getLogger("asrlife.server").warning("something")
        logging.getLogger("another").info("nothing")
        logging.getLogger("another").warning("something else")
    logging.getLogger("asrlife.server").warning("too late")
    assert [line.split(" ", 1)[1] for line in written.getvalue().splitlines()] == ["warning something", "warning something else"]


@pytest.mark.slow
def test_the_process_writes_json_to_standard_error_and_its_address_alone_to_standard_output(noise):
    command = [sys.executable, "-m", "asrlife", "serve", "--port", "0", "--set", "state.backend=memory", "--set", "metrics.port=0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline()
            with grpc.insecure_channel(line.split()[-1]) as channel:
                asrlife_pb2_grpc.SpeechAdaptStub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=20)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert line.startswith("asrlife: embedded:ctc on 127.0.0.1:") and out == "" and process.returncode == 0
    told = [json.loads(each) for each in err.splitlines()]
    assert told[0]["message"].startswith("metrics are at http://127.0.0.1:") and told[1]["rpc"] == "GetServerInfo"
