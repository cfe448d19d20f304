"""The page's HTTP and its WebSocket, without a browser."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import tempfile
import threading
from contextlib import asynccontextmanager

import pytest

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server
from asrlife_server.web.site import _FILES, _PAGE
from asrlife_server.web.transport import transport
from tests.server.callers import authority, tokens, written

aiohttp = pytest.importorskip("aiohttp", reason="no aiohttp is here (pip install 'asrlife[web]')")
OWN = {"web.enabled": True, "web.port": 0}
ASKED = {"encoding": "PCM16", "sample_rate_hz": 16000, "endpointing": {"mode": "EXTERNAL"}, "adaptation": {"method": "count"}}


def at(loopback, path=""):
    return f"http://127.0.0.1:{loopback.server.site.port}/{path}"


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


@asynccontextmanager
async def opened(http, loopback, first=None, **more):
    """A WebSocket of our own page, with its first message sent."""
    headers = {"Origin": at(loopback).rstrip("/")}
    async with http.ws_connect(at(loopback, "stream"), headers=headers, **more) as found:
        await found.send_str(first if isinstance(first, str) else json.dumps({"config": ASKED} if first is None else first))
        yield found


async def rest(found):
    """Everything that still comes, and the code with which the server closes."""
    messages = []
    while (message := await asyncio.wait_for(found.receive(), 60)).type == aiohttp.WSMsgType.TEXT:
        messages.append(json.loads(message.data))
    return messages, found.close_code


async def until(found, kind):
    while True:
        message = json.loads((await asyncio.wait_for(found.receive(), 60)).data)
        assert "error" not in message, message
        if kind in message:
            return message[kind]


def say(name):
    return json.dumps({"control": name})


async def test_the_page_is_all_there_and_names_nothing_outside(serving, http):
    loopback = await serving(**OWN)
    assert {path.name for path in _PAGE.iterdir()} == {"index.html", *_FILES}
    for path in ("", *_FILES, "nothing"):
        async with http.get(at(loopback, path)) as answer:
            assert answer.status == (404 if path == "nothing" else 200), path
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
            assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Server"] == "asrlife"
            text = await answer.text()
        assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/)[a-z]", re.sub(r"(?m)^// .*| // .*", "", text)), path
        assert not re.search(r"<(?:script|style)>|style=|\son\w+=", text), path  # what the policy would forbid


async def test_what_the_form_must_know(serving, http):
    async with http.get(at(await serving(**OWN), "info")) as answer:
        found = await answer.json()
    assert (found["model"], found["language"], found["usual"]) == ("fake", "en", "default") and found["methods"] == {"none": {}}


async def test_a_stream_through_the_socket_is_a_stream(serving, noise, asked, http):
    loopback, samples = await serving(**OWN), [noise(n, 4000) for n in range(3)]
    talk = await loopback.opened()
    for each in samples:
        await talk.say(each)
        await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.send(control=pb.RESET_ADAPTATION)
    await talk.send(control=pb.FINISH)
    expected = await talk.rest()
    async with opened(http, loopback) as found:
        session = (await until(found, "opened"))["session_id"]
        for each in samples:
            await found.send_bytes(each.tobytes())
            await found.send_str(say("FINALIZE_UTTERANCE"))
        await found.send_str(say("RESET_ADAPTATION"))
        await found.send_str(say("FINISH"))
        messages, code = await rest(found)
    assert session and code == 1000
    for kind in ("result", "refinement"):
        texts = [getattr(each, kind).alternatives[0].transcript for each in expected if each.HasField(kind)]
        assert [each[kind]["alternatives"][0]["transcript"] for each in messages if kind in each] == texts
    assert messages[-1]["closed"]["state_digest"] == expected[-1].closed.state_digest
    drifts = [each["adaptation_event"].get("drift") for each in messages if "adaptation_event" in each]
    assert drifts == [1, 2, 3, None] and messages[-2]["adaptation_event"]["reason"] == "requested"


@pytest.mark.parametrize(("first", "code", "words"), [
    ("{", "INVALID_ARGUMENT", "request: is no JSON"), ("[]", "INVALID_ARGUMENT", "request: is no JSON object"),
    ({"control": "FINISH"}, "INVALID_ARGUMENT", "config: the first message is a text with"),
    ({"config": {"sample_rate": 1}}, "INVALID_ARGUMENT", "request: "),
    ({"config": ASKED, "token": 3}, "INVALID_ARGUMENT", "config: the first"),
    ({"config": {**ASKED, "sample_rate_hz": 7}}, "INVALID_ARGUMENT", "config.sample_rate_hz: 7 is not within"),
    ({"config": {**ASKED, "punctuation": True}}, "INVALID_ARGUMENT", "config.punctuation: not supported"),
    ({"config": {**ASKED, "adaptation": {"method": "cuont"}}}, "INVALID_ARGUMENT", "config.adaptation: unknown method"),
])  # fmt: skip
async def test_what_is_wrong_is_said_before_the_end(serving, http, first, code, words):
    loopback = await serving(**OWN)
    async with opened(http, loopback, first) as found:
        (message,), closed = await rest(found)
    assert message["error"]["code"] == code and message["error"]["message"].startswith(words) and closed == 1000
    await loopback.until_idle()


async def test_nonsense_in_the_middle_ends_the_stream_and_too_long_a_message_is_not_read(serving, http):
    loopback = await serving(**OWN, **{"limits.chunk_bytes": 4096})
    async with opened(http, loopback) as found:
        await until(found, "opened")
        await found.send_str('{"controls": "FINISH"}')
        messages, _ = await rest(found)
        assert messages[-1]["error"]["message"].startswith("request: ") and "controls" in messages[-1]["error"]["message"]
    async with opened(http, loopback) as found:
        await until(found, "opened")
        await found.send_bytes(bytes(5000))
        messages, _ = await rest(found)
        assert messages[-1]["error"] == {"code": "RESOURCE_EXHAUSTED", "message": messages[-1]["error"]["message"]}
        assert "audio.content: 5000 bytes are above the limit of 4096" in messages[-1]["error"]["message"]
    async with opened(http, loopback) as found:
        await until(found, "opened")
        await found.send_bytes(bytes(200_000))
        assert (await rest(found))[1] == 1009
    await loopback.until_idle()


async def test_another_site_s_page_and_another_name_get_nothing(serving, http):
    loopback = await serving(**OWN, **{"web.origins": ["https://speech.example.org"]})
    for origin in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": f"{at(loopback)[:-1]}.evil.example"}):
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await http.ws_connect(at(loopback, "stream"), headers=origin)
        assert error.value.status == 403
    for host, status in (("evil.example", 403), ("localhost", 200), ("[::1]:80", 200), ("speech.example.org", 200), ("10.0.0.1", 200)):
        async with http.get(at(loopback), headers={"Host": host}) as answer:
            assert answer.status == status and (status == 200 or "web.origins" in await answer.text()), host
    async with http.ws_connect(at(loopback, "stream"), headers={"Origin": "https://speech.example.org"}) as found:
        await found.send_str(json.dumps({"config": ASKED}))
        await until(found, "opened")


async def test_a_browser_that_vanishes_frees_its_place_and_commits_nothing(serving, noise, http):
    loopback = await serving(**OWN, **{"limits.streams": 1})
    kept = {**ASKED, "adaptation": {"method": "count", "adaptation_key": "anna", "persist": "KEY"}}
    async with opened(http, loopback, {"config": kept}) as found:
        await until(found, "opened")
        await found.send_bytes(noise(1, 4000).tobytes())
        async with opened(http, loopback) as other:
            (message,), _ = await rest(other)
        assert message["error"]["code"] == "RESOURCE_EXHAUSTED" and "1 streams are open" in message["error"]["message"]
        found._response.connection.transport.abort()
        await asyncio.wait_for(loopback.until_idle(), 60)
    async with opened(http, loopback, {"config": kept}) as found:
        assert "state_version" not in await until(found, "opened")


async def test_a_page_that_says_nothing_is_sent_away(serving, http):
    loopback = await serving(**OWN, **{"timeouts.first_message_s": 0.1})
    async with http.ws_connect(at(loopback, "stream"), headers={"Origin": at(loopback)[:-1]}) as found:
        (message,), _ = await rest(found)
    assert message["error"]["code"] == "DEADLINE_EXCEEDED" and "no first message for 0.1 s" in message["error"]["message"]


async def test_a_server_that_is_behind_stops_the_browser(serving, fakes, noise, http):
    held = threading.Event()
    fakes.hook = held.wait
    loopback, pieces, sent = await serving(**OWN, **{"limits.utterance_ms": 60_000}), 160, 0
    sound = noise(1, 100_000).tobytes()

    async def send(found):
        nonlocal sent
        for _ in range(pieces):
            await found.send_bytes(sound)
            sent += 1
        await found.send_str(say("FINISH"))

    async with opened(http, loopback) as found:
        await until(found, "opened")
        sending = asyncio.create_task(send(found))
        before = -1
        while sent > before:  # until nothing more goes
            before = sent
            await asyncio.sleep(0.5)
        assert sent < pieces and not sending.done()  # 32 MB are more than all buffers on the way hold
        held.set()
        assert float((await until(found, "closed"))["audio"].rstrip("s")) == pieces * 6.25
        await sending


async def test_a_token_is_asked_for_and_names_the_tenant(serving, noise, http, tmp_path):
    loopback = await serving(**OWN, **{"security.tokens": tokens(tmp_path / "tokens", secret="acme", other="globex")})
    async with http.get(at(loopback, "info")) as answer:
        assert answer.status == 401 and (await answer.json())["error"]["code"] == "UNAUTHENTICATED"
    async with http.get(at(loopback, "info"), headers={"Authorization": "Bearer secret"}) as answer:
        assert answer.status == 200
    async with http.get(at(loopback)) as answer:
        assert answer.status == 200  # the page itself is no secret
    for token in ({}, {"token": "wrong"}):
        async with opened(http, loopback, {"config": ASKED, **token}) as found:
            assert (await rest(found))[0][-1]["error"]["code"] == "UNAUTHENTICATED"
    kept, versions = {**ASKED, "adaptation": {"method": "count", "adaptation_key": "anna", "persist": "KEY"}}, []
    for token in ("secret", "secret", "other"):
        async with opened(http, loopback, {"config": kept, "token": token}) as found:
            versions.append((await until(found, "opened")).get("state_version", 0))
            await found.send_bytes(noise(1, 4000).tobytes())
            await found.send_str(say("FINISH"))
            await until(found, "closed")
    assert versions == [0, "1", 0]


async def test_a_taken_port_is_said_and_what_is_not_safe_is_not_served(fakes, tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = {"port": 0, "model": "fake", "state.backend": "memory", "web.enabled": True, "web.port": port}
        with pytest.raises(InputError, match=f"web: cannot listen on 127.0.0.1:{port}: .*; choose another web.port"):
            await Server(ServerConfig.read(None, settings), fakes.model, fakes.make).start()
    monkeypatch.setattr(tempfile, "tempdir", str(deep := tmp_path / ("x" * 100)))
    deep.mkdir()
    with pytest.raises(InputError, match="web: no socket can be made in .*; set TMPDIR"):
        await Server(ServerConfig.read(None, {**settings, "web.port": 0}), fakes.model, fakes.make).start()
    tokened = {"web.enabled": True, "security.tokens": tokens(tmp_path / "tokens", secret="acme"), "web.host": "0.0.0.0"}
    with pytest.raises(InputError, match="web: on 0.0.0.0 everyone on the way could read the tokens"):
        transport(ServerConfig.read(None, tokened))
    assert transport(ServerConfig.read(None, {**tokened, "security.allow_plaintext_tokens": True})) is None
    with pytest.raises(InputError, match="clients must show a certificate"):
        transport(ServerConfig.read(None, {"web.enabled": True, "security.client_ca": str(tmp_path / "ca.pem")}))


async def test_the_server_s_certificate_is_the_page_s_too_and_is_renewed_in_place(serving, http, tmp_path, caplog):
    older, younger = authority("older"), authority("younger")
    certificate, key = older.sign("server").files(tmp_path, "server")
    loopback = await serving(**OWN, **{"security.certificate": certificate, "security.key": key})

    async def served(by):
        trusting = ssl.create_default_context(cadata=by.pem[0].decode())
        async with aiohttp.ClientSession() as fresh, fresh.get(loopback.server.site.address, ssl=trusting) as answer:
            return answer.status

    assert loopback.server.site.address.startswith("https://") and await served(older) == 200
    written(tmp_path / "server.pem", "no certificate")
    assert await served(older) == 200 and "the page keeps the certificate read before" in caplog.text
    younger.sign("server").files(tmp_path, "server")
    assert await served(younger) == 200
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await served(older)


async def test_a_stopping_server_closes_the_page(serving, http):
    loopback = await serving(**OWN)
    async with opened(http, loopback) as found:
        await until(found, "opened")
        stopping = asyncio.create_task(loopback.server.stop(0))
        messages, _ = await rest(found)
        assert messages[-1]["error"]["code"] == "UNAVAILABLE" and "closed" in messages[-2]
        await stopping
