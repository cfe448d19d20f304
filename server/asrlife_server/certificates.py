"""The server's certificate, and whose certificates its clients must show."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import grpc

from asrlife import tls
from asrlife.errors import InputError
from asrlife_server.config import Security

_NAMES = "security.certificate", "security.key"
_log = logging.getLogger("asrlife.server")


class Certificates:
    """Reads the files again when they change, so that a renewal needs no restart; what cannot be used is logged and the old ones stay.

    gRPC speaks TLS 1.2 and 1.3 and its Python has no setting for that. Raises InputError for files that cannot be used.
    """

    def __init__(self, security: Security) -> None:
        self._security = security
        self._stamp = self._stamped()
        self._first = self._read()
        if security.key is not None and stat.S_IMODE(security.key.stat().st_mode) & stat.S_IRWXO:
            _log.warning("security.key: everyone on this machine may read %s; chmod 600 it", security.key)

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC serves with."""
        asks = self._security.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(self._first, self._renewed, asks)  # type: ignore[arg-type]

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Called in a thread of gRPC's before every handshake, which an error would end; None is no change."""
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                return None
            self._stamp = stamp
            return self._read()
        except (InputError, OSError) as error:
            _log.error("%s; the certificate read before stays in use", error)
            return None

    def _read(self) -> grpc.ServerCertificateConfiguration:
        security = self._security
        assert security.certificate is not None and security.key is not None
        own = tls.pair(security.certificate, security.key, _NAMES)
        asked = tls.certificates(security.client_ca, "security.client_ca") if security.client_ca is not None else None
        return grpc.ssl_server_certificate_configuration([own], asked)

    def _stamped(self) -> tuple[tuple[int, ...], ...]:
        paths = (self._security.certificate, self._security.key, self._security.client_ca)
        return tuple(stamp(path) for path in paths if path is not None)


def stamp(path: Path) -> tuple[int, ...]:
    """Changes with the file; () where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode


def credentials(security: Security, host: str) -> grpc.ServerCredentials | None:
    """What the settings call for, None for plaintext; raises InputError for settings that do not go together or are not safe."""
    if (security.certificate is None) != (security.key is None):
        given, missing = _NAMES if security.key is None else _NAMES[::-1]
        raise InputError(f"{given}: needs {missing} beside it")
    if security.certificate is not None:
        return Certificates(security).credentials()
    if security.client_ca is not None:
        raise InputError("security.client_ca: needs security.certificate and security.key: clients show certificates over TLS only")
    if security.tokens is not None and not tls.loopback(host):
        _check_plaintext(security, host)
    return None


def _check_plaintext(security: Security, host: str) -> None:
    if not security.allow_plaintext_tokens:
        text = f"security.tokens: on {host} everyone on the way could read the tokens; set security.certificate and security.key"
        raise InputError(f"{text}, or security.allow_plaintext_tokens: true where a proxy speaks TLS in front of this server")
    _log.warning("tokens come in plaintext on %s (security.allow_plaintext_tokens); everyone on the way can read them", host)
