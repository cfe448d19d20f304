"""One model of a store, three stores behind the same interface."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from asrlife.errors import InputError
from asrlife_server.state.cloud import RedisStore
from asrlife_server.state.disk import DiskStore
from asrlife_server.state.entry import NOTHING, Address, ConflictError, Mark, Quota, QuotaError, StoreError, checksum
from asrlife_server.state.memory import MemoryStore
from tests.server.redis_server import RedisServer
from tests.server.stores import BACKENDS, QUOTA, emptied, entry


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=BACKENDS)
def make(request, tmp_path):
    """Opens the same store again and again."""
    if request.param == "memory":
        only = MemoryStore(QUOTA)
        return lambda quota=QUOTA: only if quota == QUOTA else MemoryStore(quota)
    if request.param == "disk":
        return lambda quota=QUOTA: DiskStore(tmp_path / "deep" / "state.sqlite", quota)
    url = request.getfixturevalue("redis_url")
    emptied(url)
    return lambda quota=QUOTA: RedisStore(url, quota, 5.0)


A = Address("default", "anna")


def test_versions_follow_each_other_and_the_oldest_are_forgotten(make):
    store = make()
    assert store.get(A) is None and store.history(A) == () and store.keys("default") == ()
    expected = NOTHING
    for version in range(5):
        blob = b"%d" % version
        store.put(A, entry(version, blob), blob, expected)
        expected = Mark(version, checksum(blob))
    assert store.get(A) == (entry(4, b"4"), b"4") and store.get(A, 3) == (entry(3, b"3"), b"3")
    assert [each.version for each in store.history(A)] == [4, 3, 2] and store.get(A, 1) is None
    assert make().get(A) == store.get(A)  # whoever opens it next


def test_the_second_writer_loses_and_changes_nothing(make):
    store, other = make(), make()
    store.put(A, entry(1, b"mine"), b"mine", NOTHING)
    for expected in (NOTHING, Mark(1, checksum(b"another"))):
        with pytest.raises(ConflictError, match="anna: version"):
            other.put(A, entry(2, b"theirs"), b"theirs", expected)
    assert other.get(A) == (entry(1, b"mine"), b"mine")
    with pytest.raises(ValueError, match="does not follow"):
        store.put(A, entry(0, b"older"), b"older", Mark(1, checksum(b"mine")))


def test_a_key_that_was_deleted_and_made_anew_is_another(make):
    store = make()
    store.put(A, entry(1, b"old"), b"old", NOTHING)
    old = store.get(A)[0].mark
    assert store.delete(A) and not store.delete(A)
    store.put(A, entry(1, b"new"), b"new", NOTHING)
    with pytest.raises(ConflictError):
        store.put(A, entry(2, b"old and more"), b"old and more", old)


def test_what_an_entry_says_may_change_where_its_bytes_do_not(make):
    store = make()
    store.put(A, entry(1, b"x", utterance=0), b"x", NOTHING)
    store.put(A, entry(1, b"x", utterance=1), b"", Mark(1, checksum(b"x")))
    assert [each.utterance for each in store.history(A)] == [1] and store.get(A)[1] == b"x"
    store.put(A, entry(2, b"y"), b"y", Mark(1, checksum(b"x")))


def test_quarantined_versions_are_kept_beside_the_history(make):
    store = make()
    store.put(A, entry(1, b"bad"), b"bad", NOTHING)
    store.quarantine(A, 1, "NaN")
    store.quarantine(A, 7, "is not there")
    assert store.get(A)[0].quarantined == "NaN"
    expected = store.get(A)[0].mark
    for version in range(2, 7):
        store.put(A, entry(version, b"x"), b"x", expected)
        expected = Mark(version, checksum(b"x"))
    assert [each.version for each in store.history(A)] == [6, 5, 4, 1]


def test_quotas_refuse_by_name_and_change_nothing(make):
    store = make()
    for name in "abc":
        store.put(Address("default", name), entry(1, b"x" * 100), b"x" * 100, NOTHING)
    with pytest.raises(QuotaError, match=r"3 states.*state\.tenant_keys"):
        store.put(A, entry(1, b"x"), b"x", NOTHING)
    with pytest.raises(QuotaError, match=r"400 bytes.*state\.tenant_bytes"):
        store.put(Address("default", "a"), entry(2, b"y" * 101), b"y" * 101, store.get(Address("default", "a"))[0].mark)
    assert store.keys("default") == ("a", "b", "c")
    store.put(Address("other", "a"), entry(1, b"x" * 400), b"x" * 400, NOTHING)  # a tenant of its own
    assert store.delete(Address("default", "b"))
    store.put(Address("default", "a"), entry(2, b"y" * 101), b"y" * 101, store.get(Address("default", "a"))[0].mark)


def test_old_sessions_are_swept_and_keys_are_not(make):
    store = make()
    for name, when in (("session/old", 1), ("session/new", 9), ("anna", 1)):
        store.put(Address("default", name), entry(when, b"x"), b"x", NOTHING)
    assert store.sweep(5.0) == 1 and store.keys("default") == ("anna", "session/new")


def test_threads_that_add_one_lose_none(make):
    store = make(Quota(4, 10_000, 10))

    def add() -> None:
        for _ in range(10):
            while True:
                found = store.get(A)
                number = int(found[1]) + 1 if found else 1
                try:
                    store.put(A, entry(number, b"%d" % number), b"%d" % number, found[0].mark if found else NOTHING)
                    break
                except ConflictError:
                    pass

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert store.get(A)[1] == b"40"


def test_what_is_deleted_is_not_in_the_file(tmp_path):
    store = DiskStore(tmp_path / "state.sqlite", Quota(8, 10**8, 10))
    secret = b"a voice that asked to be forgotten" * 1000
    store.put(A, entry(1, secret), secret, NOTHING)
    assert store.delete(A)
    store.close()  # the last connection takes the write-ahead log with it
    assert b"asked to be forgotten" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path):
    (tmp_path / "state.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreError, match=r"state\.sqlite: file is not a database"):
        DiskStore(tmp_path / "state.sqlite", QUOTA)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        DiskStore(tmp_path / "file" / "state.sqlite", QUOTA)


FULL = """
import resource, sys
from pathlib import Path
from asrlife_server.state.disk import DiskStore
from asrlife_server.state.entry import Address, Entry, Mark, NOTHING, Quota, StoreError, checksum
store = DiskStore(Path(sys.argv[1]), Quota(100, 10**9, 100))
address, mark = Address("default", "anna"), NOTHING
def put(version):
    blob = bytes([version]) * 50_000
    store.put(address, Entry(version, checksum(blob), len(blob), "base"), blob, mark)
    return Mark(version, checksum(blob))
