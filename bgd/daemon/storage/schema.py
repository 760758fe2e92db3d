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

from bgd.daemon.storage import unreadable
from bgd.daemon.storage.database import (
    DAMAGED,
    FORBIDDEN,
    PRIMARY,
    StoreBroken,
    StoreOfOtherVersion,
    delete_copy,
    fsync_path,
)

logger = logging.getLogger(__name__)

APPLICATION_ID = int.from_bytes(b"bgd\0", "big")  # in the file's header: distinguishes our files from others

# The tables of version FIRST, those of bgd 1.0, the oldest that can be upgraded.
FIRST = 23
TABLES = (
    # One row. last_id grows when jobs are deleted: the last id used is this or that of the newest job.
    # logged: bytes of all logs on disk. is_outdated 1: the file is an older copy, so jobs that wait in it
    # may have run since; the next start holds them. slots: as set by bgctl; NULL: as configured.
    #
    # Retention has a clock of its own, which cannot be set: time elapsed since the boot boot_id, plus
    # age_ahead. Its times are named `aged`, or `at` in submissions and batches. The next boot continues
    # from age_noted. The wall clock is wall_ahead ahead of elapsed time, so that setting it changes one row.
    """CREATE TABLE meta (
        store_id TEXT NOT NULL, generation INTEGER NOT NULL, last_id INTEGER NOT NULL, boot_id TEXT NOT NULL,
        slots INTEGER, paused INTEGER NOT NULL DEFAULT 0, logged INTEGER NOT NULL DEFAULT 0, age_ahead REAL,
        age_noted REAL, is_outdated INTEGER NOT NULL DEFAULT 0, wall_ahead REAL
    );
    INSERT INTO meta (store_id, generation, last_id, boot_id)
        VALUES (lower(hex(randomblob(16))), 0, 0, '');"""
    # Hot and narrow: what the Scheduler decides by and what lists select by. ..._elapsed is on the clock of
    # the boot meta.boot_id; every ..._at is epoch time. started_at is that of the latest attempt; outcome,
    # exit_code and signal are those of the latest attempt that has ended. wall_due is Conditions.at. waits
    # and resources are MessagePack of records.Waits and of Conditions.resources; NULL for nothing.
    # snoozes: attempts that ended so, for people. logged: bytes of its logs on disk. progress, a fraction of
    # 1, and its message are those of the latest attempt. notify: the target that the job itself names.
    # schedule, session: those that the job is of.
    """CREATE TABLE jobs (
        id INTEGER PRIMARY KEY, state TEXT NOT NULL, queue TEXT NOT NULL, priority INTEGER NOT NULL,
        policy BLOB NOT NULL, attempt INTEGER NOT NULL, failures INTEGER NOT NULL, unseen INTEGER NOT NULL,
        due_elapsed REAL, making_way INTEGER NOT NULL,
        uid INTEGER NOT NULL, name TEXT, created_at REAL NOT NULL, started_at REAL,
        finished_at REAL, outcome TEXT, exit_code INTEGER, signal INTEGER, reason TEXT,
        wall_due REAL, expires_elapsed REAL, waits BLOB, key TEXT, slots INTEGER NOT NULL DEFAULT 1,
        suspended INTEGER NOT NULL DEFAULT 0, snoozes INTEGER NOT NULL DEFAULT 0,
        logged INTEGER NOT NULL DEFAULT 0, progress REAL, progress_message TEXT, aged_from REAL,
        created_aged REAL, notify TEXT, schedule TEXT, resources BLOB, session TEXT
    );"""
    # Everything that lists select by, newest first within a state, so that a list reads nothing else. An
    # index of all queues would slow down every change of a job, so the default queue is not in it. Rare
    # names are found without reading all jobs. Finished jobs are deleted, those that finished first.
    """CREATE INDEX jobs_by_state ON jobs (state, id, name, queue, created_at, uid);
    CREATE INDEX jobs_by_queue ON jobs (queue, state) WHERE queue <> 'default';
    CREATE INDEX jobs_by_name ON jobs (name) WHERE name IS NOT NULL;
    CREATE INDEX jobs_by_end ON jobs (state, aged_from) WHERE aged_from IS NOT NULL;
    CREATE INDEX jobs_by_session ON jobs (session) WHERE session IS NOT NULL;"""
    # Cold: written once, read when the job starts or on request. spec is a JobSpec without env. A
    # job that is the first new one of a request has the request's token, and an answer: MessagePack of all
    # ids in the answer and of those that were not new; NULL means only this job.
    """CREATE TABLE specs (
        job INTEGER PRIMARY KEY, spec BLOB NOT NULL, environment INTEGER, token BLOB, answer BLOB
    );
    CREATE TABLE environments (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, variables BLOB NOT NULL);
    CREATE TABLE tags (tag TEXT NOT NULL, job INTEGER NOT NULL, PRIMARY KEY (tag, job)) WITHOUT ROWID;"""
    # When a job is deleted, submissions takes over its token and answer for a while. `at`: when the job was
    # created.
    """CREATE TABLE submissions (
        first INTEGER PRIMARY KEY, token BLOB NOT NULL, jobs BLOB, at REAL NOT NULL
    );"""
    # Which lines of batches were taken: `count` lines from `line` on became as many jobs from `job` on.
    """CREATE TABLE batches (
        batch BLOB NOT NULL, line INTEGER NOT NULL, job INTEGER NOT NULL, count INTEGER NOT NULL,
        at REAL NOT NULL, PRIMARY KEY (batch, line)
    ) WITHOUT ROWID;
    CREATE INDEX batches_by_time ON batches (at);"""
    # launcher becomes NULL when the attempt ends: it only says which launcher has an unfinished attempt.
    # run_seconds is what the launcher measured. whole_tree, memory_peak_bytes: from a control group of its
    # own. leftovers: the processes that it left and that were ended, in words. executor: what runs it;
    # NULL: this machine. node: where a cluster runs it. tokens: MessagePack, those that it holds or held.
    """CREATE TABLE attempts (
        job INTEGER NOT NULL, attempt INTEGER NOT NULL, slot INTEGER NOT NULL, launcher TEXT,
        launched_at REAL NOT NULL, pid INTEGER, started_at REAL, outcome TEXT, exit_code INTEGER,
        signal INTEGER, finished_at REAL, user_seconds REAL, system_seconds REAL, max_rss_bytes INTEGER,
        log_bytes INTEGER, whole_tree INTEGER NOT NULL DEFAULT 0, memory_peak_bytes INTEGER,
        started_aged REAL, run_seconds REAL, leftovers TEXT, executor TEXT, executor_kind TEXT, tokens BLOB,
        node TEXT, PRIMARY KEY (job, attempt)
    ) WITHOUT ROWID;
    CREATE TABLE results (
        job INTEGER NOT NULL, attempt INTEGER NOT NULL, result TEXT, error TEXT, PRIMARY KEY (job, attempt)
    );"""
    # Jobs that were deleted and whose logs may still be on disk.
    """CREATE TABLE leftovers (job INTEGER PRIMARY KEY);"""
    # How many jobs are in a state, by its name; how many share an environment, by its id. There may be a
    # million, too many to count for each request. A commit writes whole pages, so what every submit changes
    # stands in as few tables as can be.
    """CREATE TABLE counts (key TEXT PRIMARY KEY, jobs INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counts VALUES
        ('held', 0), ('blocked', 0), ('scheduled', 0), ('queued', 0), ('running', 0), ('stopping', 0),
        ('succeeded', 0), ('failed', 0), ('cancelled', 0);
    CREATE TRIGGER count_gone AFTER DELETE ON jobs BEGIN
        UPDATE counts SET jobs = jobs - 1 WHERE key = old.state;
        UPDATE meta SET logged = logged - old.logged, last_id = max(last_id, old.id);
    END;"""
    # The change stream. A row holds the events of one transaction as a MessagePack array. The last of them
    # has this id, and those before it have the ids before it. Once there is a row, the newest one stays.
    """CREATE TABLE events (last INTEGER PRIMARY KEY, packed BLOB NOT NULL);"""
    # What people have set. slots counts only if has_slots, and NULL then means no limit.
    """CREATE TABLE queues (
        name TEXT PRIMARY KEY, has_slots INTEGER NOT NULL, slots INTEGER, paused INTEGER NOT NULL
    ) WITHOUT ROWID;"""
    # spec is a ScheduleSpec; uid NULL: it is from the configuration; paused NULL: as the spec says. What
    # became of all occurrences until seen_at is in occurrences, a row for each or for `count` in a row.
    # late 1: its job had not finished in time.
    """CREATE TABLE schedules (
        name TEXT PRIMARY KEY, spec BLOB NOT NULL, uid INTEGER, paused INTEGER, seen_at REAL NOT NULL,
        boot_id TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE occurrences (
        id INTEGER PRIMARY KEY, schedule TEXT NOT NULL, due_at REAL NOT NULL, result TEXT NOT NULL,
        job INTEGER, reason TEXT, count INTEGER NOT NULL, late INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX occurrences_by_schedule ON occurrences (schedule);
    CREATE INDEX occurrences_by_job ON occurrences (schedule, job) WHERE job IS NOT NULL;"""
    # What a target may get a message about, oldest first. The transaction of the decision deletes the row.
    """CREATE TABLE notify_facts (
        id INTEGER PRIMARY KEY, target TEXT NOT NULL, event TEXT NOT NULL, at REAL NOT NULL, job INTEGER,
        name TEXT, schedule TEXT, queue TEXT, outcome TEXT, exit_code INTEGER, signal INTEGER,
        attempts INTEGER, reason TEXT, due_at REAL, count INTEGER
    );
    CREATE INDEX notify_facts_by_target ON notify_facts (target);"""
    # Failures in a row. A job without a name has a streak of its own, which goes with the job.
    """CREATE TABLE streaks (
        id INTEGER PRIMARY KEY, target TEXT NOT NULL, subject TEXT NOT NULL, failures INTEGER NOT NULL,
        is_notified INTEGER NOT NULL, job INTEGER, UNIQUE (target, subject)
    );
    CREATE INDEX streaks_by_job ON streaks (job) WHERE job IS NOT NULL;"""
    # Messages that wait until their target may get another one: MessagePack of a Waiting.
    """CREATE TABLE notify_waiting (target TEXT PRIMARY KEY, waiting BLOB NOT NULL) WITHOUT ROWID;"""
    # What started and ended, by queue and by name, in `seconds` from `at` on. subject '': those that have no
    # row of their own. counts: MessagePack of activity.Counts.
    """CREATE TABLE activity (
        seconds INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
        counts BLOB NOT NULL, PRIMARY KEY (seconds, at, kind, subject)
    ) WITHOUT ROWID;"""
    # The breakers of classes, by pattern, as MessagePack of a BreakerState with epoch times.
    """CREATE TABLE breakers (pattern TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;"""
    # The jobs that followed the end of another one.
    """CREATE TABLE follow_ups (
        cause INTEGER NOT NULL, job INTEGER NOT NULL, PRIMARY KEY (cause, job)
    ) WITHOUT ROWID;"""
    # Batches of jobs; their lines are in `batches`, by the token. ..._spec: MessagePack of the JobSpec, with
    # its environment, of a job that follows; ..._job: its id once it has started. kept: jobs of it that were
    # not deleted; a batch that has ended goes with the last of them.
    """CREATE TABLE job_batches (
        id INTEGER PRIMARY KEY AUTOINCREMENT, token BLOB NOT NULL, uid INTEGER NOT NULL, name TEXT,
        created_at REAL NOT NULL, finished_at REAL, is_whole INTEGER NOT NULL DEFAULT 0,
        is_cancelled INTEGER NOT NULL DEFAULT 0, kept INTEGER NOT NULL DEFAULT 0,
        pending INTEGER NOT NULL DEFAULT 0, running INTEGER NOT NULL DEFAULT 0,
        succeeded INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
        cancelled INTEGER NOT NULL DEFAULT 0,
        then_spec BLOB, catch_spec BLOB, finally_spec BLOB,
        then_job INTEGER, catch_job INTEGER, finally_job INTEGER
    );
    CREATE INDEX job_batches_by_token ON job_batches (token);
    CREATE INDEX job_batches_by_name ON job_batches (name) WHERE name IS NOT NULL;
    CREATE INDEX job_batches_open ON job_batches (id) WHERE finished_at IS NULL;
    CREATE INDEX job_batches_empty ON job_batches (id) WHERE kept = 0;"""
    # Runs of jobs with consecutive ids that are of one batch.
    """CREATE TABLE batch_jobs (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, batch INTEGER NOT NULL);
    CREATE INDEX batch_jobs_by_batch ON batch_jobs (batch);
    CREATE TRIGGER batch_gone AFTER DELETE ON job_batches BEGIN
        DELETE FROM batch_jobs WHERE batch = old.id;
    END;"""
    # What jobs have recorded of their steps. value: only the job reads it. seconds: how long it had taken.
    """CREATE TABLE steps (
        job INTEGER NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
        value BLOB NOT NULL, at REAL NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (job, position)
    ) WITHOUT ROWID;"""
    # The keys of finished jobs, and until when no other job may have them, on retention's clock.
    """CREATE TABLE kept_keys (job INTEGER PRIMARY KEY, key TEXT NOT NULL, until REAL NOT NULL);
    CREATE INDEX kept_keys_by_time ON kept_keys (until);"""
    # Ends of jobs with a session that its reader has not acknowledged, with the facts of that end: the job
    # may have run again. handed_out: how often. The row goes with its job, whose name it has.
    """CREATE TABLE inbox (
        event INTEGER PRIMARY KEY AUTOINCREMENT, uid INTEGER NOT NULL, session TEXT NOT NULL,
        job INTEGER NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL, outcome TEXT,
        exit_code INTEGER, signal INTEGER, reason TEXT, at REAL NOT NULL, seconds REAL, log_bytes INTEGER,
        aged REAL NOT NULL, handed_out INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX inbox_by_session ON inbox (uid, session);
    CREATE INDEX inbox_by_job ON inbox (job);"""
    # Jobs that wait, or waited, for `source` to succeed. needs_result: an argument refers to its result;
    # while such a job is unfinished, `source` stays.
    """CREATE TABLE dependents (
        source INTEGER NOT NULL, job INTEGER NOT NULL, needs_result INTEGER NOT NULL,
        PRIMARY KEY (source, job)
    ) WITHOUT ROWID;
    CREATE INDEX dependents_by_job ON dependents (job);"""
    # Rows that could not be read. subject, problem: for people. job: one that may not start before a person
    # has seen it; is_held: it is held. kept: MessagePack of the values of the row of the table `source`.
    """CREATE TABLE set_aside (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, subject TEXT NOT NULL, job INTEGER, problem TEXT NOT NULL,
        source TEXT NOT NULL, kept BLOB NOT NULL, is_held INTEGER NOT NULL DEFAULT 0
    );"""
)

