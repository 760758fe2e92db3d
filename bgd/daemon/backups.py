"""Backups: write checked copies of the database, and restore a lost database from one (`bgd --recover`)."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from bgd.daemon import folder
from bgd.daemon.foreign import PATIENCE, ForeignFolders, NoAnswer
from bgd.daemon.launching import journal_positions
from bgd.daemon.logs import highest_job
from bgd.daemon.storage import recovery
from bgd.daemon.storage.database import (
    BESIDE,
    DECODE_ERRORS,
    StoreBroken,
    StoreOfOtherVersion,
    delete_copy,
    fsync_path,
)
from bgd.daemon.storage.recovery import DatabaseCopy, RecoveryResult
from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.threads import run_to_completion
from bgd.errors import Full, Refused
from bgd.settings.config import Config
from bgd.settings.paths import obstacle_at
from bgd.system import clock
from bgd.system.clock import now
from bgd.text.units import counted, format_duration, format_size

logger = logging.getLogger(__name__)

RETRY_SECONDS = 3600.0  # until a failed backup is tried again, and until the first one
SPARE = 8 << 20  # bytes that a backup leaves free on the disk
MAX_DOWNLOADS = 4  # at a time, because each needs room on the disk
CHUNK = 256 << 10  # bytes of a backup that are read at once
_SLOWEST = 1e6  # bytes a second, the least that a folder which may not answer must take

R = TypeVar("R")

_NAME = re.compile(r"bgd-\d{8}T\d{6}Z\.db")
_NAME_AT = "bgd-%Y%m%dT%H%M%SZ.db"
_MAX_ROWS = 5  # that are named in one message
_PART = ".part"  # suffix of incomplete copies


def backups_in(folder: str, *, every_name: bool = False) -> list[str]:
    """Return the paths of the backups in a folder, newest first.

    `every_name`: those that `bgctl backup` has written there as well, as NAME.db.

    A backup with a time in the future was written before the clock was set back, so it comes last. If it came
    first, newer backups would be deleted as soon as they are written.
    """
    present = now().wall
    names = {}  # each with one that says when it was written
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file():
                continue
            if _NAME.fullmatch(entry.name):
                names[entry.name] = entry.name
            elif every_name and entry.name.endswith(".db") and entry.name != "bgd.db":  # that is in use
                names[entry.name] = _name_at(min(entry.stat().st_mtime, present + 1))
    latest = _name_at(present)
    found = sorted(names, key=lambda name: (names[name] <= latest, names[name]), reverse=True)
    return [f"{folder}/{name}" for name in found]


class Backups:
    """Writes backups into the configured folder, and sends copies to clients that ask for one.

    If that folder may not answer, copies are written beside the database, and a process moves backups there.

    Attributes:
        problem: why the last backup that was due was not written; None if it was.
        folders: checks folders that may not answer.
    """

    def __init__(self, supervisor: Supervisor, store: Store) -> None:
        self._supervisor = supervisor
        self._store = store
        self.folders = ForeignFolders()
        self._writing = asyncio.Lock()
        self._downloads = 0
        self._due = asyncio.Event()
        self._alarm = clock.Alarm(asyncio.get_running_loop(), self._due.set, on_wall_clock=True)
        self._began_at = now().wall
        self._tried_at: float | None = None
        self.problem: str | None = None
        supervisor.on_configured.append(self._reconsider)

    async def run(self) -> None:
        """Write a backup whenever one is due, forever."""
        try:
            for each in {self._config.backup.folder, self._part_folder}:
                await self._look(each, _clear_up)
            next_at = await self._next_at()
            while True:
                self._alarm.set(next_at)
                await self._due.wait()
                self._due.clear()
                is_due = next_at is not None and next_at <= now().wall  # or something changed
                if is_due and self._config.backup.every is not None:
                    await self._back_up()
                    self._tried_at = now().wall
                next_at = await self._next_at()
        finally:
            self._alarm.close()

    @asynccontextmanager
    async def download(self) -> AsyncGenerator[tuple[int, AsyncGenerator[bytes, None]], None]:
        """Yield the size of a new copy and a generator of its bytes. The copy is not kept.

        Raises:
            Refused: the copy cannot be written.
            Full: there is no room for it, or there are too many downloads.
        """
        if self._downloads >= MAX_DOWNLOADS:
            raise Full(f"no backup: {MAX_DOWNLOADS} are being sent already: try again when one is done")
        part = f"{self._part_folder}/sent-{os.urandom(8).hex()}{_PART}"
        self._downloads += 1
        try:
            async with self._copy(part):
                descriptor = await run_to_completion(os.close, _open_finished, part, None)
            try:
                yield os.fstat(descriptor).st_size, _chunks(descriptor)
            finally:
                os.close(descriptor)
        finally:
            self._downloads -= 1

    @property
    def _config(self) -> Config:
        return self._supervisor.config

    def _reconsider(self) -> None:
        self.problem = None  # it was a problem of the old configuration
        self._due.set()

    async def _next_at(self) -> float | None:
        """Return when the next backup is due: not at once after the start or after a failure."""
        every = self._config.backup.every
        if every is None:
            return None
        newest = await self._look(self._config.backup.folder, _written_at)
        present = now().wall  # times in the future are from before the clock was set back
        since = min(self._began_at if self._tried_at is None else self._tried_at, present)
        soonest = since + min(RETRY_SECONDS, every)
        if newest is None:
            return soonest
        due = min(newest, present) + every
        return due if self._tried_at is None else max(due, soonest)

    @property
    def _part_folder(self) -> str:
        """Where copies are written, which answers."""
        folder = self._config.backup.folder
        return f"{self._config.daemon.state_dir}/backups" if self.folders.may_hang(folder) else folder

    async def _look(self, folder: str, function: Callable[[str], R]) -> R | None:
        """Return the result of a function on a folder; None if the folder does not answer."""
        try:
            return await self.folders.call(folder, function, folder)
        except NoAnswer as error:
            logger.warning("%s", error)
            return None

    async def _back_up(self) -> None:
        config = self._config.backup
        path = f"{config.folder}/{_name_at(now().wall)}"
        part = f"{self._part_folder}/{Path(path).name}{_PART}"
        try:
            async with self._copy(part) as size:
                if self.folders.may_hang(config.folder):
                    await self._move(part, path, size)
                else:
                    os.close(await run_to_completion(os.close, _open_finished, part, path))
                    await asyncio.to_thread(_delete_oldest, config.folder, config.keep)
        except Refused as error:
            self.problem = str(error)
            logger.warning("%s; bgd tries again within the hour", error)
        else:
            self.problem = None
            logger.info("backup written: %s", path)

    async def _move(self, part: str, path: str, size: int) -> None:
        """Move a copy to the configured folder, which may not answer."""
        folder, patience = self._config.backup.folder, PATIENCE + size / _SLOWEST
        try:
            await self.folders.call_apart(folder, patience, _move_copy, part, path, self._config.backup.keep)
        except NoAnswer as error:
            raise Refused(f"no backup: {error}") from error
        except OSError as error:
            raise Refused(f"no backup: {path}: {error.strerror}") from error

    @asynccontextmanager
    async def _copy(self, part: str) -> AsyncGenerator[int, None]:
        """Write a checked copy to `part`, and give its size in bytes about.

        Raises:
            Refused: that, or what the block does with it, is not possible.
        """
        async with self._writing:
            await self._supervisor.saved()
            needed = await self._store.read(recovery.copy_size)
            try:
                await asyncio.to_thread(_prepare_folder, part, needed)
                await self._store.copy_to(part)
                yield needed
            except OSError as error:
                reason = obstacle_at(Path(part).parent) or error.strerror
                raise Refused(f"no backup: {part.removesuffix(_PART)}: {reason}") from error
            except (StoreBroken, sqlite3.Error) as error:
                raise Refused(f"no backup: {error}") from error
            finally:
                with suppress(OSError):
                    delete_copy(part)


def _name_at(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime(_NAME_AT)


def _prepare_folder(path: str, needed: int) -> None:
    """Make the folder of a backup, and raise Full if its disk has no room for `needed` bytes."""
    folder = Path(path).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if free < needed + SPARE:
        raise Full(
            f"no backup: it needs {format_size(needed)}, and {folder} has {format_size(free)} free: "
            "make room there"
        )


def _open_finished(part: str, path: str | None) -> int:
    """Rename a complete copy to `path`, or unlink it if that is None; return a descriptor to read it."""
    descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if path is None:
            Path(part).unlink()
        else:
            Path(part).rename(path)
            fsync_path(str(Path(path).parent))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _move_copy(part: str, path: str, keep: int) -> None:
    """Move a complete copy to a folder on another file system, and delete the oldest copies there."""
    new = f"{path}{_PART}"
    _prepare_folder(new, Path(part).stat().st_size)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with Path(part).open("rb") as source, os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(descriptor)
    os.close(_open_finished(new, path))
    _delete_oldest(str(Path(path).parent), keep)


def _delete_oldest(folder: str, keep: int) -> None:
    try:
        for path in backups_in(folder)[keep:]:
            Path(path).unlink(missing_ok=True)
    except OSError as error:
        logger.warning("older backups cannot be deleted: %s", error)


def _clear_up(folder: str) -> None:
    """Remove copies that were incomplete when their daemon ended."""
    try:
        for end in BESIDE:
            for path in Path(folder).glob(f"*{_PART}{end}"):
                path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("the backup folder cannot be read: %s", error)


def _written_at(folder: str) -> float | None:
    """Return when the newest backup was written; None if none is readable."""
    with suppress(OSError):
        for path in backups_in(folder):
            with suppress(FileNotFoundError):
                return Path(path).stat().st_mtime
    return None


async def _chunks(descriptor: int) -> AsyncGenerator[bytes, None]:
    while chunk := await run_to_completion(None, os.read, descriptor, CHUNK):
        yield chunk


# --- Recovery: restore a lost database from a backup


def recover(config: Config, wanted: str | None = None) -> list[str]:
    """Restore the newest intact backup, or the file `wanted`; return a report as lines.

    Raises:
        Refused: the database is intact.
        StoreBroken: there is no intact backup.
        BgdError: a daemon runs, or the folders cannot be used.
    """
    folder.prepare(config)
    with folder.locked(config):
        new = f"{config.daemon.state_dir}/bgd.db.new"
        try:
            return list(_recover(config, wanted, new))
        except StoreBroken:
            raise
        except (OSError, *DECODE_ERRORS) as error:
            raise StoreBroken(f"nothing is restored: {error}") from error
        finally:
            delete_copy(new)


def _recover(config: Config, wanted: str | None, new: str) -> Iterator[str]:
    """Restore a backup by way of the file `new`; yield the lines of the report."""
    path = f"{config.daemon.state_dir}/bgd.db"
    try:
        problem = recovery.problem_with(path)
    except StoreOfOtherVersion as error:
        raise Refused(
            f"{error.problem}, so nothing is restored: install that bgd again, or move the database away to"
            " restore a backup"
        ) from error
    if problem is None:
        rows = recovery.unreadable_rows(path)
        state = (
            f"can be used, and bgd sets aside what it cannot read ({some_of(rows)})" if rows else "is intact"
        )
        raise Refused(f"database {path} {state}, so nothing is restored: move it away to restore a backup")
    if wanted is None and (reason := open_to_others(config.backup.folder)) is not None:
        raise StoreBroken(
            f"{problem}; nothing is restored: {reason}, and a backup can make bgd run anything",
            "close the folder (chmod go-w), or name a file that you trust: bgd --recover FILE",
        )
    candidates = backups_in(config.backup.folder, every_name=True) if wanted is None else [wanted]
    backup, problems = recovery.newest_sound_copy(candidates, check=partial(recovery.take_copy, new))
    if backup is None:
        tried = "; ".join(problems) or f"{config.backup.folder} has none"
        raise StoreBroken(
            f"{problem}; there is no intact backup: {tried}",
            "name another copy (bgd --recover FILE), or move the database away to start with an empty one",
        )
    highest = max(backup.last_id, recovery.highest_id_in(path), highest_job(config.log_dir))
    stamp = datetime.fromtimestamp(now().wall, UTC).strftime("%Y%m%dT%H%M%SZ")
    restored = recovery.restore(new, path, highest, journal_positions(config.daemon.state_dir), stamp)
    yield f"{problem}" + (f"; it is kept as {restored.aside}" if restored.aside else "")
    yield from (f"skipped: {each}" for each in problems)
    yield from _report(backup, restored, highest)


def open_to_others(folder: str) -> str | None:
    """Return why other users could have written files in a backup folder; None if they could not."""
    try:
        reason = recovery.foreign_writers(os.stat(folder))  # noqa: PTH116 - a plain string here
    except FileNotFoundError:
        return None
    return None if reason is None else f"{folder} {reason}"


def some_of(rows: list[str]) -> str:
    """Return the first of many things in one line, and how many more there are."""
    more = len(rows) - _MAX_ROWS
    return "; ".join(rows[:_MAX_ROWS]) + (f"; and {more} more" if more > 0 else "")


def _report(backup: DatabaseCopy, restored: RecoveryResult, highest: int) -> Iterator[str]:
    written = f"{datetime.fromtimestamp(backup.written_at).astimezone():%Y-%m-%d %H:%M:%S}"
    age = format_duration(max(now().wall - backup.written_at, 0) // 1)
    lost = f"any job after {backup.last_id}"
    if highest > backup.last_id:
        lost = f"jobs {backup.last_id + 1} to {highest}, and perhaps later ones"
    yield f"restored from {backup.path}, which is intact: {counted(backup.jobs, 'job')}"
    yield f"lost since {written} ({age} ago): {lost}, and changes of earlier ones"
    if restored.held:
        yield (
            f"held when bgd starts: {counted(restored.held, 'job')} that waited then and may have run since; "
            "see bgctl list --state held, then bgctl release or bgctl cancel"
        )
    if restored.paused:
        yield (
            f"paused: {counted(restored.paused, 'schedule')}, because times since then may have run;"
            " see bgctl schedule list, then bgctl schedule resume NAME"
        )
    if restored.running:
        yield (
            f"unsure: {counted(restored.running, 'job')} that ran then; bgd takes over what still runs;"
            " the outcome of the others is unknown, and bgd reruns none of them automatically"
        )
    if restored.unreadable:
        yield f"set aside, because it cannot be read in the backup: {some_of(restored.unreadable)}"
    yield f"new jobs get ids from {restored.last_id + 1} on, so that no id is used twice"

    yield "start bgd as usual"
