"""Row 25 of the failure matrix, through a real socket: TLS, certificates of clients, and files that cannot be used."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server.certificates import credentials
from asrlife_server.config import ServerConfig
from tests.server.callers import DAY, attempted, authority, bearing, tokens, trusting, written
from tests.server.keeping import begun, finished, keyed, spoken

CA = authority()
SERVER = CA.sign("server")


@pytest.fixture
async def secured(serving, tmp_path):
    """Starts servers that speak TLS; `asks` makes them ask for clients' certificates."""

    async def start(asks=False, **settings):
        certificate, key = SERVER.files(tmp_path, "server")
        named = {"security.certificate": certificate, "security.key": key}
        if asks:
            named["security.client_ca"] = CA.files(tmp_path, "ca")[0]
        return await serving(**named, **settings)

    return start


def knock(port, context):
    """The end of a handshake, and the first bytes after it."""
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), 20) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        return secure.version(), secure.recv(9)


def lax(**versions):
    context = ssl._create_unverified_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    for name, version in versions.items():
        setattr(context, name, version)
    return context


async def served(loopback):
    info = await loopback.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=20)
    await loopback.channel.close()
    return info.version


async def turned_away(loopback):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await served(loopback)
    await loopback.channel.close()
    return error.value.code()


async def test_row_25_who_does_not_shake_hands_is_turned_away_and_other_streams_go_on(secured, undisturbed, caplog):
    loopback = await secured(asks=True)
    good, stranger = CA.sign("acme"), authority("other")
    inside = trusting(loopback, CA, good)
    async with undisturbed(inside):
        for outside in (
            loopback,  # in plaintext
            trusting(loopback, stranger, good),  # does not trust this server
            trusting(loopback, CA),  # shows nothing
            trusting(loopback, CA, stranger.sign("acme")),  # shows what another authority signed
            trusting(loopback, CA, CA.sign("acme", age=3 * DAY)),  # shows what has expired
        ):
            assert await turned_away(outside) == grpc.StatusCode.UNAVAILABLE
        with socket.create_connection(("127.0.0.1", loopback.server.port), 20) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            while plain.recv(100):
                pass
        assert await served(trusting(loopback, CA, good))
    assert not [record for record in caplog.records if record.exc_info] and not loopback.server.service.streams
    await inside.channel.close()