# MIGRATIONS[n] turns version FIRST + n into the next. Never edit one that was released: add the next one.
MIGRATIONS: tuple[str, ...] = (
    """
    -- One row: MessagePack of the permits, a list of records.Permit.
    CREATE TABLE permits (value BLOB NOT NULL);
    INSERT INTO permits VALUES (x'90');
    """,
)
VERSION = FIRST + len(MIGRATIONS)

COPY_KEPT = 7 * 86_400.0  # seconds that a copy from before an upgrade is kept

_OTHER_TABLES = "its tables are not as bgd made them"

# These are problems with the content, not with the disk
_CONTENT_ERRORS = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
# Page size of a new file in bytes. A commit changes some hundred bytes and writes whole pages, so small ones
# write less. 1024 would slow down a scan of a million jobs by a quarter.
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
        unreadable.check_meta(db, path)
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
    if 0 < version < FIRST:
        raise StoreOfOtherVersion(
            f"database {path} is from before bgd 1.0 (version {version} of its tables)",
            f"move it away: this bgd reads version {FIRST} and later",
        )
    if version > VERSION:
        copy = copy_name(path, VERSION)
        known = f" {copy}" if os.path.exists(copy) else ""  # noqa: PTH110 - a plain string here
        raise StoreOfOtherVersion(
            f"database {path} was written by a newer bgd (version {version} of its tables, this bgd knows"
            f" up to {VERSION})",
            "install that bgd again; or move it away with its -wal file, and"
            f" `bgd --recover{known}` puts a backup in its place",
        )
    return int(version)


