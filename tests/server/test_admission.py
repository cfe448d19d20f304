"""Row 14 of the failure matrix, through a real socket: who gets a stream when there are not enough for all."""

from __future__ import annotations

import asyncio

import pytest
from google.rpc import error_details_pb2, status_pb2

from asrlife.v1 import asrlife_pb2 as pb
from tests.server.callers import attempted, bearing, tokens
from tests.server.keeping import begun, finished, session, spoken


async def turned_away(talk):
    """What a caller is told for whom there is no place."""
    assert await talk.rest() == []
    code, details = await talk.ended()
    status = status_pb2.Status.FromString(dict(await talk.call.trailing_metadata())["grpc-status-details-bin"])
    again = error_details_pb2.RetryInfo()
    assert code == "RESOURCE_EXHAUSTED" and status.details[0].Unpack(again) and again.retry_delay.ToSeconds() == 1
    return details


@pytest.fixture
async def shared(serving, tmp_path):
    """A server of four places; acme has the usual two of them, globex three."""
    allowed = {"tenant": "globex", "limits": {"streams": 3}}
    listed = {"a": "acme", "a-next": "acme", "g": allowed, "u": "umbrella"}
    return await serving(**{"limits.streams": 4, "limits.tenant_streams": 2, "security.tokens": tokens(tmp_path / "tokens", **listed)})


async def test_row_14_a_full_server_and_a_full_tenant_are_told_apart_before_anything_is_opened(shared, asked):
    acme, globex, umbrella = (bearing(shared, token) for token in "agu")
    mine = [await acme.opened(), await bearing(shared, "a-next").opened()]  # both tokens are the one tenant's
    own = "tenant 'acme' has 2 streams open, which is its own limit; end one first"
    assert await turned_away(await attempted(acme, asked())) == own
    theirs = [await globex.opened(), await globex.opened()]  # what acme is refused it does not take from others
    full = "4 streams are open, which is this server's limit; try again later"
    assert await turned_away(await attempted(globex, asked())) == full
    assert await turned_away(await attempted(umbrella, asked())) == full
    await finished(mine.pop())
    third = await globex.opened()  # above the usual two, by its token
    assert (
        await turned_away(await attempted(globex, asked())) == "tenant 'globex' has 3 streams open, which is its own limit; end one first"
    )
    for talk in (*mine, *theirs, third):
        await finished(talk)


async def test_everybody_is_told_the_places_of_their_own_tenant(shared, asked):
    for token, streams in (("a", 2), ("g", 3), ("u", 2)):
        caller = bearing(shared, token)
        info = await caller.stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=caller.metadata)
        talk, opened = await begun(caller, asked)
        assert info.limits.streams == opened.limits.streams == streams
        await finished(talk)


async def test_row_14_those_who_have_places_notice_nothing(serving, asked, undisturbed):
    loopback = await serving(**{"limits.tenant_streams": 2})  # without tokens all are one tenant
    async with undisturbed(loopback):
        one = await loopback.opened()
        assert (await turned_away(await attempted(loopback, asked()))).startswith("tenant 'default' has 2 streams open")
        assert (await turned_away(loopback.talk())).startswith("tenant 'default' has 2 streams open")  # whether or not it says anything
        await finished(one)


async def test_a_call_in_one_counts_too(shared, asked, noise):
    acme = bearing(shared, "a")
    talks = [await acme.opened(), await acme.opened()]
    request = pb.RecognizeRequest(config=asked(adaptation=pb.Adaptation()), audio=noise(1, 1600).tobytes())
    call = shared.stub.Recognize(request, metadata=acme.metadata)
    assert (await call.code()).name == "RESOURCE_EXHAUSTED" and "its own limit" in await call.details()
    for talk in talks:
        await finished(talk)
    await asyncio.wait_for(shared.until_idle(), 10)
    assert (await shared.stub.Recognize(request, metadata=acme.metadata)).results


@pytest.mark.parametrize("limits", [{"limits.streams": 2}, {"limits.tenant_streams": 2}])
async def test_who_takes_up_a_live_session_needs_no_second_place(serving, asked, noise, limits):
    loopback = await serving(**limits)
    first, _ = await begun(loopback, asked, adaptation=session(), session_id="s")
    other, _ = await begun(loopback, asked)
    await spoken(first, noise, 1)
    for utterances in (1, 2, 3):
        assert await turned_away(await attempted(loopback, asked(session_id="another")))
        second, opened = await begun(loopback, asked, adaptation=session(), session_id="s")
        await first.rest()
        assert (await first.ended())[0] == "ABORTED" and opened.state_version == utterances
        await spoken(second, noise, 2)
        first = second
    await finished(first)
    await finished(other)
    await asyncio.wait_for(loopback.until_idle(), 10)
    assert (loopback.server.service.admission.quiet.is_set(), loopback.server.service.admission._exchanged) == (True, set())
    for talk in [await loopback.opened(), await loopback.opened()]:
        await finished(talk)


async def test_no_place_comes_from_another_tenants_session(serving, asked, tmp_path):
    loopback = await serving(**{"limits.streams": 2, "security.tokens": tokens(tmp_path / "tokens", a="acme", g="globex")})
    acme, globex = bearing(loopback, "a"), bearing(loopback, "g")
    theirs, _ = await begun(acme, asked, session_id="s")
    mine, _ = await begun(globex, asked, session_id="mine")
    assert "server's limit" in await turned_away(await attempted(globex, asked(session_id="s")))
    await finished(theirs)
    await finished(mine)


async def test_a_wrong_config_ends_no_live_session_and_gives_its_claim_back(serving, asked, noise):
    loopback = await serving(**{"limits.streams": 1})
    first, _ = await begun(loopback, asked, adaptation=session(), session_id="s")
    talk = await attempted(loopback, asked(session_id="s", channels=2))
    await talk.rest()
    assert (await talk.ended())[0] == "INVALID_ARGUMENT"
    await spoken(first, noise, 1)
    second, _ = await begun(loopback, asked, session_id="s")
    assert (await first.rest(), (await first.ended())[0]) == ([], "ABORTED")
    await finished(second)


async def test_many_connections_of_one_session_never_hold_more_than_one_place_above_the_limit(serving, asked):
    loopback = await serving(**{"limits.streams": 2})
    admission, most = loopback.server.service.admission, 0
    count = admission._count

    def counted(place, change):
        nonlocal most
        count(place, change)
        most = max(most, admission._open.total())

    admission._count = counted
    talks = [await loopback.opened(), (await begun(loopback, asked, session_id="s"))[0]]
    talks += [await attempted(loopback, asked(session_id="s")) for _ in range(12)]
    for talk in talks[1:-1]:
        talk.call.cancel()
    await finished(talks[0])
    talks[-1].call.cancel()
    await asyncio.wait_for(loopback.until_idle(), 20)
    while not admission.quiet.is_set():
        await asyncio.sleep(0.01)
    assert most == 3 and not admission._asking and not admission._exchanged