async def test_tls_begins_with_1_2(secured):
    port = (await secured()).server.port
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        found, settings = await asyncio.to_thread(knock, port, lax(minimum_version=version, maximum_version=version))
        assert found == version.name.replace("_", ".") and settings[3] == 4
    old = lax(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
    with pytest.raises(OSError):
        await asyncio.to_thread(knock, port, old)


async def test_a_clients_certificate_names_its_tenant(secured, asked, noise):
    loopback = await secured(asks=True)
    acme, globex = (trusting(loopback, CA, CA.sign(name)) for name in ("acme", "globex"))
    talk, _ = await begun(acme, asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    await finished(talk)
    request = pb.GetAdaptationStateRequest(adaptation_key="anna")
    assert (await acme.stub.GetAdaptationState(request)).current.version == 1
    call = globex.stub.GetAdaptationState(request)
    assert await call.code() == grpc.StatusCode.NOT_FOUND
    for each in (acme, globex):
        await each.channel.close()


@pytest.mark.parametrize("name", ["", "Anna Muster", "a/b", "default\nx", "m\u00fcller"])
async def test_a_certificate_without_a_usable_name_is_nobodys(secured, asked, name):
    loopback = await secured(asks=True)
    nobody = trusting(loopback, CA, CA.sign(name))
    talk = await attempted(nobody, asked())
    assert await talk.rest() == []
    code, details = await talk.ended()
    assert code == "UNAUTHENTICATED" and "common name" in details
    call = nobody.stub.GetAdaptationState(pb.GetAdaptationStateRequest(adaptation_key="anna"))
    assert await call.code() == grpc.StatusCode.UNAUTHENTICATED
    for call in (nobody.stub.GetServerInfo(pb.GetServerInfoRequest()), nobody.stub.ListModels(pb.ListModelsRequest())):
        assert await call.code() == grpc.StatusCode.UNAUTHENTICATED and "common name" in await call.details()
    await nobody.channel.close()


async def test_with_both_the_certificate_opens_the_door_and_the_token_names_the_tenant(secured, asked, noise, tmp_path):
    loopback = await secured(asks=True, **{"security.tokens": tokens(tmp_path / "tokens", t="acme")})
    inside = trusting(loopback, CA, CA.sign("globex"))
    assert await turned_away(trusting(loopback, CA, CA.sign("globex"))) == grpc.StatusCode.UNAUTHENTICATED
    talk, _ = await begun(bearing(inside, "t"), asked, adaptation=keyed())
    await spoken(talk, noise, 1)
    await finished(talk)
    request = pb.GetAdaptationStateRequest(adaptation_key="anna")
    assert (await inside.stub.GetAdaptationState(request, metadata=bearing(inside, "t").metadata)).current.version == 1
    await inside.channel.close()


async def test_a_renewed_certificate_needs_no_restart_and_a_spoilt_one_changes_nothing(secured, tmp_path, caplog):
    loopback = await secured()
    assert await served(trusting(loopback, CA))
    written(tmp_path / "server.pem", "no certificate")
    assert await served(trusting(loopback, CA))
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("security.certificate: ") and line.endswith("the certificate read before stays in use")
    younger = authority("younger")
    younger.sign("server").files(tmp_path, "server")
    assert await served(trusting(loopback, younger))
    assert await turned_away(trusting(loopback, CA)) == grpc.StatusCode.UNAVAILABLE


def locked(pair):
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    return pair.key.private_bytes(*form).decode()


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda at: (at / "s.pem").unlink(), "security.certificate: {at}/s.pem: No such file or directory"),
    (lambda at: (at / "s.key").unlink(), "security.key: {at}/s.key: No such file or directory"),
    (lambda at: (at / "ca.pem").unlink(), "security.client_ca: {at}/ca.pem: No such file or directory"),
    (lambda at: written(at / "s.pem", ""), "security.certificate: {at}/s.pem: is no certificate in PEM"),
    (lambda at: written(at / "s.pem", SERVER.pem[0].decode()[:200]), "security.certificate: {at}/s.pem: is no certificate in PEM"),
    (lambda at: (at / "s.pem").write_bytes(SERVER.certificate.public_bytes(serialization.Encoding.DER)),
     "security.certificate: {at}/s.pem: is no certificate in PEM"),
    (lambda at: written(at / "s.key", SERVER.pem[1].decode()[:100]), "security.key: {at}/s.key: is no private key in PEM"),
    (lambda at: written(at / "s.key", SERVER.pem[0].decode()), "security.key: {at}/s.key: is no private key in PEM"),
    (lambda at: written(at / "s.key", CA.pem[1].decode()), "security.key: {at}/s.key does not belong to the certificate {at}/s.pem"),
    (lambda at: written(at / "s.key", locked(SERVER)), "security.key: {at}/s.key: has a passphrase"),
    (lambda at: written(at / "ca.pem", "x"), "security.client_ca: {at}/ca.pem: is no certificate in PEM"),
])  # fmt: skip
def test_files_that_cannot_be_used_are_one_clear_line_at_the_start(tmp_path, spoil, words):
    (certificate, key), (ca, _) = SERVER.files(tmp_path, "s"), CA.files(tmp_path, "ca")
    flags = {"security.certificate": certificate, "security.key": key, "security.client_ca": ca}
    assert credentials(ServerConfig.read(None, flags).security, "0.0.0.0") is not None
    spoil(tmp_path)
    with pytest.raises(InputError) as error:
        credentials(ServerConfig.read(None, flags).security, "0.0.0.0")
    assert str(error.value).startswith(words.format(at=tmp_path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(("names", "words"), [
    (("certificate",), "security.certificate: needs security.key beside it"),
    (("key",), "security.key: needs security.certificate beside it"),
    (("client_ca",), "security.client_ca: needs security.certificate and security.key"),
])  # fmt: skip
def test_settings_that_do_not_go_together_are_refused_by_name(tmp_path, names, words):
    (certificate, key), (ca, _) = SERVER.files(tmp_path, "s"), CA.files(tmp_path, "ca")
    paths = {"certificate": certificate, "key": key, "client_ca": ca}
    with pytest.raises(InputError, match=words):
        credentials(ServerConfig.read(None, {f"security.{name}": paths[name] for name in names}).security, "127.0.0.1")


def test_a_key_that_everyone_may_read_is_warned_of(tmp_path, caplog):
    certificate, key = SERVER.files(tmp_path, "s")
    os.chmod(key, 0o644)
    credentials(ServerConfig.read(None, {"security.certificate": certificate, "security.key": key}).security, "127.0.0.1")
    assert f"everyone on this machine may read {key}; chmod 600 it" in caplog.text


@pytest.mark.slow
def test_row_25_a_failed_handshake_writes_no_stack_trace(tmp_path):
    certificate, key = SERVER.files(tmp_path, "server")
    path = tmp_path / "server.yaml"
    path.write_text(f"port: 0\nstate: {{backend: memory}}\nsecurity: {{certificate: {certificate}, key: {key}}}\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "asrlife", "serve", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            address = process.stdout.readline().split()[-1]
            for channel in (grpc.insecure_channel(address), grpc.secure_channel(address, grpc.ssl_channel_credentials(authority().pem[0]))):
                with channel, pytest.raises(grpc.RpcError) as error:
                    asrlife_pb2_grpc.SpeechAdaptStub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=20)
                assert error.value.code() == grpc.StatusCode.UNAVAILABLE
            with grpc.secure_channel(address, grpc.ssl_channel_credentials(CA.pem[0])) as channel:
                asrlife_pb2_grpc.SpeechAdaptStub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=20)
            process.terminate()
            said = process.communicate(timeout=30)[1]
            assert process.returncode == 0 and "Traceback" not in said and "handshake" not in said.lower()
        finally:
            process.kill()
