"""A store for as long as the process lives: for tests, and where nothing may reach a disk."""

from __future__ import annotations

import threading
from dataclasses import replace

from asrlife_server.state.entry import (
    NOTHING,
    SESSION,
    Address,
    Entry,
    Found,
    Mark,
    Quota,
    check_quota,
    check_succession,
    conflict,
    surplus,
)


class MemoryStore:
    """Versions in a dictionary; "durable" means until the process ends."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._kept: dict[Address, dict[int, Found]] = {}
        self._lock = threading.Lock()

    def put(self, address: Address, entry: Entry, blob: bytes, expected: Mark) -> None:
        """See Store."""
        check_succession(entry, expected)
        with self._lock:
            newest = self._newest(address)
            mark = newest[0].mark if newest else NOTHING
            if mark != expected:
                raise conflict(address, expected, mark.version if newest else "nothing")
            content = newest[1] if newest and entry.mark == expected else blob
            versions = {**self._kept.get(address, {}), entry.version: (entry, content)}
            for old in surplus((found[0] for found in versions.values()), self._quota.history):
                del versions[old.version]
            self._check_quota(address, versions)
            self._kept[address] = versions

    def get(self, address: Address, version: int | None = None) -> Found | None:
        """See Store."""
        with self._lock:
            return self._newest(address) if version is None else self._kept.get(address, {}).get(version)

    def history(self, address: Address) -> tuple[Entry, ...]:
        """See Store."""
        with self._lock:
            return tuple(entry for _, (entry, _) in sorted(self._kept.get(address, {}).items(), reverse=True))

    def quarantine(self, address: Address, version: int, reason: str) -> None:
        """See Store."""
        with self._lock:
            versions = self._kept.get(address, {})
            if version in versions:
                entry, blob = versions[version]
                versions[version] = replace(entry, quarantined=reason), blob

    def delete(self, address: Address) -> bool:
        """See Store."""
        with self._lock:
            return self._kept.pop(address, None) is not None

    def keys(self, tenant: str) -> tuple[str, ...]:
        """See Store."""
        with self._lock:
            return tuple(sorted(address.key for address in self._kept if address.tenant == tenant))

    def sweep(self, before: float) -> int:
        """See Store."""
        with self._lock:
            sessions = [(each, self._newest(each)) for each in self._kept if each.key.startswith(SESSION)]
            stale = [address for address, newest in sessions if newest and newest[0].time < before]
            for address in stale:
                del self._kept[address]
            return len(stale)

    def close(self) -> None:
        """See Store."""

    def _newest(self, address: Address) -> Found | None:
        versions = self._kept.get(address)
        return versions[max(versions)] if versions else None

    def _check_quota(self, address: Address, versions: dict[int, Found]) -> None:
        after = {**{each: kept for each, kept in self._kept.items() if each.tenant == address.tenant}, address: versions}
        check_quota(self._quota, len(after), sum(entry.size for kept in after.values() for entry, _ in kept.values()))
