"""Request streams that no client of ours would send, through a real socket: every one ends with a status that names its fault."""

from __future__ import annotations

import asyncio
import logging
import time
from random import Random

import grpc
import pytest

from asrlife.v1 import asrlife_pb2 as pb
from tests.fuzz.spoiling import spoilt

CASES = 10_000
METHOD = "/asrlife.v1.SpeechAdapt/StreamingRecognize"
A, E = pb.Adaptation, pb.Endpointing
OURS = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
}


def config(rng: Random) -> pb.StreamingConfig:
    """Mostly right, with a few fields of any value."""
    made = pb.StreamingConfig(encoding=pb.PCM16, sample_rate_hz=16_000, endpointing=E(mode=E.EXTERNAL), adaptation=A(method="count"))
    odd = [
        lambda: setattr(made, "encoding", rng.randrange(-1, 9)),
        lambda: setattr(made, "sample_rate_hz", rng.choice([0, 1, 7_999, 8_000, 44_100, 48_000, 2**32 - 1])),
        lambda: setattr(made, "channels", rng.randrange(4)),
        lambda: setattr(made, "language", rng.choice(["", "en", "tlh", "\0", "x" * 300])),
        lambda: setattr(made, "max_alternatives", rng.choice([0, 1, 10, 11, 2**32 - 1])),
        lambda: setattr(made, "word_times", True),
        lambda: setattr(made, "cursors", True),
        lambda: setattr(made.interim, "enable", True),
        lambda: setattr(made.interim, "min_interval_ms", rng.choice([0, 40, 2**32 - 1])),
        lambda: setattr(made.endpointing, "mode", rng.randrange(3)),
        lambda: setattr(made.endpointing, "threshold", rng.choice([float("nan"), float("inf"), -1.0, 0.5])),
        lambda: setattr(made.endpointing, "max_utterance_ms", rng.choice([0, 500, 2**32 - 1])),
        lambda: setattr(made.adaptation, "method", rng.choice(["", "none", "count", "alone", "nothing", "../etc"])),
        lambda: made.adaptation.settings.update({rng.choice(["gain", "book", "what"]): rng.choice(["1", "nan", "-1e400", "", "x"])}),
        lambda: setattr(made.adaptation, "adaptation_key", rng.choice(["", "anna", "../..", "a" * 129, "é"])),
        lambda: setattr(made.adaptation, "persist", rng.randrange(-1, 4)),
        lambda: setattr(made.adaptation, "max_latency_ms", rng.choice([0, 1, 2**32 - 1])),
        lambda: setattr(made, "session_id", rng.choice(["", "s", "a/b", "s" * 200])),
        lambda: setattr(made, "resume_after_utterance", rng.choice([0, 5, 2**32 - 1])),
        lambda: setattr(made, "request_id", rng.choice(["", "ok", "\n", "r" * 129])),
        lambda: made.speech_start_timeout.FromMilliseconds(rng.choice([-5, 0, 100, 10**9])),
    ]
    for change in rng.sample(odd, rng.choice([0, 0, 1, 2, 5])):
        change()
    return made


def request(rng: Random) -> pb.StreamingRequest:
    kind = rng.randrange(8)
    if kind < 4:
        audio = pb.Audio(content=rng.randbytes(rng.choice([0, 1, 2, 320, 3_201])))
        if rng.random() < 0.2:
            audio.sequence = rng.choice([0, 1, 2**64 - 1])
        return pb.StreamingRequest(audio=audio)
    if kind == 4:
        return pb.StreamingRequest(silence=pb.Silence(duration_ms=rng.choice([0, 100, 10_000, 2**32 - 1])))
    if kind == 5 and rng.random() < 0.2:
        return pb.StreamingRequest(config=config(rng))
    return pb.StreamingRequest(control=rng.choice([0, 1, 1, 2, 3, 4, 5, 6, 77]))


def requests(rng: Random) -> list[bytes]:
    begin = [pb.StreamingRequest(config=config(rng))] if rng.random() < 0.95 else []
    sent = [*begin, *(request(rng) for _ in range(rng.randrange(8)))]
    if rng.random() < 0.7:
        sent.append(pb.StreamingRequest(control=pb.FINISH))
    data = [each.SerializeToString() for each in sent]
    if data and rng.random() < 0.3:
        at = rng.randrange(len(data))
        data[at] = spoilt(data[at], rng)
    return data


def status(channel: grpc.Channel, rng: Random, sent: list[bytes]) -> str:
    call = channel.stream_stream(METHOD)(iter(sent))
    if rng.random() < 0.1:
        time.sleep(rng.random() / 100)
        call.cancel()
    try:
        for response in call:
            pb.StreamingResponse.FromString(response)
    except grpc.RpcError:
        pass
    return str(call.code().name)


def tried(port: int) -> dict[str, int]:
    """How many cases ended with each status."""
    found: dict[str, int] = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for seed in range(CASES):
            rng = Random(seed)
            sent = requests(rng)
            code = status(channel, rng, sent)
            found[code] = found.get(code, 0) + 1
            assert code in OURS, (seed, code)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_10_000_request_streams_end_with_a_status_of_ours(serving, caplog):
    loopback = await serving(**{"limits.streams": 64, "timeouts.first_message_s": 5.0, "timeouts.idle_s": 5.0})
    with caplog.at_level(logging.WARNING):
        found = await asyncio.to_thread(tried, loopback.server.port)
    await asyncio.wait_for(loopback.until_idle(), 60)
    # gRPC says so itself where a status of ours meets a client that has just gone away
    told = [record for record in caplog.records if record.exc_info and "ExecuteBatchError" not in record.getMessage()]
    assert not told, caplog.text
    assert found["OK"] > CASES // 20 and found["INVALID_ARGUMENT"] > CASES // 20, found
    talk = await loopback.opened()
    await talk.send(control=pb.FINISH)
    assert (await talk.rest())[-1].HasField("closed")
