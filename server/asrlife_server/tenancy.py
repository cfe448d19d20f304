"""Whose call it is, and who may call at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc

from asrlife_server.config import ServerConfig
from asrlife_server.refusal import Refusal
from asrlife_server.tokens import TENANT, Tokens

DEFAULT = "default"
_OPEN = "/grpc.health.v1.Health/"  # what a load balancer asks before it has any token
_log = logging.getLogger("asrlife.server")


class Tenancy:
    """Tells callers apart: by their tokens; without tokens, by the common name of the certificate that clients must show; without either
    all are one tenant.

    Raises InputError for a file of tokens that cannot be used.
    """

    def __init__(self, config: ServerConfig) -> None:
        security = config.security
        self._tokens = Tokens(security.tokens) if security.tokens is not None else None
        self._named = security.client_ca is not None
        self._streams = config.limits.tenant_streams

    def tenant_of(self, context: Any) -> str:
        """The tenant that a call's states belong to; raises Refusal for a caller who is nobody."""
        if self._tokens is None and self._named:
            return _common_name(context.auth_context())
        return self.tenant_of_metadata(context.invocation_metadata())

    def tenant_of_metadata(self, metadata: Iterable[tuple[str, Any]]) -> str:
        """The tenant whose token the metadata of a call, or the headers of a request, hold; raises Refusal where there is none."""
        if self._tokens is None:
            return DEFAULT
        grant = self._tokens.grant(_bearer(metadata))
        if grant is None:
            raise Refusal("UNAUTHENTICATED", "the token is not known to this server; compare it, or ask the server's operator for another")
        return grant.tenant

    def streams(self, tenant: str) -> int | None:
        """How many streams a tenant may have, None for as many as the server has."""
        own = self._tokens.streams(tenant) if self._tokens is not None else None
        return self._streams if own is None else own


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Ends calls without a valid token before anything of them is read, whatever they call; only health checks need none."""

    def __init__(self, tenancy: Tenancy) -> None:
        self._tenancy = tenancy

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Let a call through or give it an end."""
        if not handler_call_details.method.startswith(_OPEN):
            try:
                self._tenancy.tenant_of_metadata(handler_call_details.invocation_metadata or ())
            except Refusal as refusal:
                return _ending(refusal)
        return await continuation(handler_call_details)


def _ending(refusal: Refusal) -> Any:
    async def end(requests: Any, context: Any) -> None:
        _log.debug("a call of %s was refused: %s", context.peer(), refusal.message)
        await context.abort(grpc.StatusCode[refusal.code], refusal.message, refusal.metadata)

    # of the kind that reads nothing by itself: to a client, all four kinds look alike
    return grpc.stream_stream_rpc_method_handler(end)


def _bearer(metadata: Iterable[tuple[str, Any]]) -> str:
    found = [value for name, value in metadata if name.lower() == "authorization"]
    scheme, _, token = (found[0] if len(found) == 1 and isinstance(found[0], str) else "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        how = "in the metadata `authorization: Bearer TOKEN` (token= of asrlife's client, --token or ASRLIFE_TOKEN of the command line)"
        raise Refusal("UNAUTHENTICATED", f"this server asks for a token: send it {how}")
    return token.strip()


def _common_name(shown: Any) -> str:
    names = [name.decode("utf-8", "replace") for name in shown.get("x509_common_name", ())]
    if len(names) != 1 or not re.fullmatch(TENANT, names[0]):
        text = "the common name of the client's certificate names the tenant; it must be one of 1 to 128 of A-Z a-z 0-9 . _ -"
        raise Refusal("UNAUTHENTICATED", text)
    return names[0]
