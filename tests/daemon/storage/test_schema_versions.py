"""Databases of earlier versions are upgraded as a whole or not at all.

`samples/version-23.sql` is what bgd 1.0 wrote: it is never changed.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from bgd.core.job import Conditions, JobId, Outcome, State
from bgd.daemon.storage import (
    change_stream,
    notifications,
    pruning,
    read,
    schedules,
    schema,
    submissions,
    summaries,
)
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.records import (
    AttemptEnd,
    JobEvent,
    QueueControls,
    QueueSetting,
    UnfinishedJob,
)
from bgd.daemon.storage.schema import COPY_KEPT, FIRST, VERSION, delete_old_copies
from bgd.daemon.storage.store import Store
from bgd.wire.views import JobError, JobProgress, Progress
from tests.daemon.storage.builders import (
    NOW,
    a_job,
    first_attempt,
    ids,
    new,
    put,
    restored,
    saves,
    sql,
    submitted,
    unfinished,
)
from tests.support import ROOT, wait_until

SAMPLE = Path(__file__).parent / "samples/version-23.sql"
ENV = {"PATH": "/usr/bin", "LANG": "C.UTF-8"}


def lay_down(path):
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SAMPLE.read_text())


def content_of(path):
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


async def test_failed_migration_leaves_the_file_unchanged(path, monkeypatch):
    store = await Store.open(path)
    await put(store, new(1))
    await store.close()
    broken = "ALTER TABLE jobs ADD COLUMN colour TEXT; INSERT INTO nowhere VALUES (1);"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
        patch.setattr(schema, "VERSION", VERSION + 1)
        with pytest.raises(StoreBroken) as refused:
            await Store.open(path)
    assert str(refused.value) == (
        f"database {path} cannot be upgraded from version {VERSION} of its tables to {VERSION + 1} (no such"
        " table: nowhere), and is unchanged: start the earlier bgd again, or `bgd --recover` restores the"
        " newest backup, if any; or move it away to start with an empty one"
    )

    store = await Store.open(path)

    assert await restored(store) == [new(1).job]
    assert "colour" not in {name for _, name, *_ in await sql(store, "PRAGMA table_info(jobs)")}
    await store.close()


@pytest.fixture
def is_next(monkeypatch):
    """Let this process be the next version, whose tables differ."""
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*schema.MIGRATIONS, "ALTER TABLE jobs ADD COLUMN colour TEXT;")
    )
    monkeypatch.setattr(schema, "VERSION", VERSION + 1)


@pytest.mark.usefixtures("is_next")
async def test_migration_that_makes_other_tables_than_a_new_file_has_is_undone(path):
    lay_down(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE INDEX of_somebody ON jobs (uid)")
    before = content_of(path)

    with pytest.raises(
        StoreBroken, match=rf"upgraded from version {FIRST} of its tables to {VERSION + 1} \(its tables"
    ):
        await Store.open(path)

    assert content_of(path) == before
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FIRST,)
        db.execute("DROP INDEX of_somebody")
    await (await Store.open(path)).close()


def test_database_of_before_1_0_is_refused_unchanged(path):
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = {FIRST - 1};"
            " CREATE TABLE jobs (id INTEGER PRIMARY KEY); INSERT INTO jobs VALUES (7);"
        )
    before = Path(path).read_bytes()

    with pytest.raises(StoreBroken) as refused:
        upgrade(path)

    assert str(refused.value) == (
        f"database {path} is from before bgd 1.0 (version {FIRST - 1} of its tables);"
        f" move it away: this bgd reads version {FIRST} and later"
    )
    assert Path(path).read_bytes() == before


def upgrade(path):
    schema.open_writable(path, keep_copy=True).close()


@pytest.mark.usefixtures("is_next")
def test_copy_for_the_earlier_bgd_is_kept_before_an_upgrade(path, caplog):
    lay_down(path)
    before = content_of(path)
    caplog.set_level("INFO")

    upgrade(path)

    copy = Path(f"{path}.version-{FIRST}")
    assert content_of(copy) == before
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert caplog.messages == [f"the tables of {path} are upgraded; an earlier bgd can read the copy {copy}"]

    upgrade(path)  # there is nothing to do
    delete_old_copies(path)
    assert copy.exists()
    os.utime(copy, (0, time.time() - COPY_KEPT - 60))
    delete_old_copies(path)
    assert [each.name for each in copy.parent.iterdir()] == ["bgd.db"]


def test_bgd_names_the_copy_that_it_can_read(path):
    upgrade(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    copy = Path(f"{path}.version-{VERSION}")
    copy.touch()

    with pytest.raises(StoreBroken, match=f"and `bgd --recover {copy}` puts a backup in its place"):
        upgrade(path)


@pytest.mark.usefixtures("is_next")
def test_upgrade_goes_on_without_room_for_a_copy(disk, caplog):
    path = str(disk / "bgd.db")
    lay_down(path)
    fill(disk / "ballast", leaving=3 * Path(path).stat().st_size - 4096)

    upgrade(path)

    assert caplog.messages == [
        f"no copy of {path} is kept before its tables are upgraded: [Errno 28] No space left on device"
    ]
    assert sorted(each.name for each in disk.iterdir()) == ["ballast", "bgd.db"]


def test_log_of_a_database_that_is_gone_is_not_taken_for_that_of_a_new_one(path):
    wal = Path(f"{path}-wal")
    with closing(schema.open_writable(path)) as db:
        db.execute("UPDATE meta SET generation = 7")
        left = wal.read_bytes()
    Path(path).unlink()
    wal.write_bytes(left)

    with closing(schema.open_writable(path)) as db:
        assert db.execute("SELECT generation FROM meta").fetchone() == (0,)

    assert Path(f"{path}-wal.old").read_bytes() == left


async def test_jobs_of_version_23_are_all_there(path):
    lay_down(path)
    blocked = Conditions(after=(JobId(3),), key="größe", slots=2)

    store = await Store.open(path)

    assert (await unfinished(store), await store.read(read.last_id)) == (
        [
            UnfinishedJob(a_job(1, State.SCHEDULED, due=NOW.elapsed + 60), None, None),
            UnfinishedJob(a_job(2, State.BLOCKED, queue="slow", conditions=blocked), None, None),
            UnfinishedJob(a_job(3, State.RUNNING, attempt=1), 3, "first-boot:launcher"),
            UnfinishedJob(a_job(4, State.STOPPING, attempt=1, making_way=True), 4, "first-boot:launcher"),
        ],
        7,  # which was removed
    )
    assert (await store.read(read.finished_jobs, [JobId(6)]))[JobId(6)] == a_job(
        6, State.FAILED, attempt=1, failures=1
    )
    queues = {"slow": QueueSetting(has_slots=True, slots=1)}
    assert await store.read(read.controls) == QueueControls(slots=3, paused=True, queues=queues)
    there = [State.SCHEDULED, State.BLOCKED, State.RUNNING, State.STOPPING, State.SUCCEEDED, State.FAILED]
    assert await store.read(summaries.counts) == {str(state): int(state in there) for state in State}
    view = await store.read(read.view, JobId(1))
    assert view is not None
    assert (view.argv, view.name, view.tags, view.due_at) == (
        ["/bin/echo", "1"],
        "größe 1",
        ["nightly", "t1"],
        NOW.wall + 60,
    )
    assert await ids(store, tag="nightly", queue="slow") == [2]
    assert await ids(store, name="größe*") == [1]
    stored = await store.read(read.read_spec, JobId(5))
    assert stored is not None
    assert stored.env == ENV
    (attempt,) = await store.read(read.attempts_of, JobId(5), 0, 10)
    assert (attempt.outcome, attempt.pid, attempt.log_bytes) == (Outcome.SUCCEEDED, 4005, 17)
    assert attempt.run_seconds == 1.5
    assert await store.read(read.result_of, JobId(5)) == ('"done"', None)
    assert await store.read(read.result_of, JobId(6)) == (
        None,
        JobError("ValueError", "no such file", "Traceback ..."),
    )
    told = JobProgress(3, 1, Progress(0.5, "half"))
    assert await store.search(read.progress_of, [JobId(1), JobId(3), JobId(9)]) == [told]
    assert await store.read(change_stream.event_bounds) == (1, 8)
    assert await store.read(pruning.leftovers) == [7]
    await store.close()


async def test_requests_schedules_and_notifications_of_version_23_are_all_there(path):
    lay_down(path)

    store = await Store.open(path)

    found = [await store.search(submissions.find_submission, bytes([number]) * 16, 0) for number in (1, 2, 7)]
    assert [(each.jobs, each.found) for each in found if each is not None] == [
        ([1], []),
        ([2, 1, 3], [1]),
        ([7], []),
    ]
    assert await store.search(submissions.find_submission, bytes([2]) * 16, 2) is None
    assert await store.read(submissions.last_line, bytes([9]) * 16) == 2
    assert list(await store.read(schedules.read_schedules)) == ["nightly"]
    (occurrence,) = await store.read(schedules.history, "nightly", 10)
    assert (occurrence.job, occurrence.due_at) == (2, NOW.wall)
    (fact,) = await sql(store, "SELECT target, event, job, queue FROM notify_facts")
    assert fact == ("ops", "failed", 6, "default")
    # a streak belongs to its schedule, name or job
    assert await sql(store, "SELECT subject, failures FROM streaks ORDER BY id") == [
        ("name x", 3),
        ("nightly", 2),
        ("job 6", 1),
    ]
    waiting = await store.read(notifications.waiting_messages)
    assert [(target, each.first.subject) for target, each in waiting.items()] == [("ops", "x")]
    await store.close()


async def test_jobs_of_version_23_run_on(path):
    lay_down(path)
    shared = "SELECT jobs FROM counts WHERE key < 'a' ORDER BY key"
    store = await Store.open(path)
    assert await sql(store, shared) == [(5,), (1,)]

    end = AttemptEnd(job=JobId(3), attempt=1, outcome=Outcome.SUCCEEDED, finished_at=NOW.wall + 20)
    await store.commit(
        submitted(
            new(8, env=ENV),
            saves={
                **saves(a_job(2, State.RUNNING, queue="slow", attempt=1), before=State.BLOCKED),
                **saves(a_job(3, State.SUCCEEDED, attempt=1), before=State.RUNNING),
            },
            attempts=[first_attempt(2)],
            ends=[end],
            removed=[a_job(6)],
            events=[JobEvent(NOW.wall, JobId(8), "submit", State.QUEUED, 0, None, None)],
        )
    )

    assert [job.id for job in await restored(store)] == [1, 2, 4, 8]
    (ended,) = await store.read(read.attempts_of, JobId(3), 0, 10)
    assert (ended.outcome, ended.pid) == (Outcome.SUCCEEDED, 4003)
    counts = {"scheduled": 1, "running": 1, "stopping": 1, "queued": 1, "succeeded": 2}
    assert await store.read(summaries.counts) == dict.fromkeys(map(str, State), 0) | counts
    assert await store.read(change_stream.event_bounds) == (1, 9)
    assert await sql(store, shared) == [(6,)]
    assert await sql(store, "SELECT logged FROM meta") == [(17,)]
    assert await sql(store, "PRAGMA integrity_check") == [("ok",)]
    await store.close()


MIGRATION_WITHOUT_END = """
import sys
from bgd.daemon.storage import schema
from bgd.daemon.storage.database import StoreBroken

