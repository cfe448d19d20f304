"""What both ends of an encrypted connection need: PEM files that are sound, and which hosts are this machine."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

from asrlife.errors import InputError


def content(path: Path, name: str) -> bytes:
    """The bytes of a file; `name` is what the setting is called that names it. Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {path}: {error.strerror}") from None


def certificates(path: Path, name: str) -> bytes:
    """A PEM file with one certificate or more; raises InputError for what is none."""
    found = content(path, name)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise InputError(f"{name}: {path}: is no certificate in PEM; it should begin with -----BEGIN CERTIFICATE-----") from None
    return found


def pair(certificate: Path, key: Path, names: tuple[str, str]) -> tuple[bytes, bytes]:
    """A key and its certificate chain, as gRPC takes them; raises InputError for files that are damaged or do not belong together."""
    found = content(key, names[1]), certificates(certificate, names[0])
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: _refused(key, names[1]))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{names[1]}: {key} does not belong to the certificate {certificate} ({names[0]}); give files that were made together"
            raise InputError(text) from None
        raise InputError(f"{names[1]}: {key}: is no private key in PEM ({error.reason or 'damaged'})") from None
    return found


def _refused(key: Path, name: str) -> str:
    raise InputError(f"{name}: {key}: has a passphrase, which nobody can type here; decrypt it with `openssl pkey`")


def host_and_port(address: str) -> tuple[str, int] | None:
    """The parts of HOST:PORT, None for other names that gRPC knows."""
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and "/" not in host and port.isdecimal() else None


def loopback(host: str) -> bool:
    """Whether a host is this machine and no network is in between."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("unix:")
