"""The file of tokens: who has which, and what a tenant may do."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from asrlife.errors import InputError
from asrlife.recipe.schema import Settings, parse
from asrlife_server.certificates import stamp

TENANT = r"[A-Za-z0-9._-]{1,128}"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HOW = "`printf %s TOKEN | sha256sum` prints it"
_log = logging.getLogger("asrlife.server")


class Allowance(Settings):
    """What a tenant may have in place of what the server's limits say."""

    streams: int | None = Field(default=None, ge=1)


class Grant(Settings):
    """What a token stands for."""

    tenant: str = Field(pattern=f"^{TENANT}$")
    limits: Allowance = Allowance()


class Tokens:
    """The tokens of a file, which is read again when it changes.

    The change is seen by the file itself and not told by a signal: a container's secret is swapped from outside, and who takes a token
    back should not need to find the process. What cannot be used is logged and the tokens read before stay in force. Raises InputError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = stamp(path)
        self._grants = read(path)

    def grant(self, token: str) -> Grant | None:
        """What a token stands for, None for one that is not known; takes the same time for every token."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = None
        for known, grant in self._now().items():
            if hmac.compare_digest(known, digest):
                found = grant
        return found

    def streams(self, tenant: str) -> int | None:
        """How many streams the file allows a tenant, None where it leaves that to the server's limits."""
        return next((grant.limits.streams for grant in self._now().values() if grant.tenant == tenant), None)

    def _now(self) -> Mapping[str, Grant]:
        if (found := stamp(self._path)) != self._stamp:
            self._stamp = found
            try:
                self._grants = read(self._path)
            except InputError as error:
                _log.error("%s; the tokens read before stay in force", error)
        return self._grants


def read(path: Path) -> dict[str, Grant]:
    """The grants of a file by the SHA-256 of their tokens; nothing that could be a token stands in the message of an InputError."""
    where = f"security.tokens: {path}"
    data = _mapping(_private(path, where), where)
    grants = {digest: _grant(data[digest], f"{where}: {digest[:8]}...") for digest in data}
    limits: dict[str, Allowance] = {}
    for grant in grants.values():
        if limits.setdefault(grant.tenant, grant.limits) != grant.limits:
            raise InputError(
                f"{where}: tokens of tenant {grant.tenant!r} name different limits; limits are the tenant's, give all the same"
            )
    return grants


def _grant(data: Any, where: str) -> Grant:
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: should be a mapping with the key tenant")
    if isinstance(data.get("limits"), Mapping):
        parse(Allowance, data["limits"], f"{where}: limits")
    return parse(Grant, data, where)


def _private(path: Path, where: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & stat.S_IRWXO:
                raise InputError(f"{where}: is open to everyone on this machine (mode {mode:o}); run `chmod 640 {path}`")
            return file.read()
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: is no text") from None


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        node, data = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(f"{where}: neither JSON nor YAML{f' (line {mark.line + 1})' if mark else ''}") from None
    if not isinstance(node, yaml.MappingNode) or not isinstance(data, dict):
        raise InputError(f"{where}: should map the SHA-256 of each token to its tenant, as in 5e88...: {{tenant: acme}}; {_HOW}")
    names = [key.value for key, _ in node.value]
    for number, name in enumerate(names, 1):
        if not isinstance(name, str) or not _DIGEST.fullmatch(name):
            raise InputError(f"{where}: entry {number} is not under the SHA-256 of a token (64 of 0-9 a-f); {_HOW}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{where}: {twice[0][:8]}... stands there twice")
    return dict(zip(names, data.values(), strict=True))
