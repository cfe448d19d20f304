"""Our clients at servers that ask who calls, and what they say when they do not get in."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

import pytest

from asrlife.audio.waveform import Waveform
from asrlife.cli import main
from asrlife.client import AsyncClient, Client
from asrlife.client.access import Access
from asrlife.errors import InputError
from tests.server.callers import DAY, authority, tokens, written

CA = authority()
SERVER = CA.sign("server")


@pytest.fixture
async def guarded(serving, tmp_path):
    """A server with TLS and tokens; its address and the file of its authority."""
    certificate, key = SERVER.files(tmp_path, "server")
    named = {"security.certificate": certificate, "security.key": key, "security.tokens": tokens(tmp_path / "tokens", t="acme", o="other")}
    loopback = await serving(**named)
    return f"localhost:{loopback.server.port}", CA.files(tmp_path, "ca")[0]


@pytest.fixture
async def asking(serving, tmp_path):
    """A server with TLS that asks for clients' certificates."""
    (certificate, key), (ca, _) = SERVER.files(tmp_path, "server"), CA.files(tmp_path, "ca")
    loopback = await serving(**{"security.certificate": certificate, "security.key": key, "security.client_ca": ca})
    return f"localhost:{loopback.server.port}", ca


def sound(noise):
    return Waveform.from_pcm16(noise(1, 1600).tobytes(), 16_000)


async def assert_refused(address, words, timeout=0.3, **access):
    """Both clients say the same in one line."""
    with pytest.raises(InputError) as error:
        await asyncio.to_thread(partial(asked, address, timeout=timeout, **access))
    with pytest.raises(InputError) as later:
        async with AsyncClient(address, timeout, **access) as client:
            await client.info()
    said = str(error.value)
    assert words in said and "\n" not in said and str(later.value) == said
    assert "s3cret" not in said


def asked(address, **access):
    with Client(address, **access) as client:
        return client.info()


async def test_both_clients_get_in_with_a_token_over_tls_and_every_verb_carries_it(guarded, noise):
    address, ca = guarded
    options = {"adapt": "count", "endpointing": "external", "key": "anna", "persist": "key"}

    def verbs():
        with Client(address, ca=ca, token="t") as client:
            assert client.info().models and client.transcribe(sound(noise), **options).text
            assert client.transcribe(sound(noise), unary=True, adapt="none", endpointing="external").text
            assert client.reset_state("anna").current.version == client.get_state("anna").current.version == 2
            state = client.export_state("anna")
            with pytest.raises(InputError, match="takes no states from outside"):
                client.import_state(state)
        with Client(address, ca=ca, token="o") as other, pytest.raises(InputError, match="nothing is kept under 'anna'"):
            other.get_state("anna")

    await asyncio.to_thread(verbs)
    async with AsyncClient(address, ca=ca, token="t") as client:
        assert (await client.info()).models and (await client.transcribe(sound(noise), **options)).text
        assert (await client.transcribe(sound(noise), unary=True, adapt="none", endpointing="external")).text
        assert (await client.get_state("anna")).current.version > 2 and (await client.export_state("anna")).blob
        await client.delete_state("anna")


async def test_a_certificate_opens_the_door_where_the_server_asks_for_one(asking, tmp_path):
    address, ca = asking
    certificate, key = CA.sign("acme").files(tmp_path, "acme")
    assert (await asyncio.to_thread(partial(asked, address, ca=ca, certificate=certificate, key=key))).models
    await assert_refused(address, f"{address} asks its clients for a certificate; give one with certificate (--tls-cert)", ca=ca)
    for stranger in (authority("other").sign("acme"), CA.sign("acme", age=3 * DAY)):
        certificate, key = stranger.files(tmp_path, "stranger")
        await assert_refused(address, f"does not accept the certificate {certificate}", ca=ca, certificate=certificate, key=key)


async def test_a_missing_or_wrong_token_says_what_to_send(guarded):
    address, ca = guarded
    await assert_refused(address, "this server asks for a token: send it", 20, ca=ca)
    await assert_refused(address, "the token is not known to this server", 20, ca=ca, token="s3cret")


async def test_plaintext_to_tls_and_tls_to_plaintext_are_named(guarded, serving):
    address, ca = guarded
    await assert_refused(
        address, f"{address} speaks TLS and was called in plaintext; name the authority of its certificate with ca (--tls-ca"
    )
    plain = await serving()
    address = f"localhost:{plain.server.port}"
    await assert_refused(address, f"{address} speaks no TLS; leave out ca (--tls-ca)", ca=ca)


