"""A backup replaces a lost database: no job in it runs by itself, and no id is given out twice."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from bgd.__main__ import main
from bgd.core.job import Conditions, JobId, State
from bgd.daemon import supervisor
from bgd.daemon.backups import recover
from bgd.daemon.launching import LauncherLink
from bgd.daemon.storage import change_stream, read, recovery, summaries
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.records import Transaction
from bgd.daemon.storage.recovery import MARGIN, MAY_HAVE_RUN, check_copy
from bgd.daemon.storage.schema import FIRST, VERSION
from bgd.daemon.storage.store import Store, begin_generation
from bgd.daemon.supervisor import Supervisor
from bgd.errors import Refused
from bgd.wire.launching import log_name
from tests.daemon.storage.builders import NOW, a_job, first_attempt, new, put, restored, saves, sql

DATE = 4e9  # in the year 2096


@pytest.fixture
def path(config):
    """The database of a daemon that has run on after its last backup."""
    Path(config.daemon.state_dir).mkdir(mode=0o700)
    Path(config.backup.folder).mkdir(mode=0o700, parents=True)
    asyncio.run(fill(config))
    return Path(config.daemon.state_dir, "bgd.db")


async def fill(config):
    """Put jobs 1 to 5 into the backup, one in each kind of state; 6 and 7 come later."""
    store = await Store.open(f"{config.daemon.state_dir}/bgd.db")
    await store.write(begin_generation)
    blocked = Conditions(after=(JobId(2),))
    await put(store, new(1), new(2), new(5))
    dated = Conditions(at=DATE)
    await put(store, new(3)._replace(job=a_job(3, State.SCHEDULED, conditions=dated)))
    await put(store, new(4)._replace(job=a_job(4, State.BLOCKED, conditions=blocked)))
    await store.commit(
        Transaction(now=NOW, saves=saves(a_job(1, State.RUNNING, attempt=1)), attempts=[first_attempt(1)])
    )
    await store.commit(Transaction(now=NOW, saves=saves(a_job(5, State.SUCCEEDED))))
    await store.copy_to(f"{config.backup.folder}/bgd-20251125T030000Z.db")
    await put(store, new(6), new(7))
    await store.close()


async def load(config):
    """Load the database as a daemon does, up to the moment when it looks for a launcher."""
    store = await Store.open(f"{config.daemon.state_dir}/bgd.db")
    try:
        generation = await store.write(begin_generation)
        link = LauncherLink(config.daemon.state_dir, config.log_dir, store, generation)
        await Supervisor(config, store, link).restore()
    finally:
        await store.close()


async def look_into(path):
    """Return what is there: jobs by id, launchers of attempts, held jobs, last id, generation."""
    store = await Store.open(str(path))
    found = (
        {job.id: job for job in await restored(store)},
        [launcher for (launcher,) in await sql(store, "SELECT launcher FROM attempts")],
        (await store.read(summaries.counts))["held"],
        await store.read(read.last_id),
        await store.write(begin_generation),
    )
    await store.close()
    return found


def test_a_lost_database_is_recovered_and_nothing_runs_twice(config, path):
    path.write_bytes(b"damaged" * 1000)
    log = Path(config.log_dir, "0/11.1.log")
    log.parent.mkdir(parents=True)
    log.write_text("of a job whose record is lost")

    told = "\n".join(recover(config))

    assert f"it is kept as {path}.damaged-" in told
    assert "jobs 6 to 11, and perhaps later ones" in told
    assert "held when bgd starts: 3 jobs that waited then" in told
    assert "unsure: 1 job that ran then" in told
    (kept,) = path.parent.glob("bgd.db.damaged-*")
    assert kept.read_bytes() == b"damaged" * 1000
    asyncio.run(load(config))
    jobs, launchers, held, last_id, generation = asyncio.run(look_into(path))
    assert [jobs[number].state for number in sorted(jobs)] == [State.RUNNING, *[State.HELD] * 3]
    assert jobs[1].policy.rerun is False
    assert (jobs[3].conditions.at, jobs[4].conditions.after) == (DATE, (2,))
    assert launchers[0].endswith(":before-recovery")
    assert held == 3
    assert last_id == 11 + MARGIN
    assert generation > MARGIN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def of_another_user(newest):
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: to give a file away takes root")
    os.chown(newest, 12345, -1)


def open_to_others(newest):
    newest.chmod(0o620)


def a_link(newest):
    newest.rename(newest.with_name("elsewhere"))
    newest.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            of_another_user,
            "belongs to uid 12345, and a backup can make bgd run anything: if you trust it, copy it",
        ),
        (open_to_others, "can be written by other users (mode 620), and a backup can make bgd run anything"),
        (a_link, "cannot be read: it is a symbolic link"),
    ],
)
def test_backup_that_another_user_may_have_written_is_not_restored(config, path, change, reason):
    path.unlink()
    newest = Path(config.backup.folder, "bgd-20251126T030000Z.db")
    shutil.copy(newest.with_name("bgd-20251125T030000Z.db"), newest)
    change(newest)

    with pytest.raises(StoreBroken, match=re.escape(f"{newest} {reason}")):
        recover(config, str(newest))
    assert not path.exists()
    told = recover(config)
    assert told[1].startswith(f"skipped: {newest} {reason}")
    assert told[2].startswith(f"restored from {newest.with_name('bgd-20251125T030000Z.db')}, ")


def test_backup_from_a_folder_that_others_can_write_to_is_only_restored_by_name(config, path):
    path.unlink()
    folder = Path(config.backup.folder)
    folder.chmod(0o1777)

    with pytest.raises(StoreBroken, match=rf"{folder} can be written by other users \(mode 1777\), .* FILE"):
        recover(config)
    assert not path.exists()

    assert recover(config, f"{folder}/bgd-20251125T030000Z.db")
    assert path.exists()


def test_what_was_checked_is_restored_whatever_has_the_name_by_then(config, path, monkeypatch):
    path.unlink()
    backup = Path(config.backup.folder, "bgd-20251125T030000Z.db")

    def replaced_meanwhile(new, name):
        backup.write_bytes(b"of somebody else")
        return check_copy(new, name=name)

    monkeypatch.setattr(recovery, "check_copy", replaced_meanwhile)
    (_, restored, *_) = recover(config)
    assert restored == f"restored from {backup}, which is intact: 5 jobs"
    jobs, *_ = asyncio.run(look_into(path))
    assert len(jobs) == 4  # unfinished ones


def test_a_sound_database_is_never_replaced(config, path):
    with pytest.raises(Refused, match="is intact, so nothing is restored"):
        recover(config)

    *_, last_id, _ = asyncio.run(look_into(path))
    assert last_id == 7


def test_a_database_of_a_newer_bgd_is_never_replaced(config, path):
    """A user who went back to an older bgd has lost nothing: the newer bgd can read the database."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")

    with pytest.raises(
        Refused, match=r"was written by a newer bgd .*: install that bgd again, or move the database away"
    ):
        recover(config)

    assert path.exists()
    assert not list(path.parent.glob("*.damaged-*"))


