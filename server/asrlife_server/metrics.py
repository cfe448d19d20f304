"""What a server counts and measures, for Prometheus. No label tells whose audio it was: each comes from a set that is written down here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

import asrlife
from asrlife.errors import InputError
from asrlife_server.config import Metrics as Settings

Row = Literal[
    "streams_opened", "streams_rejected", "calls", "audio_seconds", "compute_seconds", "partial_seconds", "final_seconds",
    "refinement_seconds", "real_time_factor", "batch_size", "batch_wait_seconds", "adaptation_steps", "adaptation_skips",
    "adaptation_resets", "adaptation_drift", "event_loop_lag_seconds",
]  # fmt: skip
Observe = Callable[[Row, float, str], None]
Live = Callable[[], Mapping[str, float]]

CODES: Final = frozenset(
    "ok cancelled unknown invalid_argument deadline_exceeded not_found already_exists permission_denied resource_exhausted "
    "failed_precondition aborted out_of_range unimplemented internal unavailable data_loss unauthenticated".split()
)
SKIPS: Final = frozenset([
    "no speech", "too short", "short", "silent", "clipped", "offset", "misread", "frozen", "drift", "diverged", "collapsed", "unsure",
    "confident", "unheard", "budget", "out of memory", "failed",
])  # fmt: skip
RESETS: Final = frozenset(["requested", "drift", "oracle", "fixed", "shift", "collapsed", "low entropy"])
WORK: Final = frozenset(["hear", "final", "interim", "adapt"])  # the engine's priorities
PARTS: Final = frozenset(["recognition", "adaptation"])
STORE: Final = ("restored", "not_restored", "hits", "misses", "evicted", "persisted", "persist_failed", "quarantined", "conflicts", "lost",
                "swept")  # fmt: skip
TIERS: Final = ("streams", "memory", "store")
OTHER: Final = "other"

disable_created_metrics()  # a row for each row, of which nobody asks when it was made

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_FACTORS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4)
_DISTANCES = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
_LAG_EVERY = 0.25  # s
_COUNTERS: Final[dict[Row, tuple[str, str, frozenset[str]]]] = {
    "streams_opened": ("Streams that were told `opened`.", "", frozenset()),
    "streams_rejected": ("Streams that ended before `opened`, by the status they got.", "reason", CODES),
    "calls": ("Calls that have ended, by status.", "code", CODES),
    "audio_seconds": ("Audio that was heard (s).", "", frozenset()),
    "compute_seconds": ("Time in models (s).", "work", PARTS),
    "adaptation_steps": ("Gradient steps.", "", frozenset()),
    "adaptation_skips": ("Steps that were not taken, by reason.", "reason", SKIPS),
    "adaptation_resets": ("Times a stream went back to an earlier state, by reason.", "reason", RESETS),
}
_HISTOGRAMS: Final[dict[Row, tuple[str, str, frozenset[str], tuple[float, ...]]]] = {
    "partial_seconds": ("From a chunk's arrival to the interim text that reaches to its end (s).", "", frozenset(), _SECONDS),
    "final_seconds": ("From the arrival of an utterance's last sound to its final (s).", "", frozenset(), _SECONDS),
    "refinement_seconds": ("From a final to its refinement (s).", "", frozenset(), _SECONDS),
    "real_time_factor": ("Time in models per s of audio, of each stream that has ended.", "work", PARTS, _FACTORS),
    "batch_size": ("Jobs that ran together.", "work", WORK, _SIZES),
    "batch_wait_seconds": ("From a job's submission to its start (s).", "work", WORK, _SECONDS),
    "adaptation_drift": ("Distance of adapted weights to the source, after each step.", "", frozenset(), _DISTANCES),
    "event_loop_lag_seconds": ("How much later than asked the event loop wakes (s).", "", frozenset(), _SECONDS),
}  # fmt: skip


class Metrics:
    """One server's rows, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        build = Gauge("asrlife_build_info", "1, with the version as its label.", ["version"], registry=self.registry)
        build.labels(asrlife.__version__).set(1)
        self._counters = {row: self._counter(row) for row in _COUNTERS}
        self._histograms = {row: self._histogram(row) for row in _HISTOGRAMS}
        self._serving: tuple[Callable[[], None], int] | None = None

    def observe(self, row: Row, value: float = 1.0, label: str = "") -> None:
        """Add `value` to a counter, or sort it into a histogram; from any thread. A label that is not known counts as "other"."""
        if row in self._counters:
            counter, known = self._counters[row], _COUNTERS[row][2]
            (counter.labels(label if label in known else OTHER) if known else counter).inc(value)
        else:
            histogram, known = self._histograms[row], _HISTOGRAMS[row][2]
            (histogram.labels(label if label in known else OTHER) if known else histogram).observe(value)

    def watch(self, live: Live, store: Live, state_bytes: Live) -> None:
        """Read these at every scrape: what streams are at, what the store has done by event, the bytes of states by tier."""
        self.registry.register(_Live(live, store, state_bytes))

    @property
    def port(self) -> int | None:
        """Where it is served; None where it is not."""
        return None if self._serving is None else self._serving[1]

    def serve(self, settings: Settings) -> None:
        """Let Prometheus scrape, on threads of its own, where the settings name a port; raises InputError where it is taken."""
        if settings.port is None:
            return
        try:
            server, _ = start_http_server(settings.port, settings.host, self.registry)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise InputError(f"metrics cannot be served on {where} ({error.strerror or error}); choose another metrics.port") from None

        def close() -> None:
            server.shutdown()
            server.server_close()

        self._serving = close, int(server.server_port)

    def close(self) -> None:
        """Serve no more."""
        if self._serving is not None:
            self._serving[0]()
            self._serving = None

    async def measure_lag(self) -> None:
        """Measure how late the event loop is, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(_LAG_EVERY)
            self.observe("event_loop_lag_seconds", max(0.0, loop.time() - began - _LAG_EVERY))

    def _counter(self, row: Row) -> Counter:
        text, label, known = _COUNTERS[row]
        counter = Counter(f"asrlife_{row}", text, [label] if label else [], registry=self.registry)
        for value in sorted(known):
            counter.labels(value)
        return counter

    def _histogram(self, row: Row) -> Histogram:
        text, label, known, buckets = _HISTOGRAMS[row]
        histogram = Histogram(f"asrlife_{row}", text, [label] if label else [], registry=self.registry, buckets=buckets)
        for value in sorted(known):
            histogram.labels(value)
        return histogram


class _Live(Collector):
    """Reads, at each scrape, what is so now."""

    def __init__(self, live: Live, store: Live, state_bytes: Live) -> None:
        self._live, self._store, self._bytes = live, store, state_bytes

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """See Collector."""
        live, store, sizes = self._live(), self._store(), self._bytes()
        yield GaugeMetricFamily("asrlife_streams_active", "Streams that are open.", live["streams"])
        yield GaugeMetricFamily("asrlife_backlog_seconds", "Audio of ended utterances that wait for their finals (s).", live["backlog"])
        events = CounterMetricFamily("asrlife_store", "What became of kept states, by event.", labels=["event"])
        for name in STORE:
            events.add_metric([name], store.get(name, 0))
        yield events
        tiers = GaugeMetricFamily("asrlife_state_bytes", "Bytes of adaptation states, by where they are.", labels=["tier"])
        for name in TIERS:
            if name in sizes:
                tiers.add_metric([name], sizes[name])
        yield tiers