mark = put(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
for version in range(2, 50):
    try:
        mark = put(version)
    except StoreError as error:
        print("refused", version, error)
        break
assert store.get(address)[0].version == version - 1 and store.get(address)[1] == bytes([version - 1]) * 50_000
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
mark = put(version)
print("and again", store.get(address)[0].version)
"""


def test_a_full_disk_is_an_error_that_changes_nothing_and_passes(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", FULL, str(tmp_path / "state.sqlite")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "refused" in ran.stdout and "state.sqlite: " in ran.stdout and "and again" in ran.stdout


def test_redis_that_is_killed_comes_back_with_what_it_had(tmp_path):
    server = RedisServer(tmp_path)
    with server as url:
        store = RedisStore(url, QUOTA, 1.0)
        store.put(A, entry(1, b"x"), b"x", NOTHING)
        server.kill()
        with pytest.raises(StoreError, match="redis: "):
            store.put(A, entry(2, b"y"), b"y", Mark(1, checksum(b"x")))
        server.start()
        assert store.get(A) == (entry(1, b"x"), b"x")
        store.put(A, entry(2, b"y"), b"y", Mark(1, checksum(b"x")))


def test_a_url_that_is_none_is_named():
    pytest.importorskip("redis")
    with pytest.raises(InputError, match=r"state\.url: "):
        RedisStore("http://nowhere", QUOTA, 1.0)
