"""How a client reaches a server and shows who it is, and why it does not get there."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from asrlife import tls
from asrlife.client.connection import OPTIONS, unreachable
from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2_grpc

PUBLIC = "public"
_NAMES = "certificate (--tls-cert)", "key (--tls-key)"
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")  # what OpenSSL calls an answer in plaintext
_PATIENCE = 5.0  # s for one attempt to find out what is wrong
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # of HTTP/2, which the server answers


class Access:
    """What a client was told about the way to its server: see Client. Raises InputError for what cannot be used."""

    def __init__(
        self,
        address: str,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        token: str | None = None,
        allow_plaintext_token: bool = False,
    ) -> None:
        self.address = address
        self._ca = Path(ca) if ca is not None and ca != PUBLIC else None
        self._certificate, self._key = (Path(path) if path is not None else None for path in (certificate, key))
        if ca is None and (certificate is not None or key is not None):
            raise InputError(f"ca (--tls-ca): is missing, beside which {_NAMES[0]} and {_NAMES[1]} have a meaning")
        self._credentials = None if ca is None else self._checked()
        self._metadata = () if token is None else (("authorization", f"Bearer {_sound(token)}"),)
        if token is not None and ca is None and not allow_plaintext_token:
            _refuse_plaintext(address)

    def channel(self, of: Any) -> Any:
        """A channel of `of`, which is grpc or grpc.aio."""
        if self._credentials is None:
            return of.insecure_channel(self.address, options=OPTIONS)
        return of.secure_channel(self.address, self._credentials, options=OPTIONS)

    def stub(self, channel: Any) -> Any:
        """The calls of the protocol on a channel, which say who calls."""
        return Authorised(asrlife_pb2_grpc.SpeechAdaptStub(channel), self._metadata)

    def trouble(self) -> InputError:
        """Why no connection came about, found out by another attempt."""
        try:
            place = tls.host_and_port(self.address)
            text = (self._tried_plaintext if self._credentials is None else self._tried)(*place) if place else ""
        except OSError:
            text = ""
        return InputError(text) if text else unreachable(self.address)

    def _checked(self) -> grpc.ChannelCredentials:
        if (self._certificate is None) != (self._key is None):
            given, missing = _NAMES if self._key is None else _NAMES[::-1]
            raise InputError(f"{given}: needs {missing} beside it")
        own: tuple[bytes | None, bytes | None] = (None, None)
        if self._certificate is not None and self._key is not None:
            own = tls.pair(self._certificate, self._key, _NAMES)
        return grpc.ssl_channel_credentials(tls.certificates(self._ca, "ca (--tls-ca)") if self._ca is not None else None, *own)

    def _tried_plaintext(self, host: str, port: int) -> str:
        try:
            _answer(ssl._create_unverified_context(), host, port)
        except ssl.SSLEOFError:
            return ""
        except ssl.SSLError as error:
            if error.reason in _NO_TLS:
                return ""
        return f"{self.address} speaks TLS and was called in plaintext; name the authority of its certificate with ca (--tls-ca FILE)"

    def _tried(self, host: str, port: int) -> str:
        context = ssl.create_default_context(cafile=self._ca)
        if self._certificate is not None:
            context.load_cert_chain(self._certificate, self._key)
        try:
            answer = _answer(context, host, port)
        except ssl.SSLCertVerificationError as error:
            return f"the certificate of {self.address} is not trusted: {_advice(error, self._ca or PUBLIC)}"
        except ssl.SSLError as error:
            if error.reason in _NO_TLS:
                return f"{self.address} speaks no TLS; leave out ca (--tls-ca), or call the port that does"
            answer = b""
        return "" if answer else self._unwelcome()

    def _unwelcome(self) -> str:
        if self._certificate is None:
            return f"{self.address} asks its clients for a certificate; give one with {_NAMES[0]} and {_NAMES[1]}"
        signed = "it must be valid now and signed by the authority in the server's security.client_ca"
        return f"{self.address} does not accept the certificate {self._certificate} ({_NAMES[0]}): {signed}"


class Authorised:
    """A stub whose calls all carry the same metadata, each beside its own."""

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._metadata = metadata

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(request: Any, metadata: tuple[tuple[str, str], ...] = (), **more: Any) -> Any:
            return getattr(self._stub, name)(request, metadata=(*self._metadata, *metadata), **more)

        return call


def _answer(context: ssl.SSLContext, host: str, port: int) -> bytes:
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port), _PATIENCE) as plain, context.wrap_socket(plain, server_hostname=host) as secure:
        try:
            secure.sendall(_GREETING)
            return secure.recv(1)  # in TLS 1.3 only now the server says what it thinks of our certificate
        except ConnectionError:
            return b""


def _advice(error: ssl.SSLCertVerificationError, ca: str | Path) -> str:
    reason = error.verify_message.rstrip(".")
    if "mismatch" in reason:
        return f"{reason}; call the server by a name that is in it"
    if "expired" in reason or "not yet valid" in reason:
        return f"{reason}; its operator must renew it, or this machine's clock is wrong"
    return f"{reason}; name the authority that signed it with ca (--tls-ca), which is {ca} now"


def _sound(token: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError("token (--token, ASRLIFE_TOKEN): is empty, or holds a space or what cannot be printed; give the token alone")
    return token


def _refuse_plaintext(address: str) -> None:
    place = tls.host_and_port(address)
    if not tls.loopback(place[0] if place else address):
        text = f"token (--token, ASRLIFE_TOKEN): everyone on the way to {address} could read it; encrypt the way with ca (--tls-ca)"
        raise InputError(f"{text}, or say allow_plaintext_token (--allow-plaintext-token)")
