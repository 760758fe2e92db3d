"""A damaged database never ends in a traceback; the printed advice works, and what can be read is back.

Each seed damages the database of a daemon in one way: bytes or pages of its files, one value or row of any
table, or the end of a file. The daemon is stopped meanwhile, or it runs and is asked all the time.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import Struct, msgpack

from bgd.core.breakers import BreakerState
from bgd.core.notifications import Message, NotifyEvent, Waiting
from bgd.daemon.storage import unreadable
from bgd.errors import BgdError
from bgd.wire.views import JobError
from tests.faults.figures import record, times
from tests.support import DEADLINE, Daemon, serving

BROKEN = 74  # exit code of a daemon whose database is damaged
SEEDS = [int(each) for each in os.environ.get("BGD_DAMAGE_SEEDS", "").split()] or range(times(200, 6))
PAGE = 2048
ADVICE = re.compile(r"`(bgd [^`]*--recover)`|start bgd again")
UNTOUCHED = ("set_aside",)

Damage = Callable[[random.Random, Path], str]


class Sound(Struct):
    """The files of a daemon that was killed, with a backup; its jobs, and those in the backup."""

    state_dir: Path
    backup: Path
    jobs: frozenset[int]
    saved: frozenset[int]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tmp_path_factory.mktemp("sound")
    with serving() as daemon:
        fill(daemon)
        assert daemon.bgctl("backup", str(folder / "backup.db")).returncode == 0
        saved = listed(daemon)
        for number in range(5):
            daemon.submit("--hold", "echo", f"later {number}")
        jobs = listed(daemon)
        daemon.process.kill()
        daemon.process.wait(DEADLINE)
        with closing(sqlite3.connect(daemon.state_dir / "bgd.db", isolation_level=None)) as db:
            add_rare_rows(db)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # so that both files have rows
            db.execute("UPDATE jobs SET created_at = created_at + 1")
            leave_out = shutil.ignore_patterns("*.sock", "launch*")
            shutil.copytree(daemon.state_dir, folder / "state", ignore=leave_out)
        assert all((folder / "state" / name).stat().st_size > PAGE for name in ("bgd.db", "bgd.db-wal"))
        daemon.start()
    return Sound(folder / "state", folder / "backup.db", jobs, saved)


def fill(daemon: Daemon) -> None:
    """Have jobs in each state, schedules, batches, sessions and settings."""
    daemon.bgctl("pause", "later")
    daemon.bgctl("schedule", "add", "nightly", "0 3 * * *", "--", "true")
    daemon.bgctl("schedule", "add", "often", "@hourly", "--", "echo", "often")
    daemon.bgctl("schedule", "run", "often")
    ids = [
        daemon.submit("--name", f"held {each}", "--tag", "t", "--hold", "echo", str(each))
        for each in range(4)
    ]
    daemon.submit("--queue", "later", "--key", "k", "--retries", "2", "true")
    daemon.submit("--after", ids[0], "true")
    daemon.submit("--delay", "2h", "--slots", "2", "true")
    daemon.submit("--session", "s", "--wait", "echo", "out")
    daemon.bgctl("submit", "--wait", "--on-failure", "true", "false")
    daemon.bgctl("submit", "--wait", "/nowhere/program")
    daemon.bgctl("cancel", ids[3])
    daemon.bgctl("batch", "--name", "b", "--finally", "echo done", "--", "echo", read="1\n2\n3\n")
    daemon.bgctl("wait", "--all")


def add_rare_rows(db: sqlite3.Connection) -> None:
    """Add a row to each table that is still empty."""
    error = JobError(type="ValueError", message="no", traceback="")
    message = Message(
        id="0" * 32, event=NotifyEvent.FAILED, at=datetime(2025, 1, 1, tzinfo=UTC), target="ops", subject="x"
    )
    rows = {
        "results": (1, 1, "[1]", json.dumps({"type": error.type, "message": "no", "traceback": ""})),
        "submissions": (10**6, b"token", msgpack.encode(([1], [])), 1.0),
        "dependents": (1, 2, 0),
        "breakers": ("mod.*", msgpack.encode(BreakerState())),
        "steps": (1, 1, "step", "done", b"value", 1.0, 1.0),
        "kept_keys": (8, "key", 1e9),
        "leftovers": (10**6,),
        "streaks": (1, "ops", "name x", 1, 0, None),
        "notify_waiting": ("ops", msgpack.encode(Waiting(message, ()))),
        "notify_facts": (1, "ops", "failed", 1.0, 1, *[None] * 10),
    }
    for table, values in rows.items():
        if not db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:
            db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    empty = [each for each in tables if not db.execute(f"SELECT count(*) FROM {each}").fetchone()[0]]
    assert set(empty) <= set(UNTOUCHED), empty
    assert not unreadable.find(db)


# --- kinds of damage ----------------------------------------------------------------------------------------


def overwrite_bytes(dice: random.Random, path: Path) -> str:
    size = path.stat().st_size
    place, data = dice.randrange(size), dice.randbytes(dice.choice((1, 16, 512)))
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)
    return f"{len(data)} bytes of {path.name} at {place}"


def overwrite_pages(dice: random.Random, path: Path) -> str:
    place = dice.randrange(max(path.stat().st_size // PAGE, 1)) * PAGE
    data = dice.choice((bytes(PAGE), dice.randbytes(PAGE)))
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)
    return f"page of {path.name} at {place}"


def cut(dice: random.Random, path: Path) -> str:
    size = dice.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"{path.name} cut to {size}"


def change_row(dice: random.Random, path: Path) -> str:
    """Put a value of any type into any column of any row, or delete the row."""
    with closing(sqlite3.connect(path)) as db, db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        table = dice.choice([name for (name,) in tables if name not in UNTOUCHED])
        columns = db.execute(f"PRAGMA table_info({table})").fetchall()
        keys = [each[1] for each in columns if each[5]] or ["rowid"]
        key = dice.choice(db.execute(f"SELECT {', '.join(keys)} FROM {table}").fetchall())
        where = " AND ".join(f"{each} IS ?" for each in keys)
        if dice.random() < 0.1:
            db.execute(f"DELETE FROM {table} WHERE {where}", key)
            return f"row {key} of {table} deleted"
        column = dice.choice([each[1] for each in columns])
        value = dice.choice(VALUES)
        with suppress(sqlite3.IntegrityError):  # of the type of a primary key, or NULL where there is none
            db.execute(f"UPDATE {table} SET {column} = {value} WHERE {where}", key)
        return f"{table}.{column} = {value} in row {key}"


VALUES = (
    "NULL",
    "-1",
    "0",
    "7",
    "9007199254740993",
    "1e300",
    "-1e300",
    "'word'",
    "''",
    "CAST(x'ff' AS TEXT)",
    "x''",
    "x'c1'",
    "x'ff00ff'",
    "x'91'",
    "x'80'",
    "x'93010203'",
)
DAMAGES: tuple[Damage, ...] = (overwrite_bytes, overwrite_pages, cut, change_row, change_row, change_row)


# --- what has to hold ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    tally: Counter[str] = Counter()
    yield tally
    if tally["damages"] == len(SEEDS):
        what = "the database is damaged: bytes, pages, a row of any table, a cut; stopped and while running"
        zero = {"tracebacks": 0, "acknowledged_after": 0, "missing_beside_a_row_or_from_a_backup": 0}
        record(what, **tally, **zero)


@pytest.mark.parametrize("seed", SEEDS)
def test_damage_is_survived_as_the_advice_says(sound: Sound, tally: Counter[str], seed: int) -> None:
    dice = random.Random(seed)
    damage = dice.choice(DAMAGES)
    is_running = damage is not change_row and dice.random() < 0.5
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        daemon = Daemon(Path(folder))
        daemon.env["BGD_SOCKET"] = str(daemon.socket)  # so that clients start no other daemon
        shutil.copytree(sound.state_dir, daemon.state_dir)
        daemon.state_dir.chmod(0o700)
        (daemon.state_dir / "backups").mkdir(mode=0o700, exist_ok=True)
        shutil.copy(sound.backup, daemon.state_dir / "backups/bgd-20250101T000000Z.db")
        path = daemon.state_dir / dice.choice(("bgd.db", "bgd.db", "bgd.db-wal"))
        gone = set[int]()
        try:
            if is_running:
                what = damage_while_running(daemon, path, damage, dice)
            else:
                what = damage(dice, daemon.state_dir / "bgd.db" if damage is change_row else path)
                gone = {int(each) for each in re.findall(r"^row \((\d+),?.*of jobs deleted", what)}
            print(f"seed {seed}: {what}{', while running' * is_running}")
            found, has_restored = used_as_advised(daemon)
            if has_restored:
                assert found >= sound.saved
            elif damage is change_row:
                assert found >= sound.jobs - gone
        finally:
            daemon.stop()
        log = (daemon.folder / "bgd.log").read_text(errors="replace")
        assert "Traceback" not in log, log
    tally.update(["damages", "restored" if has_restored else "served", *["while_running"] * is_running])


def damage_while_running(daemon: Daemon, path: Path, damage: Damage, dice: random.Random) -> str:
    """Damage a file under a daemon that is asked all the time; after its first complaint it takes nothing."""
    daemon.start()
    daemon.submit("--hold", "true")
    what = damage(dice, path)
    has_complained = False
    for _ in range(5):
        done = [
            daemon.bgctl(*LIST),
            daemon.bgctl("submit", "--hold", "true"),
            daemon.bgctl("release", str(dice.randrange(1, 10))),
        ]
        assert not (has_complained and done[1].stdout), "a job was acknowledged after that"
        assert not any("Traceback" in each.stderr for each in done)
        has_complained |= any(COMPLAINT in each.stderr for each in done)
        if daemon.process.poll() is not None:
            assert_ended_with_advice(daemon)
            return what
    assert not has_complained
    daemon.process.kill()
    daemon.process.wait(DEADLINE)
    return what


def used_as_advised(daemon: Daemon) -> tuple[frozenset[int], bool]:
    """Start the daemon and use everything, following the advice if it ends.

    Return the jobs that it had, and whether there was advice to follow.
    """
    has_restored = False
    for _ in range(4):
        if has_started(daemon) and (found := used(daemon)) is not None:
            return found, has_restored
        advice = assert_ended_with_advice(daemon)
        if advice is not None:
            done = daemon.execute(sys.executable, "-m", *shlex.split(advice))
            assert (done.returncode, done.stderr) == (0, ""), f"{advice}: {done.stderr}"
            has_restored = True
    raise AssertionError("the daemon does not serve after the recovery")


def has_started(daemon: Daemon) -> bool:
    try:
        daemon.start()
    except AssertionError:
        daemon.process.wait(DEADLINE)
        return False
    return True


def used(daemon: Daemon) -> frozenset[int] | None:
    """Use every kind of data; return the jobs that there were; None: the daemon ended, as it has to."""
    found: frozenset[int] | None = None
    for words in COMMANDS:
        done = daemon.bgctl(*words)
        assert "Traceback" not in done.stderr, (words, done.stderr)
        assert "a bug in bgd" not in done.stderr, (words, done.stderr, log_of(daemon))
        if COMPLAINT in done.stderr or "no daemon" in done.stderr:
            daemon.process.wait(DEADLINE)
            return None
        if found is None:
            found = frozenset(each["id"] for each in json.loads(done.stdout))
            try:
                read_everything(daemon)
            except BgdError as error:
                if COMPLAINT not in str(error) and "no daemon" not in str(error):
                    raise
                daemon.process.wait(DEADLINE)
                return None
    return found


def read_everything(daemon: Daemon) -> None:
    with daemon.client() as client:
        for job in client.jobs(limit=1000):
            job.refresh()
            list(job.attempts())
        list(client.events(since=0, follow=False))
        client.batches()
        for schedule in client.schedules.list():
            client.schedules.history(schedule.name)
        client.stats()
        client.queues()
        client.checkup()


def assert_ended_with_advice(daemon: Daemon) -> str | None:
    """Return the command that a daemon advises at its end; None: it only has to be started again."""
    assert daemon.process.wait(DEADLINE) == BROKEN, log_of(daemon)
    last = log_of(daemon).splitlines()[-1]
    advice = ADVICE.search(last)
    assert advice, last
    return advice[1]


def log_of(daemon: Daemon) -> str:
    return (daemon.folder / "bgd.log").read_text(errors="replace")


def listed(daemon: Daemon) -> frozenset[int]:
    return frozenset(each["id"] for each in json.loads(daemon.bgctl(*LIST).stdout))


COMPLAINT = "`bgd --recover`"
LIST = ("list", "--json", "--limit", "1000")
COMMANDS = [
    LIST,
    ("release", "--state", "held", "--yes"),
    ("slots", "4"),
    ("resume",),
    ("resume", "later"),
    ("retry", "--state", "failed", "--yes"),
    ("schedule", "run", "nightly"),
    ("submit", "--wait", "true"),
    ("cancel", "--state", "scheduled", "--yes"),
    ("prune", "--keep", "1", "--yes"),
    ("doctor",),
]
