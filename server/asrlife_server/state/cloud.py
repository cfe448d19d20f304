"""A store in Redis, for several servers behind one address.

What "durable" means is Redis's own setting: with `appendonly yes` and `appendfsync always` a commit that has returned is on its disk.
All names of a tenant share one hash slot, so that a cluster can run the script that compares and writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from asrlife.errors import InputError
from asrlife_server.state.entry import (
    NOTHING,
    SESSION,
    Address,
    Entry,
    Found,
    Mark,
    Quota,
    StoreError,
    check_quota,
    check_succession,
    conflict,
    surplus,
)

_PUT = """
local newest = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if newest ~= ARGV[2] then return {'conflict', newest} end
local total = tonumber(redis.call('GET', KEYS[4]) or '0') + tonumber(ARGV[7])
if redis.call('HLEN', KEYS[1]) + (newest == '' and 1 or 0) > tonumber(ARGV[8]) then return {'keys', ''} end
if total > tonumber(ARGV[9]) then return {'bytes', ''} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
if ARGV[2] ~= ARGV[3] then redis.call('HSET', KEYS[3], ARGV[4], ARGV[6]) end
for place = 10, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[place])
  redis.call('HDEL', KEYS[3], ARGV[place])
end
redis.call('SET', KEYS[4], tostring(total))
return {'kept', ''}
"""
_DELETE = """
local there = redis.call('HDEL', KEYS[1], ARGV[1])
local size = 0
for _, text in ipairs(redis.call('HVALS', KEYS[2])) do size = size + cjson.decode(text).size end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('DECRBY', KEYS[4], size)
return there
"""
_QUARANTINE = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end
"""
_RACES = 5  # times that a read is begun again because the version was replaced under it


class RedisStore:
    """All states in the Redis at `url` (redis://[:password@]host:port/number); `timeout` in s bounds every call.

    Raises InputError for a URL that is none and where the package is missing; it connects with the first call.
    """

    def __init__(self, url: str, quota: Quota, timeout: float) -> None:
        try:
            import redis
        except ImportError:
            raise InputError("state.backend redis needs the package `redis`; install asrlife[redis]") from None
        self._quota = quota
        self._fault = redis.RedisError
        try:
            self._redis = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
        except ValueError as error:
            raise InputError(f"state.url: {error}; it is like redis://127.0.0.1:6379/0") from None
        self._put, self._delete, self._quarantine = (self._redis.register_script(text) for text in (_PUT, _DELETE, _QUARANTINE))

    def put(self, address: Address, entry: Entry, blob: bytes, expected: Mark) -> None:
        """See Store."""
        check_succession(entry, expected)
        known = [each for each in self.history(address) if each.version != entry.version]
        same = entry.size if entry.mark == expected else 0
        old = surplus([*known, entry], self._quota.history)
        grown = entry.size - same - sum(each.size for each in old)
        mark = "" if expected == NOTHING else _text(expected)
        values = [address.key, mark, _text(entry.mark), entry.version, entry.to_json(), blob, grown]
        with self._said():
            limits = [self._quota.tenant_keys, self._quota.tenant_bytes]
            found, newest = self._put(_names(address), [*values, *limits, *(each.version for each in old)])
        if found == b"conflict":
            raise conflict(address, expected, newest.decode().partition(" ")[0] or "nothing")
        # the script refuses by the same rule; asked for too much, the check says which limit it is
        check_quota(self._quota, self._quota.tenant_keys + (found == b"keys"), self._quota.tenant_bytes + (found == b"bytes"))

    def get(self, address: Address, version: int | None = None) -> Found | None:
        """See Store."""
        newest, entries, blobs, _ = _names(address)
        with self._said():
            for _ in range(_RACES):
                head = self._redis.hget(newest, address.key)
                if head is None:
                    return None
                wanted = int(head.split()[0]) if version is None else version
                entry, blob = self._redis.pipeline().hget(entries, str(wanted)).hget(blobs, str(wanted)).execute()
                if entry is not None:
                    return Entry.from_json(entry), blob
                if version is not None:
                    return None
        raise StoreError(f"{address.key}: is written faster than it can be read; try again")

    def history(self, address: Address) -> tuple[Entry, ...]:
        """See Store."""
        with self._said():
            found = self._redis.hvals(_names(address)[1])
        return tuple(sorted(map(Entry.from_json, found), key=lambda entry: -entry.version))

    def quarantine(self, address: Address, version: int, reason: str) -> None:
        """See Store."""
        found = self.get(address, version)
        if found is not None:
            with self._said():
                self._quarantine(_names(address), [version, replace(found[0], quarantined=reason).to_json()])

    def delete(self, address: Address) -> bool:
        """See Store."""
        with self._said():
            return bool(self._delete(_names(address), [address.key]))

    def keys(self, tenant: str) -> tuple[str, ...]:
        """See Store."""
        with self._said():
            return tuple(sorted(key.decode() for key in self._redis.hkeys(_names(Address(tenant, ""))[0])))

    def sweep(self, before: float) -> int:
        """See Store."""
        stale = []
        with self._said():
            tenants = [name.decode().split("{", 1)[1].rsplit("}", 1)[0] for name in self._redis.scan_iter("asrlife:{*}:newest")]
        for address in (Address(tenant, key) for tenant in tenants for key in self.keys(tenant) if key.startswith(SESSION)):
            history = self.history(address)
            if history and history[0].time < before:
                stale.append(address)
        return sum(self.delete(address) for address in stale)

    def close(self) -> None:
        """See Store."""
        self._redis.close()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (self._fault, OSError) as error:
            raise StoreError(f"redis: {error}") from error


def _text(mark: Mark) -> str:
    return f"{mark.version} {mark.checksum}"


def _names(address: Address) -> list[str]:
    """Where the newest marks, the entries, the bytes and the tenant's total are."""
    place = f"asrlife:{{{address.tenant}}}"
    return [f"{place}:newest", f"{place}:entries:{address.key}", f"{place}:bytes:{address.key}", f"{place}:total"]
