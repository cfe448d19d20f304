"""Row 16 of the failure matrix, through a real socket: who has no valid token gets nothing, and no tenant sees another's states."""

from __future__ import annotations

import asyncio
import json
import logging

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server
from asrlife_server.tokens import read
from tests.server.callers import attempted, bearing, digest, tokens, written
from tests.server.keeping import begun, broken_off, finished, keyed, session, spoken

RPCS = (
    "StreamingRecognize Recognize GetServerInfo ListModels GetAdaptationState ResetAdaptation DeleteAdaptation ExportAdaptation "
    "ImportAdaptation NoSuchCall"
).split()
SECRET = "f3a9-secret"


async def status_of(loopback, method, metadata=(), body=b"\xff\xff no message of anybody"):
    call = loopback.channel.unary_unary(f"/{method}")(body, metadata=metadata, timeout=20)
    return await call.code(), await call.details()


@pytest.fixture
async def guarded(serving, tmp_path):
    return await serving(
        **{"security.tokens": tokens(tmp_path / "tokens", **{SECRET: "acme", "other": "globex"}), "state.allow_import": True}
    )


@pytest.mark.parametrize("headers", [
    (), ("Bearer wrong",), (SECRET,), (f"Basic {SECRET}",), ("Bearer ",), (digest(SECRET),), (f"Bearer {digest(SECRET)}",),
    (f"Bearer {SECRET}", "Bearer wrong"), (f"Bearer {SECRET}", f"Bearer {SECRET}"),
])  # fmt: skip
async def test_row_16_no_call_goes_on_without_a_valid_token_and_nothing_of_it_is_read(guarded, undisturbed, headers):
    metadata = tuple(("authorization", header) for header in headers)
    async with undisturbed(bearing(guarded, SECRET)):
        for name in RPCS:
            code, details = await status_of(guarded, f"asrlife.v1.SpeechAdapt/{name}", metadata)
            assert code == grpc.StatusCode.UNAUTHENTICATED, name
            assert "authorization: Bearer TOKEN" in details or "token is not known to this server" in details
            assert SECRET not in details and digest(SECRET) not in details


async def test_row_16_a_stream_without_a_token_ends_before_it_is_opened(guarded, asked, undisturbed):
    async with undisturbed(bearing(guarded, SECRET)):
        talk = await attempted(guarded, asked())
        assert await talk.rest() == [] and (await talk.ended())[0] == "UNAUTHENTICATED"
        assert len(guarded.server.service.streams) == 1


async def test_with_a_token_every_call_is_served(guarded):
    good = (("authorization", f"bearer {SECRET}"),)  # schemes have no case
    assert (await guarded.stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=good)).limits.chunk_bytes
    talk = await bearing(guarded, SECRET).opened()
    await finished(talk)
    assert (await status_of(guarded, "asrlife.v1.SpeechAdapt/NoSuchCall", good))[0] == grpc.StatusCode.UNIMPLEMENTED