async def test_a_server_that_is_not_trusted_says_why(guarded, serving, tmp_path):
    address, ca = guarded
    other = authority("other").files(tmp_path, "other")[0]
    words = f"the certificate of {address} is not trusted: unable to get local issuer certificate; name the authority that signed it"
    await assert_refused(address, words, ca=other)
    await assert_refused(address, "is not trusted: unable to get local issuer certificate; name the authority that signed it", ca="public")
    for pair, reason in (
        (CA.sign("server", hosts=("asr.example",)), "Hostname mismatch"), (CA.sign("server", age=3 * DAY), "certificate has expired"),
    ):  # fmt: skip
        certificate, key = pair.files(tmp_path, "spoilt")
        loopback = await serving(**{"security.certificate": certificate, "security.key": key})
        await assert_refused(f"localhost:{loopback.server.port}", reason, ca=ca)


async def test_nobody_at_home_is_still_nobody_at_home(guarded, tmp_path):
    _, ca = guarded
    for access in ({}, {"ca": ca}):
        await assert_refused("localhost:1", "no server answers at localhost:1; start one with `asrlife serve`", **access)


@pytest.mark.parametrize(("access", "words"), [
    ({"token": "t"}, "everyone on the way to asr.example:50051 could read it; encrypt the way with ca (--tls-ca)"),
    ({"token": ""}, "token (--token, ASRLIFE_TOKEN): is empty"),
    ({"token": "a b", "ca": "ca.pem"}, "token (--token, ASRLIFE_TOKEN): is empty, or holds a space"),
    ({"token": "a\n", "ca": "ca.pem"}, "token (--token, ASRLIFE_TOKEN): is empty, or holds a space"),
    ({"ca": "absent.pem"}, "ca (--tls-ca): absent.pem: No such file"),
    ({"ca": "text.pem"}, "ca (--tls-ca): text.pem: is no certificate in PEM"),
    ({"ca": "ca.pem", "certificate": "ca.pem"}, "certificate (--tls-cert): needs key (--tls-key) beside it"),
    ({"ca": "ca.pem", "key": "ca.key"}, "key (--tls-key): needs certificate (--tls-cert) beside it"),
    ({"ca": "ca.pem", "certificate": "ca.pem", "key": "other.key"}, "key (--tls-key): other.key does not belong to the certificate ca.pem"),
    ({"certificate": "ca.pem", "key": "ca.key"}, "ca (--tls-ca): is missing"),
])  # fmt: skip
def test_what_cannot_be_used_is_said_before_anybody_is_called(tmp_path, monkeypatch, access, words):
    CA.files(tmp_path, "ca")
    SERVER.files(tmp_path, "other")
    written(tmp_path / "text.pem", "text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        Access("asr.example:50051", **access)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "unix:/run/asrlife.sock"])
def test_a_token_may_go_to_this_machine_in_plaintext(address):
    assert Access(address, token="t")._metadata == (("authorization", "Bearer t"),)


@pytest.mark.parametrize("address", ["10.0.0.1:1", "asr.example:1", "[2001:db8::1]:1", "localhost.example:1", "dns:///localhost:1"])
def test_and_to_another_only_when_told(address):
    with pytest.raises(InputError, match="--allow-plaintext-token"):
        Access(address, token="t")
    Access(address, token="t", allow_plaintext_token=True)


async def test_the_command_line_shows_who_calls(guarded, capfd, monkeypatch, noise):
    address, ca = guarded
    get = ["state", "get", "anna", "--server", address, "--tls-ca", ca]
    assert await asyncio.to_thread(main, get) == 2
    assert capfd.readouterr().err.startswith("asrlife: error: this server asks for a token")
    assert await asyncio.to_thread(main, [*get, "--token", "t"]) == 2
    assert "nothing is kept under 'anna'" in capfd.readouterr().err
    monkeypatch.setenv("ASRLIFE_TOKEN", "t")
    options = {"adapt": "count", "endpointing": "external", "key": "anna", "persist": "key"}
    async with AsyncClient(address, ca=ca, token="t") as client:
        await client.transcribe(sound(noise), **options)
    assert await asyncio.to_thread(main, [*get, "--json"]) == 0
    assert '"version": 1' in capfd.readouterr().out
    assert await asyncio.to_thread(main, [*get, "--token", "wrong"]) == 2  # the option is nearer than the variable
    assert "the token is not known" in capfd.readouterr().err


@pytest.mark.slow
async def test_the_command_line_says_one_line_and_grpc_none(guarded, tmp_path):
    address, _ = guarded
    other = authority("other").files(tmp_path, "other")[0]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for access, words in ((["--tls-ca", other], "is not trusted"), ([], "speaks TLS and was called in plaintext")):
        command = [sys.executable, "-m", "asrlife", "state", "get", "anna", "--server", address, *access]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=environment)
        said = (await process.communicate())[1].decode()
        assert process.returncode == 2 and words in said and said.count("\n") == 1
