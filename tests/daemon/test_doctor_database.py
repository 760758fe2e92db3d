"""What bgctl doctor says about the database and its backups, with and without a running daemon."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgd.daemon import doctor
from bgd.daemon.backups import recover
from bgd.daemon.doctor import check_backups, check_database
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.schema import FIRST, VERSION, open_writable
from bgd.daemon.storage.store import Store, begin_generation
from bgd.wire.views import Level
from tests.daemon.harness import configure


@pytest.fixture
def path(config):
    """The path of a database that its daemon has closed."""
    Path(config.daemon.state_dir).mkdir(mode=0o700, exist_ok=True)
    path = Path(config.daemon.state_dir, "bgd.db")
    open_writable(str(path)).close()
    return path


@pytest.fixture
def backup(config):
    """The path of a sound backup."""
    path = Path(config.backup.folder, "bgd-20260101T000000Z.db")
    path.parent.parent.mkdir(mode=0o700, exist_ok=True)
    path.parent.mkdir()
    open_writable(str(path)).close()
    return path


def fill(path, rows=300):
    with closing(sqlite3.connect(path)) as db, db:
        content = [(number, str(number), bytes(9000)) for number in range(rows)]
        db.executemany("INSERT INTO environments VALUES (?, ?, ?)", content)


def set_version(path, version):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version = {version}")


# --- the database ----------------------------------------------------------------------------------------


def test_sound_database_is_ok_and_not_changed(config, path):
    before = path.read_bytes()

    finding = check_database(config)

    assert (finding.level, finding.remedy) == (Level.OK, None)
    assert finding.message == f"{path} is intact, version {VERSION} of its tables"
    assert path.read_bytes() == before


def test_missing_database_is_reported_with_both_remedies(config):
    finding = check_database(config)

    assert finding.level is Level.NOTE
    assert finding.remedy == (
        "the first start makes it; if there was one, `bgd --recover` restores the newest backup"
    )


def test_database_of_an_earlier_bgd_is_upgraded_by_the_next_start(config, path, monkeypatch):
    monkeypatch.setattr(doctor, "VERSION", VERSION + 1)

    finding = check_database(config)

    assert finding.level is Level.NOTE
    assert f"(version {VERSION} of its tables, this bgd makes {VERSION + 1})" in finding.message
    assert str(finding.remedy).startswith("the next start upgrades it")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_database_of_a_newer_bgd_is_a_problem(config, path):
    set_version(path, VERSION + 1)

    finding = check_database(config)

    assert finding.level is Level.PROBLEM
    assert f"by a newer bgd (version {VERSION + 1} of its tables, this bgd knows up to" in finding.message
    assert str(finding.remedy).startswith("install that bgd again")


def test_damaged_database_is_reported_in_the_words_of_a_start(config, path):
    fill(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 4))

    finding = check_database(config)

    assert finding.level is Level.PROBLEM
    assert "`bgd --recover` restores the newest backup" in str(finding.remedy)
    with pytest.raises(StoreBroken) as refused:
        open_writable(str(path))
    assert str(refused.value) == f"{finding.message}; {finding.remedy}"


def test_foreign_tables_count_as_damage(config, path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX jobs_by_state")

    assert "its tables are not as bgd made them" in check_database(config).message


def test_database_that_takes_too_long_is_reported_as_partly_checked(config, path):
    fill(path)

    finding = check_database(config, patience=0)

    assert finding.level is Level.NOTE
    assert "no damage found in 0 s, which was too short to check all of it" in finding.message
    assert "bgctl backup FILE" in str(finding.remedy)


def test_database_that_is_not_a_regular_file_is_not_opened(config, path):
    path.unlink()
    os.mkfifo(path)

    finding = check_database(config)

    assert (finding.level, finding.message) == (Level.PROBLEM, f"{path} is not a regular file")


def test_unreadable_database_is_reported(config, path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_arguments, **_more: False)  # root may read everything

    finding = check_database(config)

    assert (finding.level, finding.message) == (Level.PROBLEM, f"{path} may not be read")


async def test_database_is_checked_while_a_daemon_has_it_open(config, path):
    store = await Store.open(str(path))
    assert check_database(config).level is Level.OK
    assert await store.write(begin_generation) == 1
    await store.close()
    assert sorted(each.name for each in path.parent.iterdir()) == ["bgd.db"]


def test_daemon_checks_its_own_database(daemon):
    daemon.submit("true")
    done = daemon.bgctl("doctor", "--json")
    (finding,) = [each for each in json.loads(done.stdout) if each["subject"] == "database"]
    assert finding["level"] == "ok"


def test_doctor_finds_a_damaged_database_without_a_daemon(home):
    home.state_dir.mkdir(parents=True, mode=0o700)
    path = home.state_dir / "bgd.db"
    open_writable(str(path)).close()
    path.write_bytes(path.read_bytes()[:5000])

    done = home.bgctl("doctor")

    assert f"problem  database: database {path}" in done.stdout
    assert "bgd --recover" in done.stdout


# --- the backups -----------------------------------------------------------------------------------------


def test_missing_backups_are_reported(config):
    assert "none yet" in check_backups(config).message
    never = replace(config, backup=replace(config.backup, every=None))
    assert check_backups(never).message == "none are written"


def test_copies_that_people_make_in_the_backup_folder_count_and_are_restored(config, backup, path):
    path.unlink()
    own = backup.with_name("by-hand.db")
    backup.rename(own)
    backup.with_name("bgd.db").write_bytes(b"not a backup")

    assert check_backups(config).message == "1, the newest 0s old and intact"
    assert f"restored from {own}, which is intact" in recover(config)[1]


def test_the_newest_of_all_copies_is_restored_whatever_their_names(config, backup, path):
    path.unlink()
    own = backup.with_name("by-hand.db")
    shutil.copy(backup, own)
    assert f"restored from {own}, " in recover(config)[1]

    path.unlink()
    os.utime(own, (1_700_000_000, 1_700_000_000))  # before the time in the other's name
    assert f"restored from {backup}, " in recover(config)[1]


def test_doctor_names_the_command_for_the_same_configuration(home):
    file = home.folder / "other file.toml"
    file.write_text("")
    home.state_dir.mkdir(parents=True, mode=0o700)
    (home.state_dir / "bgd.db").write_bytes(b"damaged" * 1000)

    shown = home.bgctl("--config", str(file), "doctor").stdout

    assert f"`bgd --config '{file}' --recover` restores the newest backup, if any; or move it away" in shown
    assert "`bgd --recover" not in shown


def test_folder_in_which_no_backup_can_be_written_is_a_problem(folder, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    config = configure(folder, rest=f"[backup]\nfolder = '{file}/deep'")

    finding = check_backups(config)

    assert finding.level is Level.PROBLEM
    assert finding.message == f"none can be written: {file} is a file, not a folder: move it away"
    assert finding.remedy == "see [backup] folder"


def test_read_only_backup_folder_is_a_problem(config, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere

    finding = check_backups(config)

    assert finding.level is Level.PROBLEM
    assert finding.message.endswith(" may not be written to")


def test_backup_folder_that_others_can_write_to_is_warned_about(config, backup):
    backup.parent.chmod(0o777)

    finding = check_backups(config)

    assert finding.level is Level.WARNING
    assert finding.message.startswith(
        f"{backup.parent} can be written by other users (mode 777), and a backup can make"
    )


def test_age_of_the_newest_sound_backup_is_reported_and_a_late_one_warned_about(config, backup):
    assert check_backups(config).message == "1, the newest 0s old and intact"
    os.utime(backup, (1, 1))
    assert check_backups(config).level is Level.WARNING


def test_a_backup_from_the_future_counts_as_new(config, backup):
    ahead = time.time() + 3600  # the time before the clock was set back
    os.utime(backup, (ahead, ahead))
    assert check_backups(config).message == "1, the newest 0s old and intact"


def test_damaged_backup_is_skipped_by_doctor_and_recovery(config, backup, path):
    newer = backup.with_name("bgd-20260102T000000Z.db")
    newer.write_bytes(b"x" * 5000)
    hour_ago = time.time() - 3600
    os.utime(backup, (hour_ago, hour_ago))

    finding = check_backups(config)

    assert finding.level is Level.WARNING
    assert finding.message.startswith(f"2, the newest 1h old of the intact ones: {newer} is damaged")
    path.unlink()
    assert f"skipped: {newer} is damaged" in "\n".join(recover(config))

    backup.unlink()
    finding = check_backups(config)
    assert finding.level is Level.PROBLEM
    assert finding.message.startswith(f"none can be restored: {newer} is damaged")


def test_backup_that_is_too_old_is_reported(config, backup):
    set_version(backup, FIRST - 1)

    finding = check_backups(config)

    assert finding.level is Level.PROBLEM
    assert finding.message.startswith(f"none can be restored: database {backup} is from before bgd 1.0 (")


def test_backup_that_takes_too_long_is_reported_as_partly_checked(config, backup):
    fill(backup)

    finding = check_backups(config, patience=0)

    assert finding.level is Level.NOTE
    assert "1, the newest 0s old; it could not be checked completely in 0 s" in finding.message
