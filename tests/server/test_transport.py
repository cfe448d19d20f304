"""What holds of every call, whatever it says."""

from __future__ import annotations

import asyncio
import socket

from google.rpc import error_details_pb2, status_pb2

from asrlife.client.connection import OPTIONS
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.main import _options


async def test_the_settings_of_the_transport(serving):
    options = dict(_options((await serving()).server.config))
    assert options["grpc.http2.bdp_probe"] == 0 and options["grpc.keepalive_time_ms"] == 60_000
    assert options["grpc.keepalive_timeout_ms"] == 20_000 and options["grpc.http2.max_ping_strikes"] == 2
    assert options["grpc.http2.min_recv_ping_interval_without_data_ms"] == 10_000
    assert options["grpc.max_receive_message_length"] == 10 * 1024 * 1024 + 64 * 1024


async def test_a_full_server_says_when_to_try_again(serving, undisturbed):
    loopback = await serving(**{"limits.streams": 2})
    async with undisturbed(loopback):
        one = await loopback.opened()
        talk = loopback.talk()  # who has no place is told so before the first message
        assert await talk.rest() == [] and (await talk.ended())[0] == "RESOURCE_EXHAUSTED"
        status = status_pb2.Status.FromString(dict(await talk.call.trailing_metadata())["grpc-status-details-bin"])
        again = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(again) and again.retry_delay.ToSeconds() == 1
        await one.send(control=pb.FINISH)
        await one.rest()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ENHANCE_YOUR_CALM = 11


def frame(kind, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + bytes(4) + payload


def frames(data):
    while len(data) >= 9:
        length, kind = int.from_bytes(data[:3], "big"), data[3]
        yield kind, data[9 : 9 + length]
        data = data[9 + length :]


def pinged(port, count):
    """What a server says to so many pings at once, until it closes the connection."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), 20) as plain:
        plain.sendall(PREFACE + frame(SETTINGS) + frame(PING, bytes(8)) * count)
        while not any(kind == GOAWAY for kind, _ in frames(said)) and (more := plain.recv(4096)):
            said += more
    return list(frames(said))


async def test_row_24_pings_that_come_too_fast_end_their_connection_and_no_other(serving, undisturbed):
    loopback = await serving()
    async with undisturbed(loopback):
        (goodbye,) = (payload for kind, payload in await asyncio.to_thread(pinged, loopback.server.port, 10) if kind == GOAWAY)
        assert int.from_bytes(goodbye[4:8], "big") == ENHANCE_YOUR_CALM and goodbye[8:] == b"too_many_pings"


async def test_row_24_our_clients_ping_more_slowly_than_the_server_asks(serving):
    least = dict(_options((await serving()).server.config))["grpc.http2.min_recv_ping_interval_without_data_ms"]
    ours = dict(OPTIONS)
    assert ours["grpc.keepalive_time_ms"] >= 2 * least and not ours["grpc.keepalive_permit_without_calls"]
