"""The database file: who may read it, and which files are refused."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.schema import VERSION
from bgd.daemon.storage.store import Store, begin_generation
from tests.daemon.storage.builders import new, put


def content_of(path):
    return Path(path).read_bytes()


def mode_of(path):
    return stat.S_IMODE(Path(path).stat().st_mode)


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def write(path, content):
    Path(path).write_bytes(content)


async def test_new_file_is_private_and_so_is_its_wal(store, path, tmp_path):
    await put(store, new(1))

    assert sorted(names_in(tmp_path)) == ["bgd.db", "bgd.db-wal"]  # no -shm, whose pages may lack room
    for file in (path, f"{path}-wal"):
        assert mode_of(file) == 0o600


async def test_other_programs_cannot_open_the_file_meanwhile(store, path):
    command = f"import sqlite3; sqlite3.connect({path!r}, timeout=0).execute('SELECT * FROM jobs')"
    found = await store.read_apart(lambda db: db.execute("SELECT count(*) FROM jobs").fetchone())
    assert found == (0,)

    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", command], capture_output=True, text=True, check=False
    )

    assert done.stderr.endswith("sqlite3.OperationalError: database is locked\n")


async def test_every_file_has_a_store_id_of_its_own(path, tmp_path):
    found = []
    for file in (path, path, str(tmp_path / "other.db")):
        store = await Store.open(file)
        found.append(store.store_id)
        await store.close()

    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 32


async def test_every_start_has_a_higher_generation(path):
    found = []
    for _ in range(3):
        store = await Store.open(path)
        found.append(await store.write(begin_generation))
        await store.close()

    assert found == [1, 2, 3]


async def test_closing_leaves_one_file_with_everything_in_it(path, tmp_path):
    store = await Store.open(path)
    await put(store, new(1))
    await store.close()

    assert names_in(tmp_path) == ["bgd.db"]
    db = sqlite3.connect(path)
    assert db.execute("SELECT id FROM jobs").fetchall() == [(1,)]
    db.close()


async def test_commits_are_synced_before_they_are_answered(store):
    async def of_writer(name):
        return await store.write(lambda db: db.execute(f"PRAGMA {name}").fetchone()[0])

    assert await of_writer("journal_mode") == "wal"
    assert await of_writer("synchronous") == 2  # FULL


async def test_database_that_was_emptied_is_refused_and_left_alone(path):
    store = await Store.open(path)
    await put(store, new(1))
    await store.close()
    os.truncate(path, 0)

    with pytest.raises(StoreBroken, match="is empty"):
        await Store.open(path)

    assert content_of(path) == b""


async def refusal_of(path):
    with pytest.raises(StoreBroken) as refused:
        await Store.open(path)
    message = str(refused.value)
    assert path in message
    assert "\n" not in message
    return message


async def test_file_of_a_newer_bgd_is_refused_and_unchanged(path):
    store = await Store.open(path)
    await store.close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = content_of(path)

    assert "written by a newer bgd" in await refusal_of(path)

    assert content_of(path) == before


async def test_database_of_another_program_is_refused_and_unchanged(path):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE customers (name TEXT)")
    db.close()
    before = content_of(path)

    assert "another program" in await refusal_of(path)

    assert content_of(path) == before


async def test_file_that_is_not_a_database_is_refused(path):
    write(path, b"# my notes\n" * 100)

    assert "file is not a database; `bgd --recover` restores the newest backup" in await refusal_of(path)


async def test_missing_folder_is_refused(tmp_path):
    assert "cannot be created: No such file" in await refusal_of(str(tmp_path / "nowhere" / "bgd.db"))


async def test_folder_in_place_of_the_file_is_refused(tmp_path):
    assert "unable to open database file" in await refusal_of(str(tmp_path))


async def test_damaged_file_is_refused(path):
    store = await Store.open(path)
    await put(store, *(new(number) for number in range(1, 2001)))
    await store.close()
    content = bytearray(content_of(path))
    for page in range(4096, len(content), 3 * 4096):
        content[page : page + 64] = b"\xff" * 64
    write(path, content)

    assert "`bgd --recover` restores the newest backup" in await refusal_of(path)
