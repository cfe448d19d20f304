"""Whether a server could start with a configuration, found out without serving."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrlife.errors import InputError
from asrlife_server import riva, sources
from asrlife_server.certificates import credentials
from asrlife_server.config import ServerConfig
from asrlife_server.state.entry import Address, StoreError
from asrlife_server.state.stores import check, opened, usual
from asrlife_server.tenancy import Tenancy
from asrlife_server.web.site import library
from asrlife_server.web.transport import transport

_PASSWORD = re.compile(r"(://[^/@\s]*:)[^/@\s]*(@)")


@dataclass(frozen=True)
class Finding:
    """What came of one check: `fault` is "" where nothing is wrong."""

    name: str
    fault: str = ""


def effective(config: ServerConfig, origins: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Every setting with its value, passwords left out, and where it came from."""
    for name, value in sources.flat(config):
        deeper = [origin for known, origin in origins.items() if known.startswith(f"{name}.")]
        first = [origins[name]] if origins.get(name, "default") != "default" or not deeper else []
        yield name, _shown(value), ", ".join(first + deeper)


def findings(config: ServerConfig) -> list[Finding]:
    """Try everything that a start needs, each on its own."""
    model: list[Any] = []
    checks: dict[str, Callable[[], None]] = {
        "model": lambda: model.append(_loaded(config)),
        "adaptation": lambda: _check_method(config, model),
        "host and port": lambda: _check_addresses(config),
        "state": lambda: _check_store(config),
        "security": lambda: _check_security(config),
        "tracing": lambda: _check_tracing(config),
        "facades": lambda: _check_facades(config),
    }
    return [Finding(name, _fault(attempt)) for name, attempt in checks.items()]


def _fault(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except InputError as error:
        return _PASSWORD.sub(r"\1***\2", str(error))
    return ""


def _shown(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return _PASSWORD.sub(r"\1***\2", value) if isinstance(value, str) else value


def _loaded(config: ServerConfig) -> Any:
    from asrlife.models.load import load
    from asrlife.recipe.domain.names import delta_of

    try:
        return load(config.model, delta=delta_of(config.delta), scale=config.delta_scale)
    except OSError as error:  # what is under the name, and cannot be read
        raise InputError(f"{config.model}: {error}") from error


def _check_method(config: ServerConfig, model: list[Any]) -> None:
    from asrlife.methods.online import make, recommended

    if not model:
        raise InputError("was not tried: there is no model to try it with")
    make(recommended(config.adaptation.method, model[0]), dict(config.adaptation.settings), model[0])


def _check_addresses(config: ServerConfig) -> None:
    for name, host in (("host", config.host), ("metrics.host", config.metrics.host), ("web.host", config.web.host)):
        try:
            socket.getaddrinfo(host.strip("[]"), None)
        except (OSError, UnicodeError) as error:
            raise InputError(f"{name}: {host!r} is no address of a machine ({error})") from None
    if config.port and config.port == config.metrics.port:
        raise InputError(f"metrics.port: {config.port} is the server's own port; choose another")
    if config.web.enabled and config.web.port and config.web.port in (config.port, config.metrics.port):
        raise InputError(f"web.port: {config.web.port} is taken by the server itself or its metrics; choose another")


def _check_store(config: ServerConfig) -> None:
    if config.state.backend == "disk" and config.state.path is None:
        _check_writable(usual())
        return
    check(config.state)
    store = opened(config.state)
    try:
        list(store.history(Address("asrlife", "check")))
    except StoreError as error:
        raise InputError(f"the store of states does not answer: {error}") from None
    finally:
        store.close()


def _check_writable(path: Path) -> None:
    there = next(each for each in (path, *path.parents) if each.exists())
    if not os.access(there, os.W_OK):
        raise InputError(f"state.path: {there} cannot be written; name a file in a folder that can be")


def _check_security(config: ServerConfig) -> None:
    credentials(config.security, config.host)
    Tenancy(config)


def _check_facades(config: ServerConfig) -> None:
    if config.riva:
        riva.protocol()
    if config.web.enabled:
        library()
        transport(config)


def _check_tracing(config: ServerConfig) -> None:
    if config.tracing.endpoint is not None:
        from asrlife_server.tracing import check_installed

        check_installed()
