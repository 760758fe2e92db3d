"""Backups are complete and checked, or they do not exist; clients are served meanwhile."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from contextlib import aclosing, closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgd.daemon import backups, foreign
from bgd.daemon.backups import Backups, backups_in
from bgd.daemon.foreign import ForeignFolders
from bgd.daemon.storage import recovery, schema
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.store import Store
from bgd.errors import Full, Refused
from bgd.system import clock
from bgd.wire.replies import BackupPart, Checkup, End
from bgd.wire.requests import GetBackup, GetCheckup
from bgd.wire.views import Level
from tests.daemon.harness import command, configure, running_supervisor, served
from tests.daemon.storage.builders import new, put
from tests.daemon.waiting import until
from tests.launcher.silent_mount import silent_mount
from tests.support import DEADLINE


async def sent(life):
    caller = await life.call()
    caller.send(GetBackup(7))
    pieces = []
    while not isinstance(reply := await caller.next(), End):
        assert isinstance(reply, BackupPart), reply
        pieces.append(reply.data)
        size = reply.size
    data = b"".join(pieces)
    assert len(data) == size
    return data


async def test_a_download_is_a_sound_copy_and_leaves_no_file(config, launcher):
    async with served(config, launcher) as life:
        await life.submit(command("/bin/echo", "x" * 600_000))

        data = await sent(life)

        assert await asyncio.to_thread(os.listdir, config.backup.folder) == []
        copy = Path(config.daemon.state_dir, "copy.db")
        await asyncio.to_thread(copy.write_bytes, data)
        assert recovery.check_copy(str(copy)).jobs == 1
        await life.submit()  # the daemon keeps running


async def test_backups_are_written_when_due_and_the_oldest_are_deleted(folder, launcher, monkeypatch):
    monkeypatch.setattr(backups, "RETRY_SECONDS", 0.05)
    config = configure(folder, rest="[backup]\nkeep = 2\nfolder = 'elsewhere'")
    config = replace(config, backup=replace(config.backup, every=0.05))
    old = [folder / f"elsewhere/bgd-2020010{day}T000000Z.db" for day in (1, 2)]
    halves = [folder / f"elsewhere/sent-0.part{end}" for end in ("", "-journal", "-wal", "-shm")]
    none = folder / "elsewhere/bgd-21210101T000000Z.db"  # a folder
    none.mkdir(parents=True)
    for path in (*old, *halves):
        path.write_text("")
        os.utime(path, (1, 1))
    async with running_supervisor(config, launcher) as life:
        await life.submit()
        task = life.tasks.create_task(Backups(life.supervisor, life.store).run())

        await until(lambda: not old[1].exists())
        task.cancel()
    paths = backups_in(config.backup.folder)
    assert len(paths) == 2
    assert not any(half.exists() for half in halves)
    assert none.exists()
    assert recovery.check_copy(paths[0]).jobs == 1
    assert stat.S_IMODE(os.stat(paths[0]).st_mode) == 0o600  # noqa: PTH116 - one call


async def test_a_backup_from_the_future_does_not_stop_new_ones(folder, launcher, monkeypatch):
    """The clock was ahead when the backup was written, and was set back afterwards."""
    monkeypatch.setattr(backups, "RETRY_SECONDS", 0.05)
    config = configure(folder, rest="[backup]\nkeep = 2\nfolder = 'elsewhere'")
    config = replace(config, backup=replace(config.backup, every=0.05))
    ahead = folder / "elsewhere/bgd-20900101T000000Z.db"
    ahead.parent.mkdir()
    ahead.write_text("")
    os.utime(ahead, (3.8e9, 3.8e9))
    async with running_supervisor(config, launcher) as life:
        task = life.tasks.create_task(Backups(life.supervisor, life.store).run())

        await until(lambda: len(backups_in(config.backup.folder)) == 2)
        task.cancel()
    assert ahead.exists()


async def test_a_reload_changes_times_and_folder_of_backups(folder, launcher, monkeypatch):
    monkeypatch.setattr(backups, "RETRY_SECONDS", 0.05)
    never = configure(folder, rest="[backup]\nevery = 'never'")
    planned = []

    class Watched(clock.Alarm):
        def set(self, at):
            planned.append(at)
            super().set(at)

    async with running_supervisor(never, launcher) as life:
        monkeypatch.setattr(clock, "Alarm", Watched)
        task = life.tasks.create_task(Backups(life.supervisor, life.store).run())
        await until(lambda: planned == [None])
        elsewhere = replace(never.backup, every=60.0, folder=f"{folder}/elsewhere")

        life.supervisor.configure(replace(never, backup=elsewhere))

        await until(lambda: backups_in(elsewhere.folder))
        task.cancel()


async def test_reloads_do_not_delay_the_first_backup(folder, launcher, monkeypatch):
    monkeypatch.setattr(backups, "RETRY_SECONDS", 1.0)
    config = configure(folder, rest="[backup]\nfolder = 'elsewhere'")

    def reload_until_written(life):
        life.supervisor.configure(config)
        return backups_in(config.backup.folder)

    async with running_supervisor(config, launcher) as life:
        task = life.tasks.create_task(Backups(life.supervisor, life.store).run())

        await until(lambda: reload_until_written(life))
        task.cancel()


async def test_a_clock_that_was_ahead_deletes_no_newer_backup(folder, launcher, monkeypatch):
    monkeypatch.setattr(backups, "RETRY_SECONDS", 0.05)
    config = configure(folder, rest="[backup]\nkeep = 2\nfolder = 'elsewhere'")
    config = replace(config, backup=replace(config.backup, every=0.05))
    ahead = [folder / f"elsewhere/bgd-2090010{day}T000000Z.db" for day in (1, 2)]
    ahead[0].parent.mkdir()
    for path in ahead:
        path.write_text("")
        os.utime(path, (3.8e9, 3.8e9))
    async with running_supervisor(config, launcher) as life:
        task = life.tasks.create_task(Backups(life.supervisor, life.store).run())

        await until(lambda: not any(path.exists() for path in ahead))
        task.cancel()
    assert recovery.check_copy(backups_in(config.backup.folder)[0])


async def test_a_backup_is_moved_by_a_process_to_a_folder_that_may_not_answer(folder, launcher, monkeypatch):
    monkeypatch.setattr(backups, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(ForeignFolders, "may_hang", lambda _, path: path.endswith("elsewhere"))
    config = configure(folder, rest="[backup]\nkeep = 1\nfolder = 'elsewhere'")
    older = folder / "elsewhere/bgd-20250101T000000Z.db"
    older.parent.mkdir()
    older.touch()
    os.utime(older, (0, 0))
    async with served(config, launcher) as life:
        await life.submit()
        task = life.tasks.create_task(life.backups.run())

        await until(lambda: not older.exists())
        task.cancel()
        [path] = backups_in(config.backup.folder)
        assert recovery.check_copy(path).jobs == 1
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116 - one call
        await until(lambda: not any(Path(config.daemon.state_dir, "backups").iterdir()))
        assert await sent(life), "which is never written there"
        await reap(life)


async def reap(life):
    """Wait for the processes that were given up, as a daemon does when it looks at their folder again."""
    await until(
        lambda: all(each.poll() is not None for late in life.backups.folders._late.values() for each in late)
    )


async def test_a_backup_folder_that_does_not_answer_is_reported(folder, launcher, monkeypatch):
    monkeypatch.setattr(backups, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(backups, "PATIENCE", 2.0)
    monkeypatch.setattr(foreign, "PATIENCE", 2.0)
    with silent_mount(folder) as mount:
        config = configure(folder, rest=f"[backup]\nfolder = '{mount.point}/backups'")
        async with served(config, launcher) as life:
            task = life.tasks.create_task(life.backups.run())
            await until(lambda: life.backups.problem)
            task.cancel()
            assert str(life.backups.problem).startswith(f"no backup: {mount.point}/backups ")
            assert await asyncio.to_thread(os.listdir, f"{config.daemon.state_dir}/backups") == []
            found = (await (await life.call()).ask(GetCheckup(1), Checkup)).findings
        assert [each.subject for each in found if "not answer" in each.message] == ["backups", "backups"]
        await reap(life)


async def test_unreadable_backup_folder_is_reported(folder, launcher, monkeypatch, caplog):
    monkeypatch.setattr(backups, "RETRY_SECONDS", 0.05)
    config = configure(folder, rest="[backup]\nfolder = 'elsewhere'")
    (folder / "elsewhere").write_text("")
    async with running_supervisor(config, launcher) as life:
        task = life.tasks.create_task(Backups(life.supervisor, life.store).run())

        await until(lambda: caplog.text.count("elsewhere/bgd-") >= 2)
        (folder / "elsewhere").unlink()
        await until(lambda: backups_in(config.backup.folder))
        task.cancel()
    assert "/elsewhere/bgd-" in caplog.text
    assert f"{folder}/elsewhere is a file, not a folder: move it away" in caplog.text


async def test_doctor_reports_that_the_last_backup_failed(config, launcher, monkeypatch):
    monkeypatch.setattr(backups, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(backups, "SPARE", 1 << 60)
    async with served(config, launcher) as life:
        task = life.tasks.create_task(life.backups.run())
        caller = await life.call()
        await until(lambda: life.backups.problem)

        reply = await caller.ask(GetCheckup(1), Checkup)

        (finding,) = [each for each in reply.findings if "the last attempt failed" in each.message]
        assert (finding.subject, finding.level) == ("backups", Level.PROBLEM)
        assert finding.message.startswith("the last attempt failed: no backup: it needs ")
        monkeypatch.setattr(backups, "SPARE", 0)
        await until(lambda: life.backups.problem is None)
        task.cancel()


async def test_backup_without_room_on_the_disk_is_refused(config, launcher, monkeypatch):
    monkeypatch.setattr(backups, "SPARE", 1 << 60)
    async with running_supervisor(config, launcher) as life:
        with pytest.raises(
            Full, match=r"no backup: it needs .*, and .*/backups has .* free: make room there"
        ):
            async with Backups(life.supervisor, life.store).download():
                pass


async def test_backup_that_cannot_be_written_is_refused_and_leaves_nothing(config, launcher, monkeypatch):
    async with running_supervisor(config, launcher) as life:
        monkeypatch.setattr(schema, "VERSION", 0)
        with pytest.raises(Refused, match=r"no backup: .* was written by a newer bgd"):
            async with Backups(life.supervisor, life.store).download():
                pass
    assert await asyncio.to_thread(os.listdir, config.backup.folder) == []


class Gate:
    """Wraps a function that runs on a thread, so that it waits at a gate before or after its work."""

    def __init__(self, function):
        self._function = function
        self.arrived, self.opened, self.left = threading.Event(), threading.Event(), threading.Event()

    def before(self, *args):
        self._pass()
        result = self._function(*args)
        self.left.set()
        return result

    def after(self, *args):
        result = self._function(*args)
        self._pass()
        self.left.set()
        return result

    def _pass(self):
        self.arrived.set()
        assert self.opened.wait(DEADLINE)


def files_open_below(folder):
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [link for link in links if Path(folder) in link.readlink().parents]


async def cancel_at(gate, task, *, times=1):
    await until(gate.arrived.is_set)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(gate.left.is_set)


async def test_cancelled_backup_keeps_no_descriptor_of_its_copy(config, launcher, monkeypatch):
    gate = Gate(backups._open_finished)
    monkeypatch.setattr(backups, "_open_finished", gate.after)
    async with running_supervisor(config, launcher) as life:

        async def send():
            async with Backups(life.supervisor, life.store).download():
                pass

        await cancel_at(gate, asyncio.create_task(send()), times=2)

        assert await asyncio.to_thread(files_open_below, config.backup.folder) == []
    assert await asyncio.to_thread(os.listdir, config.backup.folder) == []


async def test_descriptor_of_a_backup_is_open_while_a_thread_reads_it(config, launcher, monkeypatch):
    """If the number were free, a socket could get it, and the thread would read the socket's bytes."""
    gate = Gate(os.read)
    async with running_supervisor(config, launcher) as life:

        async def send():
            async with Backups(life.supervisor, life.store).download() as (_, pieces), aclosing(pieces):
                monkeypatch.setattr(os, "read", gate.before)
                await anext(pieces)

        await cancel_at(gate, asyncio.create_task(send()))  # the gate is passed only if the read succeeded
        monkeypatch.undo()

        assert await asyncio.to_thread(files_open_below, config.backup.folder) == []


