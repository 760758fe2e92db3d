"""The database file: its tables, how it is created, and how an earlier version is upgraded."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from bgd.daemon.storage.database import DAMAGED, FORBIDDEN, PRIMARY, StoreBroken, StoreTooNew, fsync_path

logger = logging.getLogger(__name__)

APPLICATION_ID = int.from_bytes(b"bgd\0", "big")  # in the file's header: distinguishes our files from others

# MIGRATIONS[n] turns version n into n + 1. Never edit one that was released: add the next one. SQLite also
# stores comments inside a CREATE statement.
MIGRATIONS: tuple[str, ...] = (
    """
    -- One row. last_id stays when the rows of jobs are deleted, so that no id is given out twice.
    CREATE TABLE meta (
        store_id TEXT NOT NULL, generation INTEGER NOT NULL, last_id INTEGER NOT NULL, boot_id TEXT NOT NULL
    );
    INSERT INTO meta VALUES (lower(hex(randomblob(16))), 0, 0, '');

    -- Hot and narrow: what the Scheduler decides by and what lists select by. due_elapsed is on the clock of
    -- the boot meta.boot_id; every ..._at is epoch time. started_at is that of the latest attempt; outcome,
    -- exit_code and signal are those of the latest attempt that has ended.
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY, state TEXT NOT NULL, queue TEXT NOT NULL, priority INTEGER NOT NULL,
        policy BLOB NOT NULL, attempt INTEGER NOT NULL, failures INTEGER NOT NULL, unseen INTEGER NOT NULL,
        due_elapsed REAL, making_way INTEGER NOT NULL,
        uid INTEGER NOT NULL, name TEXT, created_at REAL NOT NULL, due_at REAL, started_at REAL,
        finished_at REAL, outcome TEXT, exit_code INTEGER, signal INTEGER, reason TEXT
    );
    -- Every index ends in the id: it gives the newest first, within a state or a user's jobs of a state.
    CREATE INDEX jobs_by_state ON jobs (state);
    CREATE INDEX jobs_by_user ON jobs (uid, state);

    -- Cold: written once, read when the job starts and when somebody asks. spec is a JobSpec without env.
    CREATE TABLE specs (job INTEGER PRIMARY KEY, spec BLOB NOT NULL, environment INTEGER);
    CREATE TABLE environments (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, variables BLOB NOT NULL);
    CREATE TABLE tags (tag TEXT NOT NULL, job INTEGER NOT NULL, PRIMARY KEY (tag, job)) WITHOUT ROWID;

    -- launcher becomes NULL when the attempt ends: it only says which launcher has an unfinished attempt.
    CREATE TABLE attempts (
        job INTEGER NOT NULL, attempt INTEGER NOT NULL, slot INTEGER NOT NULL, launcher TEXT,
        launched_at REAL NOT NULL, pid INTEGER, started_at REAL, outcome TEXT, exit_code INTEGER,
        signal INTEGER, finished_at REAL, user_seconds REAL, system_seconds REAL, max_rss_bytes INTEGER,
        log_bytes INTEGER, PRIMARY KEY (job, attempt)
    ) WITHOUT ROWID;
    CREATE TABLE results (
        job INTEGER NOT NULL, attempt INTEGER NOT NULL, result TEXT, error TEXT, PRIMARY KEY (job, attempt)
    );

    -- Triggers count jobs as they change state: there may be a million, too many to count for each request.
    -- New jobs are counted by the code that inserts them, thousands in one statement.
    CREATE TABLE counts (state TEXT PRIMARY KEY, jobs INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counts VALUES ('scheduled', 0), ('queued', 0), ('running', 0), ('stopping', 0),
                              ('succeeded', 0), ('failed', 0), ('cancelled', 0);
    CREATE TRIGGER count_moved AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
        UPDATE counts SET jobs = jobs - 1 WHERE state = old.state;
        UPDATE counts SET jobs = jobs + 1 WHERE state = new.state;
    END;
    CREATE TRIGGER count_gone AFTER DELETE ON jobs BEGIN
        UPDATE counts SET jobs = jobs - 1 WHERE state = old.state;
    END;
    """,
    """
    -- What only some jobs have. wall_due is Conditions.at. expires_elapsed and expires_at are one instant on
    -- two clocks, like due_elapsed and due_at. waits is MessagePack of [after, after_any], NULL if both are
    -- empty.
    ALTER TABLE jobs ADD COLUMN wall_due REAL;
    ALTER TABLE jobs ADD COLUMN expires_elapsed REAL;
    ALTER TABLE jobs ADD COLUMN expires_at REAL;
    ALTER TABLE jobs ADD COLUMN waits BLOB;
    ALTER TABLE jobs ADD COLUMN key TEXT;
    ALTER TABLE jobs ADD COLUMN slots INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE jobs ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN snoozes INTEGER NOT NULL DEFAULT 0; -- attempts that ended so, for people
    INSERT INTO counts VALUES ('held', 0), ('blocked', 0);

    -- Everything that lists select by, newest first within a state, so that a list reads nothing else. An
    -- index of all queues would slow down every change of a job, so the default queue is not in it.
    DROP INDEX jobs_by_state;
    CREATE INDEX jobs_by_state ON jobs (state, id, name, queue, created_at, uid);
    DROP INDEX jobs_by_user;
    CREATE INDEX jobs_by_user ON jobs (uid);
    CREATE INDEX jobs_by_queue ON jobs (queue, state) WHERE queue <> 'default';

    -- The change stream. A row holds the events of one transaction as a MessagePack array. The last of them
    -- has this id, and those before it have the ids before it. Once there is a row, the newest one stays.
    CREATE TABLE events (last INTEGER PRIMARY KEY, packed BLOB NOT NULL);

    -- What people have set. meta.slots NULL means as configured; queues.slots counts only if has_slots, and
    -- NULL then means no limit.
    ALTER TABLE meta ADD COLUMN slots INTEGER;
    ALTER TABLE meta ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE queues (
        name TEXT PRIMARY KEY, has_slots INTEGER NOT NULL, slots INTEGER, paused INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    -- Finished jobs are deleted, those that finished first. logged: bytes of logs on disk, of one job or all.
    ALTER TABLE jobs ADD COLUMN logged INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN logged INTEGER NOT NULL DEFAULT 0;
    UPDATE jobs SET logged = (SELECT total(log_bytes) FROM attempts WHERE job = jobs.id)
        WHERE id IN (SELECT job FROM attempts WHERE log_bytes > 0);
    UPDATE meta SET logged = (SELECT total(logged) FROM jobs);
    CREATE INDEX jobs_by_end ON jobs (state, finished_at) WHERE finished_at IS NOT NULL;
    DROP TRIGGER count_gone;
    CREATE TRIGGER count_gone AFTER DELETE ON jobs BEGIN
        UPDATE counts SET jobs = jobs - 1 WHERE state = old.state;
        UPDATE meta SET logged = logged - old.logged WHERE old.logged <> 0;
    END;

    -- Jobs that were deleted and whose logs may still be on disk.
    CREATE TABLE leftovers (job INTEGER PRIMARY KEY);

    -- How many jobs share an environment: it is deleted with the last of them.
    CREATE TABLE sharing (environment INTEGER PRIMARY KEY, jobs INTEGER NOT NULL);
    INSERT INTO sharing
        SELECT environment, count(*) FROM specs WHERE environment IS NOT NULL GROUP BY environment;
    DELETE FROM environments WHERE id NOT IN (SELECT environment FROM sharing);

    -- Progress of the latest attempt: a fraction of 1, and a message.
    ALTER TABLE jobs ADD COLUMN progress REAL;
    ALTER TABLE jobs ADD COLUMN progress_message TEXT;

    -- Recent requests that made jobs, by the first new job: one that is sent again makes no job. jobs is
    -- MessagePack of all ids in the answer and of those that were not new; NULL means only `first`.
    CREATE TABLE submissions (first INTEGER PRIMARY KEY, token BLOB NOT NULL, jobs BLOB, at REAL NOT NULL);

    -- From an attempt's control group, if it had one of its own.
    ALTER TABLE attempts ADD COLUMN whole_tree INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE attempts ADD COLUMN memory_peak_bytes INTEGER;
    """,
    """
    -- Retention's own clock, which nobody can set: elapsed time of the boot meta.boot_id, plus age_ahead.
    -- aged_from is when a job ended on this clock. age_noted and wall_noted are one moment on it and on the
    -- wall clock, from which the next boot continues. Jobs that had finished before keep the wall clock.
    ALTER TABLE jobs ADD COLUMN aged_from REAL;
    ALTER TABLE meta ADD COLUMN age_ahead REAL;
    ALTER TABLE meta ADD COLUMN age_noted REAL;
    ALTER TABLE meta ADD COLUMN wall_noted REAL;
    UPDATE jobs SET aged_from = finished_at WHERE finished_at IS NOT NULL;
    DROP INDEX jobs_by_end;
    CREATE INDEX jobs_by_end ON jobs (state, aged_from) WHERE aged_from IS NOT NULL;
    """,
    """
    -- How long jobs wait and run, even if the wall clock is set: created_aged and started_aged are on
    -- retention's clock; run_seconds is what the launcher measured. Earlier jobs have only the wall clock.
    ALTER TABLE jobs ADD COLUMN created_aged REAL;
    ALTER TABLE attempts ADD COLUMN started_aged REAL;
    ALTER TABLE attempts ADD COLUMN run_seconds REAL;
    UPDATE jobs SET created_aged = created_at;
    UPDATE attempts SET started_aged = coalesce(started_at, launched_at),
                        run_seconds = iif(finished_at >= started_at, finished_at - started_at, NULL);
    """,
    """
    -- 1: an older copy of itself, so the jobs that wait in it may have run since; the next start holds them.
    ALTER TABLE meta ADD COLUMN is_outdated INTEGER NOT NULL DEFAULT 0;
    """,
    """
    -- Due times are only on the elapsed clock of the boot meta.boot_id. The wall clock is wall_ahead ahead of
    -- it, so that setting the wall clock changes one row.
    ALTER TABLE meta ADD COLUMN wall_ahead REAL;
    UPDATE meta SET wall_ahead = coalesce(
        (SELECT coalesce(due_at - due_elapsed, expires_at - expires_elapsed) FROM jobs
         WHERE state IN ('held', 'blocked', 'scheduled', 'queued')
               AND (due_elapsed IS NOT NULL OR expires_elapsed IS NOT NULL) ORDER BY id DESC LIMIT 1),
        wall_noted - age_noted + age_ahead
    );
    ALTER TABLE meta DROP COLUMN wall_noted;
    ALTER TABLE jobs DROP COLUMN due_at;
    ALTER TABLE jobs DROP COLUMN expires_at;
    """,
    """
    -- A commit writes whole pages: what every submit changes stands in as few tables as can be.

    -- How many jobs are in a state, by its name; how many share an environment, by its id.
    DROP TRIGGER count_moved;
    DROP TRIGGER count_gone;
    ALTER TABLE counts RENAME TO state_counts;
    CREATE TABLE counts (key TEXT PRIMARY KEY, jobs INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counts SELECT state, jobs FROM state_counts UNION ALL SELECT environment, jobs FROM sharing;
    DROP TABLE state_counts;
    DROP TABLE sharing;
    CREATE TRIGGER count_moved AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
        UPDATE counts SET jobs = jobs + iif(key = new.state, 1, -1) WHERE key IN (old.state, new.state);
    END;
    -- meta.last_id grows when jobs are deleted: the last id that was given out is this or the highest job.
    CREATE TRIGGER count_gone AFTER DELETE ON jobs BEGIN
        UPDATE counts SET jobs = jobs - 1 WHERE key = old.state;
        UPDATE meta SET logged = logged - old.logged, last_id = max(last_id, old.id);
    END;

    -- A job that is the first new one of a request has the request's token, and an answer as in
    -- submissions.jobs. When it is deleted, submissions takes these over for a while: `at` is now when the
    -- job was created, on retention's clock.
    ALTER TABLE specs ADD COLUMN token BLOB;
    ALTER TABLE specs ADD COLUMN answer BLOB;
    UPDATE specs SET (token, answer) = (SELECT token, jobs FROM submissions WHERE first = specs.job)
        WHERE job IN (SELECT first FROM submissions);
    DELETE FROM submissions WHERE first IN (SELECT job FROM specs);
    UPDATE submissions SET at = at + coalesce((SELECT age_ahead FROM meta), 0);

    -- A user's newest job is found by state, like a list. Rare names are found without reading all jobs.
    DROP INDEX jobs_by_user;
    CREATE INDEX jobs_by_name ON jobs (name) WHERE name IS NOT NULL;
    """,
    """
    -- The processes that an attempt left behind and that were ended, in words.
    ALTER TABLE attempts ADD COLUMN leftovers TEXT;
    """,
    """
    -- spec is a ScheduleSpec; uid NULL: it is from the configuration; paused NULL: as the spec says. What
    -- became of all occurrences until seen_at is in occurrences, a row for each or for `count` in a row.
    CREATE TABLE schedules (
        name TEXT PRIMARY KEY, spec BLOB NOT NULL, uid INTEGER, paused INTEGER, seen_at REAL NOT NULL,
        boot_id TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE occurrences (
        id INTEGER PRIMARY KEY, schedule TEXT NOT NULL, due_at REAL NOT NULL, result TEXT NOT NULL,
        job INTEGER, reason TEXT, count INTEGER NOT NULL
    );
    CREATE INDEX occurrences_by_schedule ON occurrences (schedule);
    CREATE INDEX occurrences_by_job ON occurrences (schedule, job) WHERE job IS NOT NULL;
    """,
    """
    -- 1: its job had not finished in time.
    ALTER TABLE occurrences ADD COLUMN late INTEGER NOT NULL DEFAULT 0;
    """,
    """
    -- What runs an attempt; NULL: this machine, as it is.
    ALTER TABLE attempts ADD COLUMN executor TEXT;
    ALTER TABLE attempts ADD COLUMN executor_kind TEXT;
    """,
    """
    -- Which lines of batches were taken: `count` lines from `line` on became as many jobs from `job` on.
    -- `at` is when, on retention's clock.
    CREATE TABLE batches (
        batch BLOB NOT NULL, line INTEGER NOT NULL, job INTEGER NOT NULL, count INTEGER NOT NULL,
        at REAL NOT NULL, PRIMARY KEY (batch, line)
    ) WITHOUT ROWID;
    CREATE INDEX batches_by_time ON batches (at);
    """,
    """
    -- notify: the target that the job itself names. schedule: the one that the job is of.
    ALTER TABLE jobs ADD COLUMN notify TEXT;
    ALTER TABLE jobs ADD COLUMN schedule TEXT;

    -- What a target may get a message about, oldest first. The transaction of the decision deletes the row.
    CREATE TABLE notify_facts (
        id INTEGER PRIMARY KEY, target TEXT NOT NULL, event TEXT NOT NULL, at REAL NOT NULL, job INTEGER,
        name TEXT, schedule TEXT, queue TEXT, outcome TEXT, exit_code INTEGER, signal INTEGER,
        attempts INTEGER, reason TEXT, due_at REAL, count INTEGER
    );
    CREATE INDEX notify_facts_by_target ON notify_facts (target);

    -- Failures in a row. A job without a name has a streak of its own, which goes with the job.
    CREATE TABLE streaks (
        id INTEGER PRIMARY KEY, target TEXT NOT NULL, subject TEXT NOT NULL, failures INTEGER NOT NULL,
        is_notified INTEGER NOT NULL, job INTEGER, UNIQUE (target, subject)
    );
    CREATE INDEX streaks_by_job ON streaks (job) WHERE job IS NOT NULL;

    -- Messages that wait until their target may get another one: MessagePack of a Waiting.
    CREATE TABLE notify_waiting (target TEXT PRIMARY KEY, waiting BLOB NOT NULL) WITHOUT ROWID;
    """,
    """
    -- MessagePack, NULL for nothing: what a job asks for, as in Conditions.resources, and the tokens that an
    -- attempt holds or held, by resource.
    ALTER TABLE jobs ADD COLUMN resources BLOB;
    ALTER TABLE attempts ADD COLUMN tokens BLOB;
    """,
    """
    -- Where a cluster runs an attempt.
    ALTER TABLE attempts ADD COLUMN node TEXT;
    """,
    """
    -- The subject of a streak is a schedule, 'name NAME' or 'job ID'; a name was as it is before. What is the
    -- name of a schedule too becomes the schedule's. REPLACE: jobs may have such names already.
    UPDATE OR REPLACE streaks SET subject = 'name ' || subject
    WHERE job IS NULL AND subject NOT IN (SELECT name FROM schedules);
    """,
    """
    -- A trigger took half the time of moving a job: whoever writes the jobs counts those that have moved.
    DROP TRIGGER count_moved;
    """,
)
VERSION = len(MIGRATIONS)

# For databases of unreleased versions 10 and 14 to 16, by what only their tables have. RENAME quotes the new
# name, which would be another schema, so tables are made again.
_REPAIRS = {
    "changed_at": "ALTER TABLE schedules DROP COLUMN changed_at;",
    "is_told": f"""
        ALTER TABLE streaks RENAME TO told;
        DROP INDEX streaks_by_job;
        {MIGRATIONS[13].partition(" ADD COLUMN schedule TEXT;")[2]}
        INSERT INTO notify_facts SELECT * FROM untold;
        INSERT INTO streaks SELECT * FROM told;
        INSERT INTO notify_waiting SELECT * FROM postponed;
        DROP TABLE untold;
        DROP TABLE told;
        DROP TABLE postponed;
    """,  # noqa: S608 (a constant)
}
_HAS_SQL = "SELECT 1 FROM sqlite_master WHERE instr(sql, ?)"

COPY_KEPT = 7 * 86_400.0  # seconds that a copy from before an upgrade is kept

_OTHER_TABLES = "its tables are not as bgd made them"

# These are problems with the content, not with the disk
_CONTENT_ERRORS = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
# Page size of a new file in bytes; files of an earlier bgd have 4096. A commit changes some hundred bytes and
# writes whole pages, so small ones write less. 1024 would slow down a scan of a million jobs by a quarter.
_PAGE = 2048
_CHECKPOINT = 4_096_000  # bytes in the -wal file after which SQLite moves them into the database
_PATIENCE = 15.0  # seconds until other programs that read the file are done: more than doctor.PATIENCE
_ROOM = 3  # times its size that a database takes during an upgrade: itself again, a copy, the -wal file
_WAL_SHARE = 32  # on a small disk the -wal file takes about 1/32 of it


def open_writable(path: str, *, keep_copy: bool = False) -> sqlite3.Connection:
    """Open the one connection that writes; create the file, or upgrade it to this version.

    `keep_copy`: before an upgrade, write a copy for the earlier bgd if there is room.

    Raises:
        StoreBroken: the file belongs to another program or a newer bgd, or it is damaged.
        sqlite3.Error: SQLite cannot use it.
    """
    _create(path)
    db = sqlite3.connect(_uri(path), uri=True, isolation_level=None, timeout=_PATIENCE)
    try:
        version = version_of(db, path)  # before changing anything: the file may not be ours
        _set_up(db, path)
        if keep_copy and 0 < version < VERSION:
            _keep_copy(db, path, version)
        _upgrade(db, path, version)
    except BaseException:
        db.close()
        raise
    return db


def open_readable(path: str) -> sqlite3.Connection:
    """Open a connection that can only read, besides the one that writes."""
    db = sqlite3.connect(f"{_uri(path)}&mode=ro", uri=True, isolation_level=None)
    db.execute("PRAGMA trusted_schema = OFF")
    return db


def _uri(path: str) -> str:
    """Return the URI of a file that no other process can open while a connection of this one writes to it.

    So the index of the -wal file is in this process's memory. Otherwise it is in a -shm file that is mapped,
    and SIGBUS ends the process if a copy-on-write file system has no room for a page that changes.
    """
    return f"file:{quote(os.fsencode(path))}?vfs=unix-excl"


def version_of(db: sqlite3.Connection, path: str) -> int:
    """Return the version of the file's tables.

    Raises:
        StoreBroken: the file is empty, or belongs to another program or a newer bgd.
    """
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not (application or version or tables):
        raise StoreBroken(f"database {path} is empty; bgd never leaves an empty database", DAMAGED)
    if application != APPLICATION_ID:
        raise StoreBroken(
            f"database {path} belongs to another program", "move it away, or choose another state_dir"
        )
    if version > VERSION:
        copy = copy_name(path, VERSION)
        known = f" {copy}" if os.path.exists(copy) else ""  # noqa: PTH110 - a plain string here
        raise StoreTooNew(
            f"database {path} was written by a newer bgd (version {version} of its tables, this bgd knows"
            f" up to {VERSION})",
            "install that bgd again; or move it away with its -wal file, and"
            f" `bgd --recover{known}` puts a backup in its place",
        )
    return int(version)


def check(db: sqlite3.Connection, path: str, version: int, pages: str = "quick_check") -> None:
    """Check the whole file; takes a second for some hundred megabytes. `pages` is a check of SQLite's.

    Raises:
        StoreBroken: it is damaged, or its tables are not those of this version.
    """
    _check_pages(db, path, pages)
    if not _has_sound_tables(db, version):
        raise StoreBroken(f"database {path} is damaged ({_OTHER_TABLES})", DAMAGED)


def _check_pages(db: sqlite3.Connection, path: str, pages: str = "quick_check") -> None:
    (verdict,) = db.execute(f"PRAGMA {pages}(1)").fetchone()
    if verdict != "ok":
        on_one_line = " ".join(verdict.split())
        raise StoreBroken(f"database {path} is damaged ({on_one_line})", DAMAGED)


def _has_sound_tables(db: sqlite3.Connection, version: int) -> bool:
    """Return whether tables and indices are those of this version: sound pages may still hold wrong ones."""
    return _schema_of(db) == _sound_schema(version)


def _create(path: str) -> None:
    """Create the file with mode 0600, which SQLite gives to the -wal as well.

    Call this only while no connection is open: closing any descriptor of the file drops SQLite's locks on it.
    """
    if os.path.exists(path):  # noqa: PTH110 - a plain string here
        return
    new = f"{path}.new"
    try:
        Path(new).unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        # the header has bgd's id from the first moment on, so an empty file in its place is a lost database
        with closing(sqlite3.connect(new)) as db:
            db.executescript(f"PRAGMA page_size = {_PAGE}; PRAGMA application_id = {APPLICATION_ID}")
        with suppress(FileNotFoundError):  # SQLite would take it for that of the new file
            Path(f"{path}-wal").rename(f"{path}-wal.old")
            logger.warning("%s-wal is of a database that is gone: it is kept as %s-wal.old", path, path)
        Path(new).replace(path)
        fsync_path(str(Path(path).parent))  # otherwise a power cut may remove the file, whatever it holds
    except OSError as error:
        raise StoreBroken(f"database {path} cannot be created: {error.strerror}; {FORBIDDEN}") from error


def _set_up(db: sqlite3.Connection, path: str) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # with NORMAL a power cut loses commits that were answered
    db.execute(f"PRAGMA wal_autocheckpoint = {_pages_between_checkpoints(db, path)}")
    db.execute("PRAGMA journal_size_limit = 67108864")  # bytes that the -wal file keeps after a burst
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")


def _pages_between_checkpoints(db: sqlite3.Connection, path: str) -> int:
    """Return how many pages the -wal file takes, on a small disk only a share of it."""
    (page,) = db.execute("PRAGMA page_size").fetchone()
    disk = os.statvfs(Path(path).parent)
    return int(max(min(_CHECKPOINT, disk.f_blocks * disk.f_frsize // _WAL_SHARE) // page, 16))


def copy_name(path: str, version: int) -> str:
    """Return the name of the copy that is kept when tables of this version are upgraded."""
    return f"{path}.version-{version}"


def _keep_copy(db: sqlite3.Connection, path: str, version: int) -> None:
    """Copy the database for the earlier bgd, which cannot read it once its tables are upgraded."""
    copy = copy_name(path, version)
    (size,) = db.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
    disk = os.statvfs(Path(path).parent)
    try:
        if disk.f_bavail * disk.f_frsize < _ROOM * size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - as if it were full
        new = Path(f"{copy}.new")
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(new)) as target:
            db.backup(target)
        fsync_path(str(new))
        new.replace(copy)
        fsync_path(str(new.parent))
    except (OSError, sqlite3.Error) as error:
        logger.warning("no copy of %s is kept before its tables are upgraded: %s", path, error)
    else:
        logger.info("the tables of %s are upgraded; an earlier bgd can read the copy %s", path, copy)


def delete_old_copies(path: str) -> None:
    """Delete the copies that were kept before upgrades, once they are older than COPY_KEPT."""
    for version in range(VERSION):
        copy = Path(copy_name(path, version))
        with suppress(FileNotFoundError):
            if time.time() - copy.stat().st_mtime > COPY_KEPT:
                copy.unlink()
                logger.info("deleted %s, the copy from before an upgrade", copy)


def _upgrade(db: sqlite3.Connection, path: str, version: int) -> None:
    """Upgrade the tables in one transaction, which is undone unless they are then as bgd makes them."""
    repairs = [repair for sign, repair in _REPAIRS.items() if db.execute(_HAS_SQL, (sign,)).fetchone()]
    steps = "".join([*repairs, *MIGRATIONS[version:]])
    if not steps:
        check(db, path, VERSION)
        return
    _check_pages(db, path)
    try:
        db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION};")
        if not _has_sound_tables(db, VERSION):
            raise sqlite3.DatabaseError(_OTHER_TABLES)  # noqa: TRY301 - like an error of the steps
        db.execute("COMMIT")
    except BaseException as error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        # other codes mean the disk or the file, and have messages of their own
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & PRIMARY
        if isinstance(error, sqlite3.Error) and code in _CONTENT_ERRORS:
            raise StoreBroken(
                f"database {path} cannot be upgraded from version {version} of its tables to {VERSION}"
                f" ({error}), and is unchanged: start the earlier bgd again, or {DAMAGED}"
            ) from error
        raise


def _schema_of(db: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    rows = db.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'")
    return {(kind, name, sql) for kind, name, sql in rows}


def _sound_schema(version: int) -> set[tuple[str, str, str | None]]:
    """Return the schema that the migrations up to this version make; takes some milliseconds."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for script in MIGRATIONS[:version]:
            db.executescript(script)
        return _schema_of(db)
