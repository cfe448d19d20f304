"""Tokens and certificates of made-up callers."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def tokens(path, **grants):
    """A file of tokens, whole at once: each name is a token of the tenant, or of the grant, that stands behind it."""
    listed = {digest(token): {"tenant": grant} if isinstance(grant, str) else grant for token, grant in grants.items()}
    return written(path, json.dumps(listed))


def written(path, text, mode=0o600):
    other = path.with_name(f"{path.name}.new")
    other.write_text(text)
    other.chmod(mode)
    os.replace(other, path)
    return str(path)


def bearing(loopback, token):
    """The same server as a caller with a token sees it."""
    return replace(loopback, metadata=(("authorization", f"Bearer {token}"),))


async def attempted(loopback, config):
    """A stream that asks for a config and may be refused before that has gone."""
    talk = loopback.talk()
    with suppress(grpc.aio.AioRpcError):
        await talk.send(config=config)
    return talk


@dataclass(frozen=True)
class Pair:
    """A certificate with its key; `sign` makes others below it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self):
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return self.certificate.public_bytes(serialization.Encoding.PEM), self.key.private_bytes(*form)

    def files(self, folder, name):
        """Paths of the certificate and the key."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, content in zip(paths, self.pem, strict=True):
            written(path, content.decode())
        return tuple(map(str, paths))

    def sign(self, name, hosts=("localhost", "127.0.0.1"), age=DAY):
        return _made(name, self, hosts, age)


def authority(name="authority"):
    return _made(name, None, (), DAY)


def _made(name, by, hosts, age):
    key, subject, now = ec.generate_private_key(ec.SECP256R1()), _named(name), datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(by.certificate.subject if by else subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - age).not_valid_after(now - age + 2 * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
    return Pair(builder.sign(by.key if by else key, hashes.SHA256()), key)


def _named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])


def _alternative(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def trusting(loopback, ca, own=None):
    """The same server as a caller sees it over TLS who trusts `ca` and shows the pair `own`."""
    certificate, key = own.pem if own else (None, None)
    credentials = grpc.ssl_channel_credentials(ca.pem[0], key, certificate)
    return replace(loopback, channel=grpc.aio.secure_channel(f"localhost:{loopback.server.port}", credentials))
