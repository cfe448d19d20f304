"""A version is written in parts, and what the one before it has is not written again."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asrlife.methods.online.state import State, seams
from asrlife_server.state.cloud import RedisStore
from asrlife_server.state.disk import DiskStore
from asrlife_server.state.entry import NOTHING, Address, Entry, Quota
from asrlife_server.state.memory import MemoryStore
from asrlife_server.state.parts import Parts
from tests.server.redis_server import RedisServer
from tests.server.stores import BACKENDS, emptied, entry

A, LONG, VECTOR = Address("default", "anna"), 5_000, 20_000  # numbers and bytes of a vector
QUOTA = Quota(3, 10**7, 10)
START = State("base", ("w",), {name: torch.zeros(LONG) for name in ("weights", "first", "second")}, {"seen": 0})


def learnt(states: int) -> list[bytes]:
    """States as Dynamic SUTA leaves them: a gradient that is gathered, and every third utterance a step of all else."""
    state, found = START, []
    for seen in range(1, states + 1):
        if seen % 3:
            state = state.updated({"slope": torch.full((LONG,), float(seen))}, seen=seen)
        else:
            moved = {name: state[name] + seen + place for place, name in enumerate(("weights", "first", "second"))}
            state = state.updated({**moved, "slope": None}, seen=seen)
        found.append(state.to_bytes())
    return found


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=BACKENDS)
def store(request, tmp_path):
    if request.param == "memory":
        return MemoryStore(QUOTA)
    if request.param == "disk":
        return DiskStore(tmp_path / "state.sqlite", QUOTA)
    url = request.getfixturevalue("redis_url")
    emptied(url)
    return RedisStore(url, QUOTA, 5.0)


def held(store) -> int:
    """Bytes of all parts that a store holds."""
    if isinstance(store, RedisStore):
        return sum(len(part) for name in store._redis.scan_iter("asrlife:*:bytes:*") for part in store._redis.hvals(name))
    ((size,),) = store._database.execute("SELECT coalesce(sum(length(content)), 0) FROM parts")
    return size


def kept(store, blobs, before=NOTHING) -> list[Entry]:
    entries = []
    for version, blob in enumerate(blobs, before.version + 1):
        entries.append(entry(version, blob))
        store.put(A, entries[-1], blob, before)
        before = entries[-1].mark
    return entries


def test_every_version_comes_back_as_it_was_written(store):
    blobs = learnt(8)
    for version, found in enumerate(kept(store, blobs), 1):
        if version > len(blobs) - QUOTA.history:
            assert store.get(A, version) == (found, blobs[version - 1])
    assert store.get(A)[1] == blobs[-1] and store.get(A, 5) is None


@pytest.mark.parametrize("store", ["disk", "redis"], indirect=True)
def test_a_store_holds_each_vector_once_and_forgets_it_with_the_last_version(store):
    blobs = learnt(5)
    before = kept(store, blobs[:2])[-1].mark
    assert held(store) - 5 * VECTOR < 4096  # three of the start (two alike), and two gradients; heads beside them
    kept(store, blobs[2:], before)  # versions 3 to 5 are left: a step, and two gradients upon it
    assert held(store) - 5 * VECTOR < 4096 and [each.version for each in store.history(A)] == [5, 4, 3]
    assert store.delete(A) and held(store) == 0


@pytest.mark.parametrize("store", ["disk", "redis"], indirect=True)
def test_what_a_session_kept_goes_with_it(store):
    blob = learnt(1)[0]
    store.put(Address("default", "session/x"), entry(1, blob), blob, NOTHING)
    assert store.sweep(5.0) == 1 and held(store) == 0


@pytest.mark.parametrize("store", ["disk", "redis"], indirect=True)
def test_keys_share_nothing(store):
    blob = learnt(1)[0]
    for name in "ab":
        store.put(Address("default", name), entry(1, blob), blob, NOTHING)
    assert store.delete(Address("default", "a")) and store.get(Address("default", "b"))[1] == blob


@pytest.mark.parametrize("store", ["disk", "redis"], indirect=True)
def test_a_version_in_quarantine_lends_nothing_to_the_next(store):
    blobs = learnt(2)
    (first,) = kept(store, blobs[:1])
    spoil(store)
    assert store.get(A)[1] != blobs[0]
    store.quarantine(A, 1, "checksum")
    kept(store, blobs[1:], first.mark)
    assert store.get(A)[1] == blobs[1]


def spoil(store) -> None:
    """Damage the largest parts where they are kept."""
    if isinstance(store, RedisStore):
        (place,) = store._redis.scan_iter("asrlife:*:bytes:*")
        for name, part in store._redis.hgetall(place).items():
            store._redis.hset(place, name, part[:-1] + b"x")
    else:
        store._database.execute("UPDATE parts SET content = zeroblob(length(content))")


def test_a_file_of_format_1_is_read_and_written_on(tmp_path):
    blobs, path = learnt(3), tmp_path / "state.sqlite"
    names = [each.name for each in fields(Entry)]
    old, entries = sqlite3.connect(path), [entry(version, blob) for version, blob in enumerate(blobs, 1)]
    old.execute(f"CREATE TABLE versions (tenant TEXT, key TEXT, {', '.join(names)}, blob BLOB NOT NULL, UNIQUE (tenant, key, version))")
    for found, blob in zip(entries[:2], blobs, strict=False):
        old.execute(f"INSERT INTO versions VALUES (?, ?, {', '.join('?' * len(names))}, ?)", (*A, *astuple(found), blob))
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    for _ in range(2):
        store = DiskStore(path, QUOTA)
        assert [store.get(A, version) for version in (1, 2)] == list(zip(entries[:2], blobs[:2], strict=True))
        store.close()
    store = DiskStore(path, Quota(2, 10**7, 10))
    store.put(A, entries[2], blobs[2], entries[1].mark)
    assert store.get(A) == (entries[2], blobs[2]) and store.get(A, 2)[1] == blobs[1]
    assert held(store) == len(blobs[1]) + len(blobs[2])  # the part of version 1 is gone


def test_what_redis_had_before_there_were_parts_is_read_and_written_on(redis_url):
    emptied(redis_url)
    store, blobs = RedisStore(redis_url, Quota(2, 10**7, 10), 5.0), learnt(3)
    entries = [entry(version, blob) for version, blob in enumerate(blobs, 1)]
    newest, texts, content, total = (f"asrlife:{{default}}:{name}" for name in ("newest", "entries:anna", "bytes:anna", "total"))
    for found, blob in zip(entries[:2], blobs, strict=False):
        store._redis.hset(newest, "anna", f"{found.version} {found.checksum}")
        store._redis.hset(texts, str(found.version), found.to_json())
        store._redis.hset(content, str(found.version), blob)
        store._redis.incrby(total, len(blob))
    assert [store.get(A, version) for version in (1, 2)] == list(zip(entries[:2], blobs[:2], strict=True))
    store.put(A, entries[2], blobs[2], entries[1].mark)
    assert store.get(A) == (entries[2], blobs[2]) and store.get(A, 2)[1] == blobs[1]
    assert held(store) == len(blobs[1]) + len(blobs[2])


def test_a_state_is_cut_at_its_vectors_and_small_ones_stay_together():
    parts = Parts.of(learnt(1)[0])
    assert [len(parts.content[name]) for name in parts.names[1:]] == [VECTOR] * 4 and len(parts.names) == 5
    small = Parts.of(
        replace(START, vectors={str(place): torch.full((256 if place else LONG,), float(place)) for place in range(9)}).to_bytes()
    )
    assert [len(small.content[name]) for name in small.names[1:]] == [VECTOR, 4096, 4096]
    assert len(Parts.of(START.updated({name: torch.zeros(4) for name in START.vectors}).to_bytes()).names) == 1


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda tail: learnt(1)[0][: -len(tail) or None] + tail))
def test_parts_joined_are_the_whole_whatever_the_bytes(blob):
    parts = Parts.of(blob)
    assert b"".join(parts.content[name] for name in parts.names) == blob
    assert all(0 < place < len(blob) for place in seams(blob))


@pytest.mark.parametrize("header", [
    "{}", "[]", "3", '{"a": 3}', '{"a": {"data_offsets": [-9, 4]}}', '{"a": {"data_offsets": ["x"]}}', '{"a": {"data_offsets": []}}',
    '{"a": {"data_offsets": [1e400, 2]}}', '{"a": {"data_offsets": [0.5, 2]}}', '{"a": {"data_offsets": [NaN, 2]}}',
    "[" * 100_000,
])  # fmt: skip
def test_bytes_that_only_look_like_a_state_are_one_part(header):
    blob = len(header).to_bytes(8, "little") + header.encode() + bytes(10_000)
    parts = Parts.of(blob)
    assert b"".join(parts.content[name] for name in parts.names) == blob
