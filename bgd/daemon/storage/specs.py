"""Specs on disk: each job's own, and each environment once for all jobs that share it."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from bgd.core.job import JobId
from bgd.core.spec import JobSpec
from bgd.daemon.storage.database import change
from bgd.daemon.storage.records import StoredSpec

_MOST_KNOWN = 4096  # environments whose hash is remembered, some 100 bytes each

_encode = msgspec.msgpack.Encoder().encode
_encode_sorted = msgspec.msgpack.Encoder(order="sorted").encode
# a limit of JobSpec may be widened, never narrowed: what was stored under it is read through it
_decode_spec = msgspec.msgpack.Decoder(JobSpec).decode
_decode_variables = msgspec.msgpack.Decoder(dict[str, str]).decode


class Specs:
    """Writes specs, each time inside the caller's transaction.

    It remembers environments it has stored, so that a known one costs no SQL; `forget` after a rollback,
    which may have taken some of them away.
    """

    def __init__(self) -> None:
        self._environments: dict[bytes, int] = {}

    def insert(self, db: sqlite3.Connection, specs: dict[JobId, JobSpec]) -> None:
        rows = self._rows(db, specs)
        db.executemany("INSERT INTO specs (spec, environment, job) VALUES (?, ?, ?)", rows)
        _share(db, rows)
        _insert_tags(db, specs)

    def edit(self, db: sqlite3.Connection, specs: dict[JobId, JobSpec]) -> None:
        """Put these in place of what the jobs had, also where lists select by it."""
        _remove_tags(db, specs)
        rows = self._rows(db, specs)
        before = _environments_of(db, specs)
        change(db, "UPDATE specs SET spec = ?, environment = ? WHERE job = ?", rows)
        _share(db, rows)
        self._part_with(db, before)
        change(db, "UPDATE jobs SET name = ? WHERE id = ?", [(spec.name, job) for job, spec in specs.items()])
        _insert_tags(db, specs)

    def remove(self, db: sqlite3.Connection, job_ids: list[JobId]) -> None:
        """Remove specs and tags, and the environments that no other job has."""
        _remove_tags(db, job_ids)
        before = _environments_of(db, job_ids)
        db.executemany("DELETE FROM specs WHERE job = ?", [(job_id,) for job_id in job_ids])
        self._part_with(db, before)

    def forget(self) -> None:
        self._environments.clear()

    def _part_with(self, db: sqlite3.Connection, before: Counter[int]) -> None:
        """Let so many jobs no longer share each of these environments."""
        db.executemany(_UNSHARE, [(jobs, environment) for environment, jobs in before.items()])
        marks = [(environment,) for environment in before]
        if db.executemany(_DROP_UNSHARED, marks).rowcount > 0:
            db.executemany("DELETE FROM sharing WHERE environment = ? AND jobs = 0", marks)
            self.forget()

    def _rows(
        self, db: sqlite3.Connection, specs: dict[JobId, JobSpec]
    ) -> list[tuple[bytes, int | None, JobId]]:
        rows: list[tuple[bytes, int | None, JobId]] = []
        seen: dict[int, int] = {}  # jobs of one request share one dict: hash it once
        for job_id, spec in specs.items():
            if spec.env is None:
                rows.append((_encode(spec), None, job_id))
                continue
            environment = seen.get(id(spec.env))
            if environment is None:
                environment = seen[id(spec.env)] = self._environment_id(db, spec.env)
            rows.append((_encode(replace(spec, env=None)), environment, job_id))
        return rows

    def _environment_id(self, db: sqlite3.Connection, env: dict[str, str]) -> int:
        variables = _encode_sorted(env)
        content = hashlib.blake2b(variables, digest_size=32).digest()
        known = self._environments.get(content)
        if known is not None:
            return known
        row = db.execute("SELECT id FROM environments WHERE hash = ?", (content,)).fetchone()
        if row is None:
            db.execute("INSERT INTO environments (hash, variables) VALUES (?, ?)", (content, variables))
            row = db.execute("SELECT last_insert_rowid()").fetchone()
        if len(self._environments) >= _MOST_KNOWN:
            self._environments.clear()
        known = self._environments[content] = int(row[0])
        return known


def read_spec(db: sqlite3.Connection, job_id: JobId) -> StoredSpec | None:
    row = db.execute(_READ, (job_id,)).fetchone()
    if row is None:
        return None
    packed, variables, uid, created_at = row
    spec = _decode_spec(packed)
    if variables is not None:
        spec = replace(spec, env=_decode_variables(variables))
    return StoredSpec(spec, uid, created_at)


def unpack_spec(packed: bytes) -> JobSpec:
    """Return a spec as its own row has it, without its environment."""
    return _decode_spec(packed)


def _share(db: sqlite3.Connection, rows: list[tuple[bytes, int | None, JobId]]) -> None:
    shared = Counter(environment for _, environment, _ in rows if environment is not None)
    db.executemany(_SHARE, shared.items())


def _environments_of(db: sqlite3.Connection, job_ids: Iterable[JobId]) -> Counter[int]:
    """Return how many of these jobs have each environment."""
    found: Counter[int] = Counter()
    for job_id in dict.fromkeys(job_ids):  # two people may have asked for the same
        row = db.execute("SELECT environment FROM specs WHERE job = ?", (job_id,)).fetchone()
        if row is not None and row[0] is not None:
            found[row[0]] += 1
    return found


def _insert_tags(db: sqlite3.Connection, specs: dict[JobId, JobSpec]) -> None:
    tags = [(tag, job_id) for job_id, spec in specs.items() for tag in dict.fromkeys(spec.tags)]
    if tags:
        db.executemany("INSERT INTO tags VALUES (?, ?)", tags)


def _remove_tags(db: sqlite3.Connection, job_ids: Iterable[JobId]) -> None:
    """Remove the tags that the stored specs name: the table finds jobs by tag, not tags by job."""
    for job_id in job_ids:
        row = db.execute("SELECT spec FROM specs WHERE job = ?", (job_id,)).fetchone()
        if row is not None:
            tags = [(tag, job_id) for tag in _decode_spec(row[0]).tags]
            db.executemany("DELETE FROM tags WHERE tag = ? AND job = ?", tags)


_SHARE = "INSERT INTO sharing VALUES (?, ?) ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs"
_UNSHARE = "UPDATE sharing SET jobs = jobs - ? WHERE environment = ?"
_DROP_UNSHARED = """
    DELETE FROM environments
    WHERE id = ? AND (SELECT jobs FROM sharing WHERE environment = environments.id) = 0
"""

_READ = """
    SELECT spec, variables, uid, created_at
    FROM specs JOIN jobs ON jobs.id = specs.job LEFT JOIN environments ON environments.id = specs.environment
    WHERE specs.job = ?
"""