def set_version(path, version):
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {version}")


def test_a_database_of_before_1_0_is_never_replaced(config, path):
    set_version(path, FIRST - 1)

    with pytest.raises(Refused, match=r"is from before bgd 1\.0 .*: install that bgd again, or move"):
        recover(config)

    assert path.exists()
    assert not list(path.parent.glob("*.damaged-*"))


def test_a_backup_that_is_too_old_is_refused_and_leaves_no_files(config, path):
    path.unlink()
    backup = Path(config.backup.folder, "bgd-20251125T030000Z.db")
    set_version(backup, FIRST - 1)

    with pytest.raises(StoreBroken, match=f"no intact backup: database {backup} is from before bgd 1\\.0 "):
        recover(config, str(backup))

    assert not list(path.parent.glob("bgd.db*"))


async def events_in(path, since):
    """Return the events after this id, and the newest id."""
    store = await Store.open(str(path))
    found = (
        await store.read(change_stream.read_events, since, 1000),
        (await store.read(change_stream.event_bounds))[1],
    )
    await store.close()
    return found


def test_events_after_a_recovery_have_new_ids_and_name_the_held_jobs(config, path):
    """A client that asks for events since the last one it saw would otherwise miss the new ones."""
    _, lost = asyncio.run(events_in(path, 0))
    path.unlink()

    recover(config)
    asyncio.run(load(config))

    events, newest = asyncio.run(events_in(path, lost))
    assert sorted((event.job, event.what, event.state) for event in events) == [
        (2, "hold", State.HELD),
        (3, "hold", State.HELD),
        (4, "hold", State.HELD),
    ]
    assert {event.reason for event in events} == {"restored from a backup: it may have run since"}
    assert newest == events[-1].id > lost + MARGIN / 2


