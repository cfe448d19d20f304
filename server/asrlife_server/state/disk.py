"""The default store: one SQLite file; of each version the parts that the one before it does not have.

SQLite and not a file for each version, because a commit is then one transaction: the version is compared, the bytes are written, the
history is cut and the quota is kept together or not at all, between processes too, with one fsync; and no path is ever made of what a
client wrote. WAL, so that readers do not wait for a commit; synchronous=FULL, so that a commit that has returned survives a power cut.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

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

_FORMAT = 2
_PATIENCE = 5.0  # s to wait for another process that writes
_COLUMNS = [each.name for each in fields(Entry)]
_LIST = ", ".join(_COLUMNS)
_PLACES = ", ".join("?" * len(_COLUMNS))
_PARTS = """
CREATE TABLE IF NOT EXISTS parts (
  tenant TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, content BLOB NOT NULL, UNIQUE (tenant, key, name));
"""
_TABLE = f"""
CREATE TABLE IF NOT EXISTS versions (
  tenant TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, checksum TEXT NOT NULL, size INTEGER NOT NULL, base TEXT NOT NULL,
  method TEXT NOT NULL, settings TEXT NOT NULL, time REAL NOT NULL, steps INTEGER NOT NULL, drift REAL NOT NULL, session TEXT NOT NULL,
  utterance INTEGER NOT NULL, quarantined TEXT NOT NULL, names TEXT NOT NULL, UNIQUE (tenant, key, version));
{_PARTS}
CREATE INDEX IF NOT EXISTS usage ON versions (tenant, key, size);
PRAGMA user_version = {_FORMAT};
"""
# of format 1, where every version had all its bytes: they become its only part, by the name of its number
_WHOLE = f"""
BEGIN;
ALTER TABLE versions ADD COLUMN names TEXT NOT NULL DEFAULT '';
UPDATE versions SET names = CAST(version AS TEXT);
{_PARTS}
INSERT INTO parts SELECT tenant, key, names, blob FROM versions;
ALTER TABLE versions DROP COLUMN blob;
PRAGMA user_version = {_FORMAT};
COMMIT;
"""
_HERE = "tenant = ? AND key = ?"
_QUERY = f"SELECT {_LIST} FROM versions WHERE {_HERE}"


class DiskStore:
    """All states in the file `path`, made with its folders when it is absent; raises StoreError when it cannot be opened."""

    def __init__(self, path: Path, quota: Quota) -> None:
        self._path = path
        self._quota = quota
        self._lock = threading.Lock()
        with self._said():
            path.parent.mkdir(parents=True, exist_ok=True)
            # statements run one at a time under the lock, on whichever thread calls
            self._database = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            self._prepare()

    def put(self, address: Address, entry: Entry, blob: bytes, expected: Mark) -> None:
        """See Store."""
        check_succession(entry, expected)
        parts = Parts.of(blob)
        with self._transaction() as run:
            known = _entries(run(_QUERY, address))
            newest = max(known, key=lambda each: each.version, default=None)
            if (newest.mark if newest else NOTHING) != expected:
                raise conflict(address, expected, newest.version if newest else "nothing")
            if entry.mark == expected:
                run(
                    f"UPDATE versions SET ({_LIST}) = ({_PLACES}) WHERE {_HERE} AND version = ?", (*astuple(entry), *address, entry.version)
                )
                return
            _add(run, address, entry, parts, newest)
            for old in surplus([*known, entry], self._quota.history):
                run(f"DELETE FROM versions WHERE {_HERE} AND version = ?", (*address, old.version))
            _tidy(run, address)
            self._check_quota(run, address.tenant)

    def get(self, address: Address, version: int | None = None) -> Found | None:
        """See Store."""
        wanted = "ORDER BY version DESC LIMIT 1" if version is None else "AND version = ?"
        query = f"SELECT {_LIST}, names FROM versions WHERE {_HERE} {wanted}"
        with self._transaction("DEFERRED") as run:
            rows = run(query, (*address, *([] if version is None else [version])))
            return (Entry(*rows[0][:-1]), _joined(run, address, rows[0][-1])) if rows else None

    def history(self, address: Address) -> tuple[Entry, ...]:
        """See Store."""
        with self._transaction("DEFERRED") as run:
            return _entries(run(f"{_QUERY} ORDER BY version DESC", address))

    def quarantine(self, address: Address, version: int, reason: str) -> None:
        """See Store."""
        with self._transaction() as run:
            run(f"UPDATE versions SET quarantined = ? WHERE {_HERE} AND version = ?", (reason, *address, version))

    def delete(self, address: Address) -> bool:
        """See Store; what a speaker asks to be forgotten does not stay in free pages."""
        with self._transaction(erases=True) as run:
            return _erased(run, address)

    def keys(self, tenant: str) -> tuple[str, ...]:
        """See Store."""
        with self._transaction("DEFERRED") as run:
            return tuple(key for (key,) in run("SELECT DISTINCT key FROM versions WHERE tenant = ? ORDER BY key", (tenant,)))

    def sweep(self, before: float) -> int:
        """See Store."""
        newest = "SELECT tenant, key FROM versions WHERE substr(key, 1, ?) = ? GROUP BY tenant, key HAVING max(time) < ?"
        with self._transaction() as run:
            stale = run(newest, (len(SESSION), SESSION, before))
            return sum(_erased(run, Address(*address)) for address in stale)

    def close(self) -> None:
        """See Store."""
        with self._lock, self._said():
            self._database.close()

    def _prepare(self) -> None:
        run = self._database.execute
        format_found = run("PRAGMA user_version").fetchone()[0]
        if format_found not in (0, 1, _FORMAT):
            raise StoreError(f"{self._path}: has format {format_found}, this version reads {_FORMAT}; name another file (state.path)")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA secure_delete = FAST")  # the next version takes the pages of one that leaves the history
        if format_found == 1:
            self._database.executescript(_WHOLE)
        self._database.executescript(_TABLE)

    def _check_quota(self, run: Any, tenant: str) -> None:
        ((keys, size),) = run("SELECT count(DISTINCT key), coalesce(sum(size), 0) FROM versions WHERE tenant = ?", (tenant,))
        check_quota(self._quota, keys, size)

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE", erases: bool = False) -> Iterator[Any]:
        def run(query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
            return self._database.execute(query, values).fetchall()

        with self._lock, self._said():
            self._database.execute(f"PRAGMA secure_delete = {'ON' if erases else 'FAST'}")
            self._database.execute(f"BEGIN {kind}")
            try:
                yield run
                self._database.execute("COMMIT")
            finally:
                # over after COMMIT, and where a full disk has rolled back already
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}") from error


def _entries(rows: Sequence[tuple[Any, ...]]) -> tuple[Entry, ...]:
    return tuple(Entry(*row) for row in rows)


def _add(run: Any, address: Address, entry: Entry, parts: Parts, before: Entry | None) -> None:
    """Write a version: what the one before it has is there already, unless that is not to be believed."""
    there = "" if before is None or before.quarantined else _names(run, address, before.version)
    for name, content in parts.beside(there).items():
        run("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", (*address, name, content))
    run(f"INSERT INTO versions (tenant, key, {_LIST}, names) VALUES (?, ?, {_PLACES}, ?)", (*address, *astuple(entry), parts.text))


def _names(run: Any, address: Address, version: int) -> str:
    return str(run(f"SELECT names FROM versions WHERE {_HERE} AND version = ?", (*address, version))[0][0])


def _joined(run: Any, address: Address, names: str) -> bytes:
    found = [run(f"SELECT content FROM parts WHERE {_HERE} AND name = ?", (*address, name)) for name in names.split()]
    return b"".join(row[0][0] for row in found if row)  # without a part, the checksum will not agree


def _tidy(run: Any, address: Address) -> None:
    """Forget the parts that no version has any more."""
    used = {name for (names,) in run(f"SELECT names FROM versions WHERE {_HERE}", address) for name in names.split()}
    for (name,) in run(f"SELECT name FROM parts WHERE {_HERE}", address):
        if name not in used:
            run(f"DELETE FROM parts WHERE {_HERE} AND name = ?", (*address, name))


def _erased(run: Any, address: Address) -> bool:
    run(f"DELETE FROM parts WHERE {_HERE}", address)
    return bool(run(f"DELETE FROM versions WHERE {_HERE} RETURNING 1", address))
