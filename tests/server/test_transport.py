"""What holds of every call, whatever it says."""

from __future__ import annotations

from google.rpc import error_details_pb2, status_pb2

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