async def test_backup_that_is_cancelled_while_it_is_written_leaves_no_file(config, launcher, monkeypatch):
    gate = Gate(recovery.write_copy)
    monkeypatch.setattr(recovery, "write_copy", gate.before)
    async with running_supervisor(config, launcher) as life:

        async def send():
            async with Backups(life.supervisor, life.store).download():
                pass

        task = asyncio.create_task(send())
        await cancel_at(gate, task)

    assert await asyncio.to_thread(os.listdir, config.backup.folder) == []


@pytest.mark.parametrize("damage", ["cut", "zeros", "other", "missing"])
def test_damaged_copy_never_counts_as_sound(path, damage):
    async def write():
        store = await Store.open(path)
        await put(store, *(new(number, env={"A": "1" * 900}) for number in range(1, 300)))
        await store.close()

    asyncio.run(write())
    assert recovery.check_copy(path).jobs == 299
    data = Path(path).read_bytes()
    match damage:
        case "cut":
            Path(path).write_bytes(data[: len(data) // 2])
        case "zeros":
            Path(path).write_bytes(data[:8192] + bytes(8192) + data[16384:])
        case "other":
            Path(path).unlink()
            with closing(sqlite3.connect(path)) as db:
                db.execute("CREATE TABLE jobs (id)")
        case _:
            Path(path).unlink()

    with pytest.raises(StoreBroken, match=r"bgd\.db (is damaged|belongs to another program|cannot be read)"):
        recovery.check_copy(path)