def test_a_start_that_fails_before_all_jobs_are_held_starts_none_and_the_next_start_holds_the_rest(
    config, path, monkeypatch
):
    path.unlink()
    recover(config)
    monkeypatch.setattr(supervisor, "HELD_AT_ONCE", 2)
    commit, commits = Store.commit, []

    async def fail_at_the_second(store, transaction):
        commits.append(transaction)
        if len(commits) == 2:
            raise StoreBroken("the disk is gone")
        return await commit(store, transaction)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", fail_at_the_second)
        with pytest.raises(StoreBroken, match="the disk is gone"):
            asyncio.run(load(config))
    jobs, _, held, *_ = asyncio.run(look_into(path))
    assert (held, len(jobs)) == (2, 4)

    asyncio.run(load(config))

    _, _, held, *_ = asyncio.run(look_into(path))
    assert held == 3


def test_jobs_that_are_released_after_a_recovery_are_not_held_by_the_next_start(config, path):
    path.unlink()
    recover(config)
    asyncio.run(load(config))

    asyncio.run(release(config, 2))
    asyncio.run(load(config))

    jobs, *_ = asyncio.run(look_into(path))
    assert jobs[2].state is State.QUEUED


async def release(config, number):
    store = await Store.open(f"{config.daemon.state_dir}/bgd.db")
    await store.commit(Transaction(now=NOW, saves=saves(a_job(number))))
    await store.close()


def test_events_after_a_second_recovery_from_the_same_backup_have_new_ids(config, path):
    path.unlink()
    recover(config)
    _, before = asyncio.run(events_in(path, 0))
    path.unlink()
    log = Path(config.log_dir, log_name(JobId(MARGIN + 8), 1))  # that of a job submitted meanwhile
    log.parent.mkdir(parents=True)
    log.write_text("")

    recover(config)

    _, newest = asyncio.run(events_in(path, 0))
    assert newest > before + MARGIN / 2


def test_event_ids_are_new_after_a_recovery_without_waiting_jobs(config, path, tmp_path):
    empty = tmp_path / "empty.db"
    asyncio.run(fill_nothing(empty))
    path.unlink()

    recover(config, str(empty))

    assert asyncio.run(events_in(path, 0)) == ([], MARGIN)


async def fill_nothing(path):
    store = await Store.open(str(path))
    await store.close()


