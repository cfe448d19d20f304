"""How the page comes to a browser: over TLS where the server has a certificate, and never to more people than gRPC lets in."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

from asrlife import tls
from asrlife.errors import InputError
from asrlife_server.certificates import stamp
from asrlife_server.config import ServerConfig

_log = logging.getLogger("asrlife.server")


def transport(config: ServerConfig) -> ssl.SSLContext | None:
    """TLS with the server's certificate, None for plaintext; raises InputError for settings that would open a second door."""
    security = config.security
    if security.client_ca is not None:
        raise InputError(
            "web: clients must show a certificate (security.client_ca), which the page does not ask for; leave out one of the two"
        )
    if security.certificate is not None and security.key is not None:
        return _renewing(security.certificate, security.key)
    if security.tokens is not None and not tls.loopback(config.web.host) and not security.allow_plaintext_tokens:
        text = f"web: on {config.web.host} everyone on the way could read the tokens; set security.certificate and security.key"
        raise InputError(f"{text}, or security.allow_plaintext_tokens: true where a proxy speaks TLS in front of this server")
    return None


def _renewing(certificate: Path, key: Path) -> ssl.SSLContext:
    """Reads the files again when they change; what cannot be used is logged and the old ones stay."""
    held = (stamp(certificate), stamp(key)), _read(certificate, key)

    def renew(connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        nonlocal held
        now = stamp(certificate), stamp(key)
        if now != held[0]:
            try:
                held = now, _read(certificate, key)
            except (InputError, OSError) as error:
                held = now, held[1]
                _log.error("%s; the page keeps the certificate read before", error)
        connection.context = held[1]

    first = _read(certificate, key)
    first.sni_callback = renew
    return first


def _read(certificate: Path, key: Path) -> ssl.SSLContext:
    tls.pair(certificate, key, ("security.certificate", "security.key"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context
