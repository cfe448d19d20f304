"""The store that a configuration names."""

from __future__ import annotations

import os
from pathlib import Path

from asrlife.errors import InputError
from asrlife_server.config import State
from asrlife_server.state.cloud import RedisStore
from asrlife_server.state.disk import DiskStore
from asrlife_server.state.entry import Quota, Store, StoreError
from asrlife_server.state.memory import MemoryStore


def opened(config: State) -> Store:
    """Open it; raises StoreError where it cannot be opened now."""
    quota = Quota(config.history, config.tenant_bytes, config.tenant_keys)
    if config.backend == "memory":
        return MemoryStore(quota)
    if config.backend == "redis":
        return RedisStore(config.url, quota, config.timeout_s)
    return DiskStore(config.path or usual(), quota)


def check(config: State) -> None:
    """Raise InputError for a store that was named and cannot work, so that an operator learns it at the start and not from a stream."""
    if config.backend == "redis" or config.path is not None:
        try:
            opened(config).close()
        except StoreError as error:
            raise InputError(f"state.path: {error}; name a file in a folder that can be written") from None


def usual() -> Path:
    """The file of backend "disk" where none is named."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "asrlife" / "state.sqlite"