def check(db: sqlite3.Connection, path: str, version: int, pages: str = "quick_check") -> None:
    """Check all pages and the tables, not each row; takes a second for some hundred megabytes.

    `pages` is a check of SQLite's.

    Raises:
        StoreBroken: it is damaged, or its tables are not those of this version.
    """
    _check_pages(db, path, pages)
    if not _has_sound_tables(db, version):
        raise StoreBroken(f"database {path} is damaged ({_OTHER_TABLES})", DAMAGED)
    unreadable.check_meta(db, path)


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
        delete_copy(new)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        # the header has bgd's id from the first moment on, so an empty file in its place is a lost database
        with closing(sqlite3.connect(new)) as db:
            db.executescript(f"PRAGMA page_size = {_PAGE}; PRAGMA application_id = {APPLICATION_ID}")
        with suppress(FileNotFoundError):  # SQLite would take it for that of the new file
            Path(f"{path}-wal").rename(f"{path}-wal.old")
            logger.warning("%s-wal belongs to a database that is gone: it is kept as %s-wal.old", path, path)
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
        delete_copy(str(new))
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
    steps = "".join(MIGRATIONS[version - FIRST :] if version else (TABLES, *MIGRATIONS))
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


def create_tables(db: sqlite3.Connection, version: int) -> None:
    """Create the tables of a version, in an empty database."""
    db.executescript("".join((TABLES, *MIGRATIONS[: version - FIRST])))


def _schema_of(db: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Return the statements in the file without white space, which ALTER TABLE leaves in other places."""
    rows = db.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'")
    return {(kind, name, "".join((sql or "").split())) for kind, name, sql in rows}


def _sound_schema(version: int) -> set[tuple[str, str, str]]:
    """Return the schema that a version has; takes some milliseconds."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        create_tables(db, version)
        return _schema_of(db)
