"""How a server is set up: YAML, with the environment over it, and flags over both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from asrlife.recipe.schema import Settings, merged, read_yaml
from asrlife_server import sources

_MESSAGE_ROOM = 64 * 1024  # bytes of a message around its chunk


class Limits(Settings):
    """What one client may ask of the server."""

    streams: int = Field(default=64, ge=1)
    tenant_streams: int | None = Field(default=None, ge=1)  # of one tenant; None is no limit but that of all
    chunk_bytes: int = Field(default=256 * 1024, ge=1024, le=3 * 1024 * 1024)
    utterance_ms: int = Field(default=20_000, ge=500, le=600_000)
    silence_ms: int = Field(default=10_000, ge=0, le=600_000)
    pending_utterances: int = Field(default=4, ge=1)
    unread_responses: int = Field(default=256, ge=4)
    queued_jobs: int = Field(default=4096, ge=1)
    stream_s: float = Field(default=14_400, gt=0)
    unary_bytes: int = Field(default=10 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    unary_s: float = Field(default=60, gt=0)
    adaptation_wait_ms: int | None = Field(
        default=5000, ge=0
    )  # a live stream's lesson that has not begun so long after its final is skipped

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
    """What a client gets that names no method; "default" is what the model's card recommends.

    `narrowband`: learn from sound too that ends at 4 kHz though its rate has room for more, as where all callers come by telephone.
    """

    method: str = "default"
    settings: dict[str, str | int | float | bool] = {}
    narrowband: bool = False


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
    tenant_bytes: int = Field(
        default=8 * 2**30, ge=1
    )  # of versions as if each stood alone; one of embedded:ctc with the default scope is 10 to 16 MB
    tenant_keys: int = Field(default=10_000, ge=1)
    drift_cap: float | None = Field(default=None, gt=0)
    session_ttl_s: float = Field(default=3600, gt=0)
    retries: int = Field(default=6, ge=0, le=100)
    retry_s: float = Field(default=0.5, gt=0)
    allow_import: bool = False
    import_bytes: int = Field(default=64 * 2**20, ge=1024)


class Metrics(Settings):
    """Where Prometheus may scrape: http://host:port/metrics; no `port`, no metrics, 0 lets the system choose one."""

    port: int | None = Field(default=None, ge=0, le=65535)
    host: str = "127.0.0.1"


class Log(Settings):
    """What the server writes to standard error, one line for each call that ends among it.

    `content` adds what was recognised and what a refusal said, which may name a client's key; without it no line holds either.
    """

    format: Literal["json", "text"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"
    content: bool = False


class Tracing(Settings):
    """Spans for an OpenTelemetry collector that takes OTLP over gRPC at `endpoint` (http:// or https://); none without it.

    `ratio` of the calls are traced, unless the caller's own trace decides.
    """

    endpoint: str | None = Field(default=None, pattern=r"^https?://[^/\s]+$")
    ratio: float = Field(default=1.0, ge=0, le=1)


class Security(Settings):
    """Who may call, and who may listen on the way.

    `certificate` (its chain too) and `key` are PEM files and switch TLS on; with `client_ca` clients must show a certificate that it
    signed. `tokens` is a JSON or YAML file that maps the SHA-256 of each bearer token, in hex, to {tenant: NAME} and may add
    limits: {streams: N}. `allow_plaintext_tokens`: also where others could read them, as behind a proxy that ends TLS.
    """

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    tokens: Path | None = None
    allow_plaintext_tokens: bool = False


class Web(Settings):
    """A page that shows streams while they adapt, at http://host:port.

    Browsers give a microphone to localhost and to https only. `origins` are the addresses at which others may reach the page, such as
    https://speech.example.org where a proxy in front of the server ends TLS.
    """

    enabled: bool = False
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    origins: list[str] = []


class Batching(Settings):
    """How many utterances of different streams go through the model in one call, finals, interim results and adaptation each by themselves.

    None is what pays on the model's device: 1 on a CPU, where a batch takes about as long as its utterances do, and every utterance
    then gets to the last bit what it would get alone; 16 elsewhere. A call that could take more waits up to `wait_ms` for them.
    """

    recognitions: int | None = Field(default=None, ge=1, le=1024)
    adaptations: int | None = Field(default=None, ge=1, le=1024)
    wait_ms: int = Field(default=0, ge=0, le=1000)


class ServerConfig(Settings):
    """Everything a server can be told; port 0 lets the system choose one. `riva`: speak NVIDIA Riva's recognition protocol too.

    `delta` is a file that tuning, merging or editing left, or the name of a domain (see `asrlife.recipe.domain.names.delta_of`), made for
    `model`, whose weights then have moved by `delta_scale` times of it.
    """

    model: str = "embedded:ctc"
    delta: Path | None = None
    delta_scale: float = Field(default=1.0, allow_inf_nan=False)
    host: str = "127.0.0.1"
    port: int = Field(default=50051, ge=0, le=65535)
    threads: int = Field(default=1, ge=1)
    riva: bool = False
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    endpointing: Endpointing = Endpointing()
    adaptation: Adaptation = Adaptation()
    state: State = State()
    metrics: Metrics = Metrics()
    log: Log = Log()
    tracing: Tracing = Tracing()
    security: Security = Security()
    web: Web = Web()
    batching: Batching = Batching()

    @classmethod
    def read(
        cls, path: Path | None = None, flags: Mapping[str, Any] | None = None, variables: Mapping[str, str] | None = None
    ) -> ServerConfig:
        """The settings of a YAML file, if any, with those of the environment `variables` over them, and `flags` over both.

        A dotted flag reaches into a group, None is no flag. Raises InputError naming the place, the fault and, for an unknown key, the
        nearest one.
        """
        return cls.traced(path, flags, variables)[0]

    @classmethod
    def traced(
        cls, path: Path | None = None, flags: Mapping[str, Any] | None = None, variables: Mapping[str, str] | None = None
    ) -> tuple[ServerConfig, dict[str, str]]:
        """`read`, and by its dotted name where each setting came from: the file's path, the variable, "flag" or "default"."""
        data, origins = read_yaml(path) if path else {}, {}
        in_file = [name for name in sources.fields(cls) if sources.holds(data, name)]
        given = sources.environment(cls, variables or {})
        told = {name: value for name, value in (flags or {}).items() if value is not None}
        for name, value in (given | told).items():
            data = merged(data, _nested(name, value))
        for names, origin in ((sources.fields(cls), "default"), (in_file, str(path)), (given, ""), (told, "flag")):
            origins.update({name: origin or sources.variable(name) for name in names})
        return sources.parsed(cls, data, str(path) if path else "server settings"), origins


def _nested(name: str, value: Any) -> dict[str, Any]:
    *above, key = name.split(".")
    nested = {key: value}
    for group in reversed(above):
        nested = {group: nested}
    return nested
