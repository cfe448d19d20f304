"""How a server is set up: YAML, with flags over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from asrlife.errors import InputError
from asrlife.recipe.schema import Settings, merged, parse, read_yaml

_MESSAGE_ROOM = 64 * 1024  # bytes of a message around its chunk


class Limits(Settings):
    """What one client may ask of the server."""

    streams: int = Field(default=64, ge=1)
    chunk_bytes: int = Field(default=256 * 1024, ge=1024, le=3 * 1024 * 1024)
    utterance_ms: int = Field(default=20_000, ge=500, le=600_000)
    silence_ms: int = Field(default=10_000, ge=0, le=600_000)
    pending_utterances: int = Field(default=4, ge=1)
    unread_responses: int = Field(default=256, ge=4)
    queued_jobs: int = Field(default=4096, ge=1)
    stream_s: float = Field(default=14_400, gt=0)
    unary_bytes: int = Field(default=10 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    unary_s: float = Field(default=60, gt=0)

    @property
    def message_bytes(self) -> int:
        """The largest message that gRPC lets through, of either call: it has one limit for all."""
        largest = max(2 * self.chunk_bytes, self.unary_bytes)  # above the chunk's limit, so that our own words say what is wrong
        return largest + _MESSAGE_ROOM


class Timeouts(Settings):
    """How long the server waits, in s."""

    first_message_s: float = Field(default=10, gt=0)
    idle_s: float = Field(default=60, gt=0)
    grace_s: float = Field(default=10, ge=0)


class Endpointing(Settings):
    """Where the server ends utterances unless the client says otherwise."""

    threshold: float = Field(default=0.5, ge=0.05, le=0.95)
    start_ms: int = Field(default=96, ge=32, le=2000)
    stop_ms: int = Field(default=480, ge=64, le=10_000)
    pre_roll_ms: int = Field(default=300, ge=0, le=2000)
    post_roll_ms: int = Field(default=240, ge=0, le=2000)


class Adaptation(Settings):
    """What a client gets that names no method; "default" is what the model's card recommends."""

    method: str = "default"
    settings: dict[str, str | int | float | bool] = {}


class State(Settings):
    """Where adaptation state outlives its stream, how much of it, and how hard the server tries.

    `path` is the SQLite file of backend "disk", by default state.sqlite in the user's folder of application state; `url` is that of
    backend "redis". `history` versions of each key are kept; `resident_bytes` of states stay in memory beside those of live streams.
    A call of the store that takes longer than `timeout_s` has failed.
    A state whose distance to the base passes `drift_cap` goes back to the last good one. A session that nobody took up again for
    `session_ttl_s` is forgotten. What cannot be kept is tried `retries` times more, first after `retry_s`, then after twice as long.
    """

    backend: Literal["memory", "disk", "redis"] = "disk"
    path: Path | None = None
    url: str = "redis://127.0.0.1:6379/0"
    timeout_s: float = Field(default=5, gt=0)
    history: int = Field(default=8, ge=1, le=1000)
    resident_bytes: int = Field(default=256 * 2**20, ge=0)
    tenant_bytes: int = Field(default=8 * 2**30, ge=1)  # a state of embedded:ctc with the default scope is 10 to 16 MB
    tenant_keys: int = Field(default=10_000, ge=1)
    drift_cap: float | None = Field(default=None, gt=0)
    session_ttl_s: float = Field(default=3600, gt=0)
    retries: int = Field(default=6, ge=0, le=100)
    retry_s: float = Field(default=0.5, gt=0)
    allow_import: bool = False
    import_bytes: int = Field(default=64 * 2**20, ge=1024)


class ServerConfig(Settings):
    """Everything a server can be told; port 0 lets the system choose one."""

    model: str = "embedded:ctc"
    host: str = "127.0.0.1"
    port: int = Field(default=50051, ge=0, le=65535)
    threads: int = Field(default=1, ge=1)
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    endpointing: Endpointing = Endpointing()
    adaptation: Adaptation = Adaptation()
    state: State = State()

    @classmethod
    def read(cls, path: Path | None = None, flags: Mapping[str, Any] | None = None) -> ServerConfig:
        """The settings of a YAML file, if any, with `flags` over them; a dotted flag reaches into a group, None is no flag.

        Raises InputError naming the place, the fault and, for an unknown key, the nearest one.
        """
        data = read_yaml(path) if path else {}
        for name, value in (flags or {}).items():
            if value is not None:
                data = merged(data, _nested(name, value))
        return _parsed(data, str(path) if path else "server settings")


def _nested(name: str, value: Any) -> dict[str, Any]:
    *groups, key = name.split(".")
    nested = {key: value}
    for group in reversed(groups):
        nested = {group: nested}
    return nested


def _parsed(data: Mapping[str, Any], where: str) -> ServerConfig:
    groups: dict[str, type[Settings]] = {"limits": Limits, "timeouts": Timeouts, "endpointing": Endpointing, "adaptation": Adaptation}
    groups["state"] = State
    for name, group in groups.items():
        given = data.get(name, {})
        if not isinstance(given, Mapping):
            raise InputError(f"{where}: {name}: should be a mapping of keys to values (it is {given!r})")
        parse(group, given, f"{where}: {name}")
    return parse(ServerConfig, data, where)
