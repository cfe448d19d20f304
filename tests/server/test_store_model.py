"""One model of a store for the three stores behind the interface."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asrlife_server.state.cloud import RedisStore
from asrlife_server.state.disk import DiskStore
from asrlife_server.state.entry import NOTHING, Address, ConflictError, Entry, Mark, QuotaError
from asrlife_server.state.memory import MemoryStore
from tests.server.redis_server import RedisServer
from tests.server.stores import BACKENDS, QUOTA, emptied, entry


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as url:
        yield url


KEYS = st.sampled_from(["a", "b", "session/c", "d"])
TENANTS = st.sampled_from(["default", "other"])


class Machine(RuleBasedStateMachine):
    """Every store does what a plain dictionary would."""

    store = None

    @initialize()
    def begin(self) -> None:
        self.store = self.open()
        self.model: dict[Address, list[tuple[Entry, bytes]]] = {}

    def teardown(self) -> None:
        if self.store is not None:
            self.store.close()

    @rule(tenant=TENANTS, key=KEYS, step=st.integers(1, 3), blob=st.binary(max_size=60), late=st.booleans())
    def put(self, tenant, key, step, blob, late) -> None:
        address = Address(tenant, key)
        versions = self.model.get(address, [])
        mark = versions[-1][0].mark if versions else NOTHING
        new = entry(mark.version + step, blob)
        expected = Mark(mark.version, "0" * 64) if late else mark
        after = [*versions, (new, blob)]
        sound = [each for each in after if not each[0].quarantined][-QUOTA.history :]
        bad = [each for each in after if each[0].quarantined][-QUOTA.history :]
        after = [each for each in after if each in sound or each in bad]
        tenants = {**{at: kept for at, kept in self.model.items() if at.tenant == tenant}, address: after}
        size = sum(len(each[1]) for kept in tenants.values() for each in kept)
        refused = ConflictError if late else QuotaError if len(tenants) > QUOTA.tenant_keys or size > QUOTA.tenant_bytes else None
        if refused:
            with pytest.raises(refused):
                self.store.put(address, new, blob, expected)
        else:
            self.store.put(address, new, blob, expected)
            self.model[address] = after

    @rule(tenant=TENANTS, key=KEYS)
    def delete(self, tenant, key) -> None:
        assert self.store.delete(Address(tenant, key)) == (self.model.pop(Address(tenant, key), None) is not None)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def quarantine(self, data) -> None:
        address = data.draw(st.sampled_from(sorted(self.model)))
        place = data.draw(st.integers(0, len(self.model[address]) - 1))
        found, blob = self.model[address][place]
        self.store.quarantine(address, found.version, "damaged")
        self.model[address][place] = Entry(**{**found.__dict__, "quarantined": "damaged"}), blob

    @rule(before=st.integers(0, 8))
    def sweep(self, before) -> None:
        stale = [at for at, kept in self.model.items() if at.key.startswith("session/") and kept[-1][0].time < before]
        assert self.store.sweep(before) == len(stale)
        for address in stale:
            del self.model[address]

    @rule()
    def open_again(self) -> None:
        self.store = self.reopened()

    @invariant()
    def says_the_same(self) -> None:
        if self.store is None:
            return
        for tenant in ("default", "other"):
            assert self.store.keys(tenant) == tuple(sorted(at.key for at in self.model if at.tenant == tenant))
        for address, kept in self.model.items():
            assert self.store.history(address) == tuple(found for found, _ in reversed(kept))
            assert [self.store.get(address, found.version) for found, _ in kept] == kept
            assert self.store.get(address) == kept[-1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_store_is_a_dictionary_with_rules(backend, tmp_path, request):
    url = request.getfixturevalue("redis_url") if backend == "redis" else ""

    class Here(Machine):
        def open(self):
            if backend == "redis":
                emptied(url)
            self.path = tmp_path / uuid.uuid4().hex
            self.memory = MemoryStore(QUOTA)
            return self.reopened()

        def reopened(self):
            if backend == "memory":
                return self.memory
            return DiskStore(self.path, QUOTA) if backend == "disk" else RedisStore(url, QUOTA, 5.0)

    Here.TestCase.settings = settings(
        max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    Here.TestCase("runTest").runTest()
