"""What a store keeps, and what every store can do."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

KEY = re.compile(r"[A-Za-z0-9._-]{1,128}")
SESSION = "session/"  # before the names of sessions; no key of a client holds a slash


class StoreError(Exception):
    """A store cannot do it now: the disk is full, the network is down. What was kept before is still kept."""


class ConflictError(StoreError):
    """Somebody else has written the address meanwhile; nothing was changed."""


class QuotaError(StoreError):
    """The tenant's quota would be passed; nothing was changed."""


class Address(NamedTuple):
    """Whose state, and which: a client's key, or a session behind the prefix SESSION."""

    tenant: str
    key: str


class Mark(NamedTuple):
    """Which version an address stands at.

    The checksum is part of it: an address that was deleted and made anew may come by the same number with another content, and who read
    the old one must not write over the new one.
    """

    version: int
    checksum: str


NOTHING = Mark(0, "")  # where an address holds no version; version 0 itself may be kept, it is the base


@dataclass(frozen=True)
class Entry:
    """One version of an address, without its bytes.

    `base` is the model's fingerprint, `settings` the method's as JSON text, `time` in s since 1970, `steps` all steps that led here,
    `drift` the distance of the weights to the base. `session` wrote it after its utterance `utterance` (-1: before any). A version that is
    `quarantined`, for the reason that stands there, is kept and never loaded. `method` is "" after a reset to the base weights.
    """

    version: int
    checksum: str
    size: int
    base: str
    method: str = ""
    settings: str = "{}"
    time: float = 0.0
    steps: int = 0
    drift: float = 0.0
    session: str = ""
    utterance: int = -1
    quarantined: str = ""

    @property
    def mark(self) -> Mark:
        """What a successor must expect."""
        return Mark(self.version, self.checksum)

    @property
    def settings_digest(self) -> str:
        """SHA-256 of the method and its settings."""
        return hashlib.sha256(f"{self.method}\n{self.settings}".encode()).hexdigest()

    def settings_map(self) -> dict[str, str]:
        """The settings as they were in force."""
        return {str(name): str(value) for name, value in json.loads(self.settings).items()}

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Entry:
        """Read `to_json`."""
        return cls(**json.loads(text))


def settings_text(settings: Mapping[str, str]) -> str:
    """Settings in the one form that equal settings have."""
    return json.dumps(dict(settings), sort_keys=True)


def checksum(blob: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(blob).hexdigest()


class Quota(NamedTuple):
    """How much is kept: versions of an address, bytes and addresses of a tenant."""

    history: int
    tenant_bytes: int
    tenant_keys: int


Found = tuple[Entry, bytes]


class Store(Protocol):
    """Keeps versions of addresses; safe to call from several threads. Every call may raise StoreError and then has changed nothing.

    What equal vectors of several versions of an address take is a store's own affair; quotas count every version's size in full.
    """

    def put(self, address: Address, entry: Entry, blob: bytes, expected: Mark) -> None:
        """Make `entry` the newest version, durably; raises ConflictError unless the newest one is `expected`.

        `entry.version` is above the expected one, or it is the expected mark itself: then what the entry says changes, the bytes that are
        there stay, and `blob` is not looked at.
        All but the newest versions of the quota's history are forgotten; quarantined ones have a history of their own of that length.
        """

    def get(self, address: Address, version: int | None = None) -> Found | None:
        """A version with its bytes, None where there is none; the newest one when `version` is None, quarantined or not."""

    def history(self, address: Address) -> tuple[Entry, ...]:
        """All versions, newest first."""

    def quarantine(self, address: Address, version: int, reason: str) -> None:
        """Mark a version as never to be loaded; no such version is no error."""

    def delete(self, address: Address) -> bool:
        """Forget an address with all versions; whether there was one."""

    def keys(self, tenant: str) -> tuple[str, ...]:
        """All addresses of a tenant, sessions too, in order."""

    def sweep(self, before: float) -> int:
        """Forget sessions whose newest version is older than `before` (s since 1970); how many there were."""

    def close(self) -> None:
        """Let go of files and connections."""


def surplus(entries: Iterable[Entry], history: int) -> list[Entry]:
    """The versions that a history of that length has no room for."""
    newest_first = sorted(entries, key=lambda entry: -entry.version)
    sound = [entry for entry in newest_first if not entry.quarantined]
    return sound[history:] + [entry for entry in newest_first if entry.quarantined][history:]


def check_succession(entry: Entry, expected: Mark) -> None:
    """Raise ValueError for a version that does not follow the expected one."""
    first = expected == NOTHING and entry.version >= 0
    if not (first or entry.mark == expected or entry.version > expected.version):
        raise ValueError(f"version {entry.version} does not follow {expected.version}")


def check_quota(quota: Quota, keys: int, size: int) -> None:
    """Raise QuotaError for a tenant that would then have so many addresses and bytes."""
    if keys > quota.tenant_keys:
        raise QuotaError(f"the tenant keeps {quota.tenant_keys} states, which is its quota (state.tenant_keys); delete some")
    if size > quota.tenant_bytes:
        raise QuotaError(f"the tenant's states would pass {quota.tenant_bytes} bytes, its quota (state.tenant_bytes); delete some")


def conflict(address: Address, expected: Mark, found: Any) -> ConflictError:
    """Somebody was faster."""
    return ConflictError(f"{address.key}: version {expected.version} was expected, {found} is there; another stream or a caller changed it")