schema.VERSION += 1
schema.MIGRATIONS += ('''
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999)
        INSERT INTO events SELECT i + 99, randomblob(1000) FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;
''',)
schema.open_writable(sys.argv[1])
"""


def kill_in_the_middle(command, log):
    with subprocess.Popen(command, cwd=ROOT) as migrating:
        try:
            wait_until(lambda: log.exists() and log.stat().st_size > 4 << 20)  # so a part of it is on disk
        finally:
            migrating.kill()


async def test_killed_migration_leaves_the_earlier_version(path):
    lay_down(path)
    before = content_of(path)
    kill_in_the_middle([sys.executable, "-c", MIGRATION_WITHOUT_END, path], Path(f"{path}-wal"))

    assert content_of(path) == before

    store = await Store.open(path)
    assert [job.id for job in await restored(store)] == [1, 2, 3, 4]
    await store.close()


@pytest.fixture
def disk(tmp_path):
    """Mount a small disk; return its folder."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: a disk of its own takes root")
    (folder := tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.usefixtures("is_next")
@pytest.mark.parametrize("room", [0, 8 << 10])  # bytes: not even for the log; not for all of it
async def test_migration_on_a_full_disk_leaves_the_earlier_version(disk, room):
    path = str(disk / "bgd.db")
    lay_down(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")  # as bgd leaves it
    before = content_of(path)
    fill(disk / "ballast", leaving=room)

    with pytest.raises(StoreBroken, match=r"disk full: .* make room on that disk"):
        await Store.open(path)

    (disk / "ballast").unlink()
    assert content_of(path) == before
    store = await Store.open(path)
    assert [job.id for job in await restored(store)] == [1, 2, 3, 4]
    await store.close()


def fill(path, leaving):
    """Fill the file's disk, except for `leaving` bytes."""
    with path.open("wb", buffering=0) as file:
        with suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(file.tell() - leaving)
