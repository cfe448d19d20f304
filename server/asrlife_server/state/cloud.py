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
from asrlife_server.state.parts import Parts

_PUT = """
local newest = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if newest ~= ARGV[2] then return {'conflict', newest} end
local total = tonumber(redis.call('GET', KEYS[4]) or '0') + tonumber(ARGV[7])
if redis.call('HLEN', KEYS[1]) + (newest == '' and 1 or 0) > tonumber(ARGV[8]) then return {'keys', ''} end
if total > tonumber(ARGV[9]) then return {'bytes', ''} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
redis.call('SET', KEYS[4], tostring(total))
if ARGV[2] == ARGV[3] then return {'kept', ''} end
redis.call('HSET', KEYS[5], ARGV[4], ARGV[6])
local last = 10 + 2 * tonumber(ARGV[10])
for place = 11, last, 2 do redis.call('HSET', KEYS[3], ARGV[place], ARGV[place + 1]) end
for place = last + 1, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[place])
  redis.call('HDEL', KEYS[5], ARGV[place])
end
local used = {}
for _, version in ipairs(redis.call('HKEYS', KEYS[2])) do used[version] = true end
for _, names in ipairs(redis.call('HVALS', KEYS[5])) do
  for name in string.gmatch(names, '%S+') do used[name] = true end
end
for _, name in ipairs(redis.call('HKEYS', KEYS[3])) do
  if not used[name] then redis.call('HDEL', KEYS[3], name) end
end
return {'kept', ''}
"""
# a version that was written whole, before there were parts, is its own part by the name of its number
_GET = """
local version = ARGV[2]
if version == '' then version = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^%d+') or '' end
local entry = redis.call('HGET', KEYS[2], version)
if not entry then return {} end
local found = {entry}
for name in string.gmatch(redis.call('HGET', KEYS[5], version) or version, '%S+') do
  found[#found + 1] = redis.call('HGET', KEYS[3], name) or ''
end
return found
"""
_DELETE = """
local there = redis.call('HDEL', KEYS[1], ARGV[1])
local size = 0
for _, text in ipairs(redis.call('HVALS', KEYS[2])) do size = size + cjson.decode(text).size end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[5])
redis.call('DECRBY', KEYS[4], size)
return there
"""
_QUARANTINE = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end
"""


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
        scripts = map(self._redis.register_script, (_PUT, _GET, _DELETE, _QUARANTINE))
        self._put, self._get, self._delete, self._quarantine = scripts

    def put(self, address: Address, entry: Entry, blob: bytes, expected: Mark) -> None:
        """See Store."""
        check_succession(entry, expected)
        parts = Parts.of(blob)
        known = [each for each in self.history(address) if each.version != entry.version]
        same = entry.size if entry.mark == expected else 0
        old = surplus([*known, entry], self._quota.history)
        grown = entry.size - same - sum(each.size for each in old)
        mark = "" if expected == NOTHING else _text(expected)
        values = [address.key, mark, _text(entry.mark), entry.version, entry.to_json(), parts.text, grown]
        with self._said():
            limits = [self._quota.tenant_keys, self._quota.tenant_bytes]
            new = parts.beside(self._there(address, expected))
            pairs = [value for pair in new.items() for value in pair]
            found, newest = self._put(_names(address), [*values, *limits, len(new), *pairs, *(each.version for each in old)])
        if found == b"conflict":
            raise conflict(address, expected, newest.decode().partition(" ")[0] or "nothing")
        # the script refuses by the same rule; asked for too much, the check says which limit it is
        check_quota(self._quota, self._quota.tenant_keys + (found == b"keys"), self._quota.tenant_bytes + (found == b"bytes"))

    def get(self, address: Address, version: int | None = None) -> Found | None:
        """See Store."""
        with self._said():
            found = self._get(_names(address), [address.key, "" if version is None else version])
        return (Entry.from_json(found[0]), b"".join(found[1:])) if found else None

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

    def _there(self, address: Address, before: Mark) -> str:
        """The names of the parts of the version before, which the script makes sure of; none where that is not to be believed."""
        if before == NOTHING:
            return ""
        _, entries, _, _, parts = _names(address)
        entry, names = self._redis.pipeline().hget(entries, str(before.version)).hget(parts, str(before.version)).execute()
        return "" if entry is None or names is None or Entry.from_json(entry).quarantined else names.decode()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (self._fault, OSError) as error:
            raise StoreError(f"redis: {error}") from error


def _text(mark: Mark) -> str:
    return f"{mark.version} {mark.checksum}"


def _names(address: Address) -> list[str]:
    """Where the newest marks, the entries, the parts' bytes, the tenant's total and the names of each version's parts are."""
    place = f"asrlife:{{{address.tenant}}}"
    return [
        f"{place}:newest",
        f"{place}:entries:{address.key}",
        f"{place}:bytes:{address.key}",
        f"{place}:total",
        f"{place}:parts:{address.key}",
    ]