async def test_health_needs_no_token_and_reflection_does(guarded):
    health = health_pb2_grpc.HealthStub(guarded.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    stub, question = reflection_pb2_grpc.ServerReflectionStub(guarded.channel), reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        [answer async for answer in stub.ServerReflectionInfo(iter([question]))]
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    good = (("authorization", f"Bearer {SECRET}"),)
    assert [answer async for answer in stub.ServerReflectionInfo(iter([question]), metadata=good)]


async def failure(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details()


async def test_row_16_another_tenants_key_looks_like_one_that_is_not_there(guarded, asked, noise, beside):
    mine, theirs = bearing(guarded, SECRET), bearing(guarded, "other")
    await beside(mine)
    talk, _ = await begun(mine, asked, adaptation=keyed("anna"))
    await spoken(talk, noise, 1)
    await finished(talk)
    for name, request in (
        ("GetAdaptationState", pb.GetAdaptationStateRequest), ("ResetAdaptation", pb.ResetAdaptationRequest),
        ("DeleteAdaptation", pb.DeleteAdaptationRequest),
    ):  # fmt: skip
        call = getattr(guarded.stub, name)
        code, details = await failure(call(request(adaptation_key="anna"), metadata=theirs.metadata))
        _, absent = await failure(call(request(adaptation_key="bert"), metadata=theirs.metadata))
        assert code == grpc.StatusCode.NOT_FOUND and details == absent.replace("bert", "anna")
    assert (await guarded.stub.GetAdaptationState(pb.GetAdaptationStateRequest(adaptation_key="anna"), metadata=mine.metadata)).history
    talk, opened = await begun(theirs, asked, adaptation=keyed("anna"))
    assert opened.state_version == 0
    await finished(talk)


async def test_row_16_another_tenants_session_cannot_be_taken_up_or_ended(guarded, asked, noise, beside):
    mine, theirs = bearing(guarded, SECRET), bearing(guarded, "other")
    name = await broken_off(mine, asked, noise, 1)
    await beside(mine)
    live, _ = await begun(mine, asked, adaptation=session(), session_id="live")
    answers = set()
    for taken in (name, "absent"):
        talk = theirs.talk()
        await talk.send(config=asked(adaptation=session(), session_id=taken, resume_after_utterance=0))
        assert await talk.rest() == []
        code, details = await talk.ended()
        answers.add((code, details.replace(taken, "NAME")))
    assert [code for code, _ in answers] == ["NOT_FOUND"]
    other, _ = await begun(theirs, asked, adaptation=session(), session_id="live")
    await finished(other)
    await finished(live)


async def test_no_token_is_ever_logged(guarded, asked, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        for token in (SECRET, "wr0ng-secret"):
            talk = await attempted(bearing(guarded, token), asked(adaptation=pb.Adaptation(method="unheard of")))
            await talk.rest()
            await status_of(guarded, "asrlife.v1.SpeechAdapt/ListModels", (("authorization", f"Bearer {token}"),))
    said = caplog.text + "".join(capfd.readouterr())
    assert "was refused" in said and "secret" not in said and digest(SECRET) not in said


async def test_tokens_come_and_go_with_their_file_while_live_streams_go_on(guarded, tmp_path, noise):
    live = await bearing(guarded, SECRET).opened()
    tokens(tmp_path / "tokens", young="acme")
    code, _ = await status_of(guarded, "asrlife.v1.SpeechAdapt/ListModels", bearing(guarded, SECRET).metadata, b"")
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert (await status_of(guarded, "asrlife.v1.SpeechAdapt/ListModels", bearing(guarded, "young").metadata, b""))[0] == grpc.StatusCode.OK
    await live.say(noise(1, 1600))
    assert (await finished(live)).utterances == 1


@pytest.mark.parametrize("spoil", [
    lambda path: written(path, "{"), lambda path: written(path, "{}", 0o604), lambda path: path.unlink(), lambda path: path.chmod(0o644),
])  # fmt: skip
async def test_a_file_that_is_spoilt_later_is_logged_once_and_changes_nothing(guarded, tmp_path, caplog, spoil):
    spoil(tmp_path / "tokens")
    for _ in range(2):
        code, _ = await status_of(guarded, "asrlife.v1.SpeechAdapt/ListModels", bearing(guarded, SECRET).metadata, b"")
        assert code == grpc.StatusCode.OK
    (line,) = (record.getMessage() for record in caplog.records if record.name == "asrlife.server")
    assert line.startswith("security.tokens: ") and line.endswith("the tokens read before stay in force")
    tokens(tmp_path / "tokens", young="acme")
    code, _ = await status_of(guarded, "asrlife.v1.SpeechAdapt/ListModels", bearing(guarded, SECRET).metadata, b"")
    assert code == grpc.StatusCode.UNAUTHENTICATED


HASH, OTHER = digest("a-token"), digest("b-token")


@pytest.mark.parametrize(("text", "words"), [
    ("{", "neither JSON nor YAML (line 1)"),
    ("[]", "should map the SHA-256 of each token to its tenant"),
    ("", "should map the SHA-256 of each token to its tenant"),
    ("a-token: {tenant: acme}", "entry 1 is not under the SHA-256 of a token (64 of 0-9 a-f); `printf %s TOKEN | sha256sum` prints it"),
    (f"{HASH}: {{tenant: acme}}\nacme: a-token", "entry 2 is not under"),
    (f"{HASH.upper()}: {{tenant: acme}}", "entry 1 is not under"),
    (f"{HASH}: a-token", f"{HASH[:8]}...: should be a mapping with the key tenant"),
    (f"{HASH}: {{}}", f"{HASH[:8]}...: the key 'tenant' is missing"),
    (f"{HASH}: {{tenant: a/b}}", f"{HASH[:8]}...: tenant: "),
    (f"{HASH}: {{tenant: acme, stream: 1}}", "unknown key 'stream'"),
    (f"{HASH}: {{tenant: acme, limits: {{stream: 1}}}}", "limits: unknown key 'stream'; did you mean 'streams'?"),
    (f"{HASH}: {{tenant: acme, limits: {{streams: 0}}}}", "limits: streams: "),
    (f"{HASH}: {{tenant: acme}}\n{HASH}: {{tenant: globex}}", f"{HASH[:8]}... stands there twice"),
    (f"{HASH}: {{tenant: acme}}\n{OTHER}: {{tenant: acme, limits: {{streams: 2}}}}", "tokens of tenant 'acme' name different limits"),
])  # fmt: skip
def test_a_wrong_file_of_tokens_is_one_line_that_holds_no_token(tmp_path, text, words):
    path = written(tmp_path / "tokens", text)
    with pytest.raises(InputError) as error:
        read(tmp_path / "tokens")
    assert str(error.value).startswith(f"security.tokens: {path}: ") and words in str(error.value)
    assert "\n" not in str(error.value) and "a-token" not in str(error.value)


def test_json_and_yaml_are_read_alike(tmp_path):
    grants = {HASH: {"tenant": "acme", "limits": {"streams": 2}}, "1" * 64: {"tenant": "globex"}}
    of_json = read(tmp_path / written(tmp_path / "a", json.dumps(grants)))
    of_yaml = read(
        tmp_path / written(tmp_path / "b", f"{HASH}: {{tenant: acme, limits: {{streams: 2}}}}\n{'1' * 64}: {{tenant: globex}}\n")
    )
    assert of_json == of_yaml and of_json[HASH].limits.streams == 2 and of_json["1" * 64].tenant == "globex"


@pytest.mark.parametrize(("mode", "right"), [(0o644, False), (0o602, False), (0o640, True), (0o600, True)])
def test_a_file_that_others_may_read_or_write_is_refused_with_what_to_do(tmp_path, mode, right):
    path = written(tmp_path / "tokens", "{}", mode)
    if right:
        assert read(tmp_path / "tokens") == {}
        return
    with pytest.raises(InputError, match=f"open to everyone on this machine \\(mode {mode:o}\\); run `chmod 640 {path}`"):
        read(tmp_path / "tokens")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "asr.example"])
def test_tokens_do_not_go_over_a_network_in_plaintext(tmp_path, fakes, host, caplog):
    settings = {"host": host, "security.tokens": tokens(tmp_path / "tokens", t="acme"), "state.backend": "memory"}
    with pytest.raises(InputError, match="set security.certificate and security.key, or security.allow_plaintext_tokens"):
        Server(ServerConfig.read(None, settings), fakes.model, fakes.make)
    assert not caplog.records


async def test_plaintext_tokens_are_allowed_by_name_and_warned_of(tmp_path, serving, caplog):
    settings = {"host": "0.0.0.0", "security.tokens": tokens(tmp_path / "tokens", t="acme"), "security.allow_plaintext_tokens": True}
    loopback = await serving(**settings)
    await finished(await bearing(loopback, "t").opened())
    assert "everyone on the way can read them" in caplog.text


async def test_an_import_needs_a_token_before_its_first_message(guarded):
    call = guarded.stub.ImportAdaptation()
    assert await asyncio.wait_for(call.code(), 20) == grpc.StatusCode.UNAUTHENTICATED


async def test_imports_that_hang_do_not_keep_another_tenant_from_importing(serving, asked, noise, tmp_path):
    named = {"security.tokens": tokens(tmp_path / "tokens", a="acme", g="globex"), "state.allow_import": True}
    loopback = await serving(**named, **{"timeouts.first_message_s": 300.0})
    acme, globex = bearing(loopback, "a"), bearing(loopback, "g")
    talk, _ = await begun(globex, asked, adaptation=keyed("anna"))
    await spoken(talk, noise, 1)
    await finished(talk)
    chunks = [
        chunk async for chunk in loopback.stub.ExportAdaptation(pb.ExportAdaptationRequest(adaptation_key="anna"), metadata=globex.metadata)
    ]
    hanging = [loopback.stub.ImportAdaptation(metadata=acme.metadata) for _ in range(8)]
    for call in hanging:
        await call.write(pb.AdaptationChunk(state=pb.AdaptationState(adaptation_key="anna")))
    state = await loopback.stub.ImportAdaptation(iter(chunks), metadata=globex.metadata, timeout=60)
    assert state.current.version == 2
    for call in hanging:
        call.cancel()