def test_a_database_without_one_of_its_indices_is_replaced(config, path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX jobs_by_name")  # every page is sound, but a daemon refuses to start

    told = recover(config)

    assert "its tables are not as bgd made them" in told[0]
    assert asyncio.run(look_into(path))[0].keys() == {1, 2, 3, 4}


def test_damaged_backups_are_skipped_and_reported(config, path):
    path.unlink()
    Path(config.backup.folder, "bgd-20251126T030000Z.db").write_bytes(b"nothing good")

    told = recover(config)

    assert told[0] == f"database {path} is not there"
    assert told[1].startswith(f"skipped: {config.backup.folder}/bgd-20251126T030000Z.db is damaged")


@pytest.mark.parametrize("wanted", [None, "/nowhere/bgd.db"])
def test_nothing_changes_without_a_good_backup(config, path, wanted):
    path.write_bytes(b"damaged")
    Path(config.backup.folder, "bgd-20251125T030000Z.db").unlink()

    with pytest.raises(StoreBroken, match="there is no intact backup"):
        recover(config, wanted)

    assert path.read_bytes() == b"damaged"


def test_ids_that_a_damaged_database_still_shows_are_not_reused(config, path):
    with closing(sqlite3.connect(path)) as db:  # the pages of the table stay, but nothing refers to them
        db.execute("PRAGMA writable_schema = ON")
        db.execute("DELETE FROM sqlite_master WHERE name = 'counts'")
        db.commit()

    told = "\n".join(recover(config))

    assert "jobs 6 to 7, and perhaps later ones" in told


def test_new_database_reuses_no_id_that_has_a_log(own_daemon):
    first = own_daemon.submit("--wait", "echo", "one")
    own_daemon.stop()
    for end in ("", "-wal"):
        Path(f"{own_daemon.state_dir}/bgd.db{end}").unlink(missing_ok=True)
    own_daemon.start()

    assert own_daemon.submit("true") == str(int(first) + 1)
    assert (
        "jobs up to 1 have logs, and the database knows none after 0"
        in (own_daemon.folder / "bgd.log").read_text()
    )


def test_daemon_starts_after_recovery_from_a_backup_that_bgctl_wrote(own_daemon):
    own_daemon.submit("--wait", "echo", "one")
    own_daemon.submit("--hold", "echo", "two")
    assert own_daemon.bgctl("schedule", "add", "often", "* * * * *", "--", "true").returncode == 0
    copy = own_daemon.folder / "copy.db"
    done = own_daemon.bgctl("backup", str(copy))
    assert (done.returncode, done.stdout) == (0, "")
    assert f"backup written: {copy}" in done.stderr
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    own_daemon.stop()
    (own_daemon.state_dir / "bgd.db").write_bytes(bytes(100_000))

    recovered = subprocess.run(
        [sys.executable, "-m", "bgd", "--recover", str(copy)],
        env=own_daemon.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (recovered.returncode, recovered.stderr) == (0, "")
    assert "paused: 1 schedule, because times since then may have run" in recovered.stdout
    own_daemon.start()
    schedules = own_daemon.bgctl("schedule", "list", "--json").stdout
    assert [each["paused"] for each in json.loads(schedules)] == [True]

    assert own_daemon.bgctl("logs", "1").stdout == "one\n"
    assert own_daemon.shown("2")["state"] == "held"
    assert int(own_daemon.submit("true")) > MARGIN


KILLED_WHEN_A_JOB_IS_HELD = """
import os, signal, sys
from bgd.__main__ import main
from bgd.daemon.storage.store import Store

async def kill(store, transaction):
    await commit(store, transaction)
    os.kill(os.getpid(), signal.SIGKILL)

commit, Store.commit = Store.commit, kill
from bgd.daemon import supervisor
supervisor.HELD_AT_ONCE = 1
sys.exit(main([]))
"""


def test_daemon_that_is_killed_between_recovery_and_hold_runs_nothing(own_daemon):
    """Each start is killed when it has held one more job; the last one finds all of them held."""
    ran = own_daemon.folder / "ran"
    for number in range(3):
        own_daemon.submit("--delay", "1h", "touch", f"{ran}.{number}")
    copy = own_daemon.folder / "copy.db"
    assert own_daemon.bgctl("backup", str(copy)).returncode == 0
    own_daemon.stop()
    with closing(sqlite3.connect(copy)) as db:  # the delays are over now
        db.execute("UPDATE jobs SET state = 'queued', due_elapsed = NULL")
        db.commit()
    (own_daemon.state_dir / "bgd.db").unlink()
    python = partial(subprocess.run, env=own_daemon.env, capture_output=True, text=True, check=False)
    assert python([sys.executable, "-m", "bgd", "--recover", str(copy)]).returncode == 0

    for _ in range(2):
        assert python([sys.executable, "-c", KILLED_WHEN_A_JOB_IS_HELD]).returncode == -signal.SIGKILL
    own_daemon.start()

    shown = [own_daemon.shown(str(number)) for number in (1, 2, 3)]
    assert [(job["state"], job["reason"]) for job in shown] == [("held", MAY_HAVE_RUN)] * 3
    assert not list(own_daemon.folder.glob("ran.*"))
    own_daemon.bgctl("release", "1")
    assert own_daemon.bgctl("wait", "1").returncode == 0
    assert [path.name for path in own_daemon.folder.glob("ran.*")] == ["ran.0"]


@pytest.mark.parametrize("option", ["--recover", "--config"])
def test_empty_file_name_is_refused(capsys, option):
    with pytest.raises(SystemExit, match="2"):
        main([option, ""])
    assert "the name of the file is empty" in capsys.readouterr().err


def test_backup_that_cannot_be_written_is_reported_in_one_line(own_daemon):
    done = own_daemon.bgctl("backup", "/nowhere/bgd.db")
    assert done.returncode == 1
    assert done.stderr == "bgctl: cannot write /nowhere/bgd.db: No such file or directory\n"


def test_backup_replaces_no_device_and_no_file_of_the_daemon(own_daemon):
    pipe, link, folder = (own_daemon.folder / name for name in ("pipe", "link", "folder"))
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    folder.mkdir()
    for path in (pipe, link, folder):
        done = own_daemon.bgctl("backup", str(path))
        assert done.returncode == 1
        assert (
            done.stderr
            == f"bgctl: {path} is not a regular file, so it was left unchanged: choose another file\n"
        )
    assert pipe.is_fifo()
    assert link.is_symlink()

    database = own_daemon.state_dir / "bgd.db"
    inode = database.stat().st_ino
    done = own_daemon.bgctl("backup", str(database))
    assert (done.returncode, database.stat().st_ino) == (1, inode)
    assert "bgd.db is in the folder of the daemon's own files, so it was left unchanged" in done.stderr


def test_backup_replaces_an_earlier_backup_only_if_asked_to(own_daemon):
    copy = own_daemon.folder / "copy.db"
    assert own_daemon.bgctl("backup", str(copy)).returncode == 0
    first = copy.stat().st_ino

    done = own_daemon.bgctl("backup", str(copy))
    assert (done.returncode, copy.stat().st_ino) == (1, first)
    remedy = "choose another file, or add --replace"
    assert done.stderr == f"bgctl: {copy} exists, so it was left unchanged: {remedy}\n"

    assert own_daemon.bgctl("backup", "--replace", str(copy)).returncode == 0
    assert copy.stat().st_ino != first


def test_backup_that_cannot_be_read_is_not_called_damaged(path, config, tmp_path):
    missing = tmp_path / "missing.db"
    Path(path).write_bytes(b"x")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for file, reason in (
        (missing, "cannot be read: No such file or directory"),
        (tmp_path, "is not a regular file"),
        (pipe, "is not a regular file"),
    ):
        with pytest.raises(StoreBroken, match=f"{file} {reason}"):
            recover(config, str(file))


@pytest.mark.parametrize("damage", ["no database", "no row of meta"])
def test_daemon_on_a_damaged_database_says_what_to_do_and_ends_with_74(own_daemon, damage):
    own_daemon.submit("--hold", "true")
    own_daemon.stop()
    database = own_daemon.state_dir / "bgd.db"
    if damage == "no database":
        database.write_bytes(b"x" * 5000)
    else:
        with closing(sqlite3.connect(database)) as db:
            db.execute("DELETE FROM meta")
            db.commit()

    done = subprocess.run(
        [sys.executable, "-m", "bgd"], env=own_daemon.env, capture_output=True, text=True, check=False
    )

    assert done.returncode == 74
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert f"database {database}" in last
    assert "`bgd --recover` restores the newest backup" in last
    database.unlink()  # or the fixture finds no daemon at the end
    own_daemon.start()


def test_advice_has_the_options_that_the_daemon_was_started_with(tmp_path):
    (tmp_path / "own dir").mkdir()
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state/bgd.db").write_bytes(b"x" * 5000)
    file = tmp_path / "own dir/bgd.toml"
    file.write_text(f"[daemon]\nstate_dir = '{tmp_path}/state'\n")

    done = subprocess.run(
        [sys.executable, "-m", "bgd", "--config", file], capture_output=True, text=True, check=False
    )

    assert (done.returncode, "Traceback" in done.stderr) == (74, False)
    assert f"`bgd --config '{file}' --recover` restores" in done.stderr


def test_database_whose_tables_have_names_that_are_no_text_is_replaced(config, path):
    """Python cannot even decode SQLite's message about it."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"CREATE TABLE specs", b"\xff\xfe\xff\xfe\xff\xfe\xff TABLE specs"))

    told = recover(config)

    assert told[0].startswith(f"{path} is damaged (")
    assert asyncio.run(look_into(path))[0].keys() == {1, 2, 3, 4}


def test_database_with_a_row_that_cannot_be_read_is_not_replaced_and_the_row_is_named(config, path):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE specs SET spec = x'c1' WHERE job = 6")

    aside = r"and bgd sets aside what it cannot read \(job 6: its spec cannot be read"
    with pytest.raises(Refused, match=f"can be used, {aside}"):
        recover(config)


def test_backup_with_a_row_that_cannot_be_read_is_restored_without_it(config, path):
    path.unlink()
    with closing(sqlite3.connect(Path(config.backup.folder, "bgd-20251125T030000Z.db"))) as db, db:
        db.execute("UPDATE jobs SET policy = x'c1' WHERE id = 1")

    told = recover(config)

    [named] = [line for line in told if line.startswith("set aside")]
    assert "cannot be read in the backup: job 1: its policy cannot be read" in named
    assert asyncio.run(look_into(path))[0].keys() == {1, 2, 3, 4}


def test_job_that_cannot_be_read_is_held_and_named_and_its_release_fails_only_itself(own_daemon):
    bad, other = own_daemon.submit("--hold", "--name", "load", "true"), own_daemon.submit("--hold", "true")
    own_daemon.stop()
    with closing(sqlite3.connect(own_daemon.state_dir / "bgd.db")) as db, db:
        db.execute("UPDATE specs SET spec = x'c1' WHERE job = ?", (bad,))
        db.execute("UPDATE jobs SET state = 'unknown' WHERE id = ?", (bad,))
    own_daemon.start()

    listed = own_daemon.bgctl("list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "(unreadable)" in listed.stdout
    job = own_daemon.shown(bad)
    assert (job["state"], job["name"]) == ("held", "load")
    assert job["reason"].startswith("set aside: its state cannot be read (Invalid enum value 'unknown')")
    doctor = own_daemon.bgctl("doctor")
    assert f"set aside: job {bad}: its s" in doctor.stdout
    assert "bgctl list --state held" in doctor.stdout
    assert f"set aside: job {bad}: " in (own_daemon.folder / "bgd.log").read_text()

    assert own_daemon.bgctl("release", bad, other).returncode == 0
    assert own_daemon.bgctl("wait", other).returncode == 0
    assert own_daemon.bgctl("wait", bad).returncode != 0
    assert "what it was to run cannot be read in the database" in own_daemon.bgctl("show", bad).stdout
    retried = own_daemon.bgctl("retry", bad)
    assert (retried.returncode, "submit it again" in retried.stderr) == (1, True)
    assert own_daemon.bgctl("remove", bad).returncode == 0
    assert "set aside" not in own_daemon.bgctl("doctor").stdout


def test_schedule_that_cannot_be_read_is_named_and_can_be_set_again(own_daemon):
    for name in ("good", "bad"):
        assert own_daemon.bgctl("schedule", "add", name, "@daily", "--", "true").returncode == 0
    own_daemon.stop()
    with closing(sqlite3.connect(own_daemon.state_dir / "bgd.db")) as db, db:
        db.execute("UPDATE schedules SET spec = x'c1' WHERE name = 'bad'")
    own_daemon.start()

    schedules = json.loads(own_daemon.bgctl("schedule", "list", "--json").stdout)
    assert {each["name"]: each["problem"] for each in schedules} == {
        "bad": "its definition cannot be read in the database: replace or remove it",
        "good": None,
    }
    assert "set aside: schedule bad: its spec cannot be read" in own_daemon.bgctl("doctor").stdout
    assert own_daemon.bgctl("schedule", "add", "--replace", "bad", "@daily", "--", "true").returncode == 0
