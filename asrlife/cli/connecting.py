"""The options of commands that talk to a server: which one, and who calls."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from asrlife.client import Client

Server = Annotated[str, typer.Option(metavar="HOST:PORT", help="A running `asrlife serve`.")]
Authorities = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="PEM of the authority that signed the server's certificate; switches TLS on. The word public: any public one."
    ),
]
Certificate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="PEM of the certificate that shows who calls, where the server asks for one.")
]
Key = Annotated[Path | None, typer.Option(metavar="FILE", help="PEM of its private key.")]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN", envvar="ASRLIFE_TOKEN", help="Says whose states are meant; others see the command line, so use the variable."
    ),
]
Plaintext = Annotated[bool, typer.Option("--allow-plaintext-token", help="Send the token without TLS to another machine too.")]


@dataclass(frozen=True)
class Connection:
    """Where a command calls, and as whom."""

    server: Server = "127.0.0.1:50051"
    tls_ca: Authorities = None
    tls_cert: Certificate = None
    tls_key: Key = None
    token: Token = field(default=None, repr=False)
    plaintext: Plaintext = False

    def client(self) -> Client:
        """A client that is not connected yet; raises InputError for options that do not go together."""
        from asrlife.client import Client

        access: dict[str, Any] = {"ca": self.tls_ca, "certificate": self.tls_cert, "key": self.tls_key, "token": self.token}
        return Client(self.server, allow_plaintext_token=self.plaintext, **access)


def connecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a connection; it gets what they say as `connection`."""
    hints, shared = get_type_hints(command, include_extras=True), get_type_hints(Connection, include_extras=True)
    own = [each.replace(annotation=hints[name]) for name, each in inspect.signature(command).parameters.items() if name != "connection"]
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(each.name, kind, default=each.default, annotation=shared[each.name]) for each in fields(Connection)]

    @wraps(command)
    def connected(**given: Any) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines would stand beside the one that says what is wrong
        command(**{each.name: given[each.name] for each in own}, connection=Connection(**{each.name: given[each.name] for each in added}))

    connected.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    return connected
