"""Columns that hold a structured value stay readable, whichever bgd wrote them.

The samples are bytes that were once stored: they are never changed. For a column that is new, run
`python -m tests.daemon.storage.test_old_columns`, which writes the samples that are missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from bgd.core.job import Conditions, Decision, JobId, NextStep, Outcome, RetryPolicy, State
from bgd.core.spec import Isolation, JobSpec
from bgd.daemon.storage import change_stream, read, records, schema, submissions, write
from bgd.daemon.storage.records import JobEvent, Submission
from bgd.wire.views import EventView
from tests.support import has_all_of

SAMPLES = Path(__file__).parent / "samples"

RULES = (
    ("app.errors.Busy", Decision(NextStep.RETRY, after=2.5)),
    ("app.errors.Wrong", Decision(NextStep.FAIL, rule="app.errors.Wrong")),
    ("app.errors.Later", Decision(NextStep.SNOOZE, until=1_790_000_100.5)),
)
POLICY = RetryPolicy(
    retries=3,
    delay=1.5,
    backoff=2.0,
    max_delay=60.0,
    jitter=0.25,
    rerun=True,
    retry_on=(1, 75),
    no_retry_on=(2,),
    on_exceptions=RULES,
)
WAITS = Conditions(after=(JobId(15), JobId(16)), after_any=(JobId(14),))
COMMAND = JobSpec(
    argv=("make", "-j2", "größer"),
    queue="narrow",
    priority=-7,
    name="build",
    tags=("nightly", "späť"),
    retries=3,
    retry_delay=5.0,
    backoff=2.0,
    max_delay=3600.0,
    jitter=0.1,
    retry_on=(1, 75),
    no_retry_on=(2,),
    rerun=True,
    timeout=600.0,
    delay=1.5,
    at=1_790_000_100.5,
    expires=60.0,
    after=(15, 16),
    after_any=(14,),
    key="nightly",
    slots=2,
    hold=True,
    cwd="/srv/app",
    umask=0o027,
    stdin="/srv/app/list",
    input=b"one\n\xff",
    pty=True,
    keep_leftovers=True,
    nice=5,
    memory_max=64_000_000,
    cpu_max=150,
    pids_max=200,
    open_files=100,
    core_max=0,
)
CALL = JobSpec(
    target="app.services:Report.build",
    arguments='{"args":[1],"kwargs":{"x":1.0}}',
    isolation=Isolation.REUSE,
)
VARIABLES = {"LANG": "C.UTF-8", "PATH": "/usr/bin"}
EVENTS = [
    JobEvent(1_790_000_002.75, JobId(17), "give up", State.FAILED, 4, Outcome.EXIT, "größer"),
    JobEvent(1_790_000_003.0, JobId(18), "submit", State.QUEUED, 0, None, None),
]
TOKEN = bytes(range(16))
SUBMISSION = Submission([17, 9], [9], JobId(17))

Column = tuple[str, str]  # the name of a sample, and the query for its column

COLUMNS: list[Column] = [
    ("policy", "SELECT policy FROM samples"),
    ("waits", "SELECT waits FROM samples"),
    ("spec", "SELECT spec FROM specs WHERE job = 1"),
    ("spec_of_call", "SELECT spec FROM specs WHERE job = 2"),
    ("variables", "SELECT variables FROM environments"),
    ("events", "SELECT packed FROM events"),
    ("submission", "SELECT answer FROM specs WHERE job = 17"),
]


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.msgpack").read_bytes()


@contextmanager
def tables() -> Iterator[sqlite3.Connection]:
    """Open an empty database of this version."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.row_factory = sqlite3.Row
        schema.create_tables(db, schema.VERSION)
        yield db


def stored_now() -> dict[str, bytes]:
    """Return each column as this version stores it."""
    with tables() as db:
        db.execute("CREATE TABLE samples (policy BLOB, waits BLOB)")
        db.execute(
            "INSERT INTO samples VALUES (?, ?)", (records.pack_policy(POLICY), records.pack_waits(WAITS))
        )
        command = msgspec.structs.replace(COMMAND, env=VARIABLES)
        specs = {JobId(1): command, JobId(2): CALL, JobId(17): CALL}
        stored = {job: records.StoredSpec.of(spec, 0, 0.0) for job, spec in specs.items()}
        write.SpecWriter().insert(db, stored, {TOKEN: SUBMISSION})
        change_stream.append_events(db, EVENTS, None)
        return {name: db.execute(query).fetchone()[0] for name, query in COLUMNS}


def test_policies_and_waits_are_still_readable():
    assert records.unpack_policy(sample("policy")) == POLICY
    assert records.unpack_waits(sample("waits")) == records.Waits(WAITS.after, WAITS.after_any)


def test_specs_are_still_readable():
    assert records.unpack_spec(sample("spec")) == COMMAND
    assert records.unpack_spec(sample("spec_of_call")) == CALL


def test_a_job_still_gets_its_environment():
    with tables() as db:
        db.execute("INSERT INTO environments VALUES (5, x'00', ?)", (sample("variables"),))
        db.execute("INSERT INTO specs (job, spec, environment) VALUES (1, ?, 5)", (sample("spec"),))
        db.execute(
            "INSERT INTO jobs (id, state, queue, priority, policy, attempt, failures, unseen, making_way,"
            " uid, created_at) VALUES (1, 'queued', 'narrow', 0, ?, 0, 0, 0, 0, 1000, 1790000000.25)",
            (sample("policy"),),
        )

        stored = read.read_spec(db, JobId(1))

    assert stored is not None
    assert stored.env == VARIABLES


def test_events_are_still_readable():
    with tables() as db:
        db.execute("INSERT INTO events VALUES (99, ?)", (sample("events"),))

        views = change_stream.read_events(db, 0, 10)

    assert views == [
        EventView(id=98 + number, **msgspec.structs.asdict(event)) for number, event in enumerate(EVENTS)
    ]


@pytest.mark.parametrize(
    "insert",
    [
        "INSERT INTO submissions VALUES (17, ?, ?, 12.5)",
        "INSERT INTO specs (job, spec, token, answer) VALUES (17, x'80', ?, ?)",
    ],
)
def test_submissions_are_still_readable(insert):
    with tables() as db:
        db.execute(insert, (TOKEN, sample("submission")))

        assert submissions.find_submission(db, TOKEN, 0) == SUBMISSION


@pytest.mark.parametrize("name", [name for name, _ in COLUMNS])
def test_column_is_still_stored_in_its_old_shape(name):
    assert has_all_of(msgspec.msgpack.decode(stored_now()[name]), msgspec.msgpack.decode(sample(name)))


if __name__ == "__main__":
    for each, packed in stored_now().items():
        path = SAMPLES / f"{each}.msgpack"
        if not path.exists():
            path.write_bytes(packed)
