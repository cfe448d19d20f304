"""What the tests of stores have in common."""

from __future__ import annotations

from asrlife_server.state.entry import Entry, Quota, checksum

QUOTA = Quota(history=3, tenant_bytes=400, tenant_keys=3)
BACKENDS = ("memory", "disk", "redis")


def entry(version: int, blob: bytes, **more) -> Entry:
    return Entry(version, checksum(blob), len(blob), "base", time=float(version), **more)


def emptied(url: str) -> None:
    import redis

    redis.Redis.from_url(url).flushall()
