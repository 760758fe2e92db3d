"""The sweep (R5): a new launcher kills the leftovers of its predecessor before it answers any supervisor."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import select
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from bgd.core.job import Outcome
from bgd.errors import BgdError
from bgd.launcher.attempt import end_of
from bgd.launcher.cgroup import Group
from bgd.launcher.context import Context
from bgd.launcher.journal import AttemptRecords, Began, Instance, JournalContents, boot_of, or_without
from bgd.launcher.log_file import bytes_logged
from bgd.launcher.process import open_files, open_pidfd, read_process
from bgd.launcher.scan import Scan
from bgd.launcher.tree import Ladder, Tree, key_from_mark
from bgd.settings.paths import lock_error
from bgd.system.clock import boot_id, elapsed
from bgd.wire.launching import AttemptEnded, AttemptKey, log_name

log = logging.getLogger(__name__)


async def sweep(left: JournalContents, context: Context) -> tuple[list[AttemptEnded], list[Began]]:
    """End leftovers; return all ends to be reported, whether the predecessor saw them or not.

    Attempts on a cluster run on and are returned, even if Slurm does not answer.
    """
    ends = [records.finished.ended for records in left.attempts.values() if records.finished]
    unfinished = {key: records for key, records in left.attempts.items() if not records.finished}
    remote = [each.began for each in unfinished.values() if each.began and each.began.launch]
    for began in remote:
        del unfinished[began.key]
    # without a boot id, in a damaged journal, only marks are reliable: pids and pipes may be reused by now
    has_boot = left.instance is not None
    is_same_boot = left.instance is None or boot_of(left.instance.id) == boot_of(context.journal.instance.id)
    if unfinished and is_same_boot:
        log.warning("ending attempts that a dead launcher left: %d", len(unfinished))
        async with asyncio.TaskGroup() as group:
            for key, records in unfinished.items():
                tree = _tree_of(key, records) if has_boot else _marked_tree(key)
                if tree is not None:
                    group.create_task(kill_tree(tree, context))
    if is_same_boot and left.instance is not None and left.instance.groups is not None:
        Group(left.instance.groups).remove()
    for key, records in unfinished.items():
        ended = _unseen(key, records, context.logs, is_same_boot=is_same_boot)
        context.journal.add_end(ended, durable=False)
        ends.append(ended)
    context.journal.sync()
    return ends, remote


async def end_strays(store: str, context: Context) -> None:
    """End all processes with a mark of this store; to be called before any of its attempts is started here.

    This is for a lost or damaged journal: only marks show what its launcher had started.

    Raises:
        LauncherBusy: that launcher still runs, for example because this database is a copy of one in use.
    """
    scan = await context.scanner.scan(0)
    marked = {
        pid: key for pid, each in scan.marks.items() if (key := key_from_mark(each)) and key.store == store
    }
    launcher = next((each for each in _above(marked, scan) if is_launcher(each)), None)
    if launcher is not None:
        raise LauncherBusy(
            f"process {launcher}, another launcher, runs jobs of this database: it is a copy of one in use. "
            "Jobs start here once those have ended"
        )
    if marked:
        keys = set(marked.values())
        log.warning("ending attempts that are in no journal: %d", len(keys))
        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(kill_tree(_marked_tree(key), context))
    with or_without("the end of the search"):  # then the next launcher searches again
        context.journal.record_search_done()


def _above(marked: Collection[int], scan: Scan) -> set[int]:
    """Return the pids of all ancestors of these processes, without these processes."""
    above: set[int] = set()
    for pid in marked:
        process = scan.processes.get(pid)
        while process is not None and process.parent not in above:
            above.add(process.parent)
            process = scan.processes.get(process.parent)
    return above - set(marked)


async def kill_tree(tree: Tree, context: Context) -> None:
    """Kill a tree at once: its output can no longer be logged, and its end can no longer be seen."""
    try:
        await Ladder(tree, context.scanner, context.deadlines, grace=0.0).bring_down()
    except Exception:  # an error of one job must not stop the launcher
        log.exception("job %d: not all of its processes could be ended", tree.key.job)
        tree.kill_unseen()


def _marked_tree(key: AttemptKey) -> Tree:
    return Tree(key, stream=None, since=0.0, pid=None)


def _tree_of(key: AttemptKey, records: AttemptRecords) -> Tree | None:
    began, first = records.began, records.first_process
    if began is None:
        return None
    pid, ticks = (first.pid, first.ticks) if first else (None, None)
    group = None if began.group is None else Group(began.group)
    return Tree(key, lambda: began.pipe, began.since, pid, ticks, tag=began.tag, group=group)


def _unseen(key: AttemptKey, records: AttemptRecords, logs: str, *, is_same_boot: bool) -> AttemptEnded:
    log_bytes = bytes_logged(f"{logs}/{log_name(key.job, key.attempt)}")
    started_at = records.began.started_at if records.began else None
    if not is_same_boot:
        return end_of(key, Outcome.INTERRUPTED, "the machine went down", log_bytes, started_at)
    ran_for = elapsed() - records.began.since if records.began else None
    return end_of(key, Outcome.UNKNOWN, "its launcher died", log_bytes, started_at, ran_for)


# --- Lock and socket: a state folder has one launcher, and one socket to reach it (R6).


class LauncherBusy(BgdError):
    """Another launcher is running; the message names it."""


def take_lock(state: Path) -> int:
    """Return a descriptor that holds the folder's lock while it or a copy of it is open.

    Raises:
        LauncherBusy: another process holds it.
        OSError: the lock file cannot be opened.
        ConfigError: the file system does not support locks.
    """
    path = state / _LOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        who = f"process {holder}" if holder else "another process"
        raise LauncherBusy(f"another launcher is running: {who} holds {path}") from error
    except OSError as error:
        os.close(fd)
        raise lock_error(path, error) from error
    return fd


def write_lock_pid(lock: int) -> None:
    """Write this process's pid into the lock file, for users: nothing depends on it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def check_predecessor_ended(predecessor: Instance | None, state: Path) -> None:
    """Check that the launcher whose journal was found has ended: only then may its leftovers be ended.

    The lock does not show this if it was deleted, or if the folder is a copy of one in use. The jobs of such
    a folder must be neither killed nor started again.

    Raises:
        LauncherBusy: that launcher still runs.
        OSError: this cannot be determined now.
    """
    if predecessor is None or predecessor.pid is None or boot_of(predecessor.id) != boot_id():
        return
    process = read_process(predecessor.pid)
    if process is None or process.ticks != predecessor.ticks or process.is_dead:
        return
    pidfd = open_pidfd(process)
    if pidfd is None:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        # a killed process loses its lock a moment before it ends
        has_ended = bool(poll.poll(_DEATH_PATIENCE * 1000))
    finally:
        os.close(pidfd)
    if not has_ended:
        raise LauncherBusy(
            f"process {process.pid}, the launcher that wrote the journal in {state}, still runs: the folder "
            "is a copy of one in use, or its launcher.lock was deleted. Jobs start here once it has ended"
        )


def is_launcher(pid: int) -> bool:
    """Return whether a process is a launcher of any folder: it has a lock file open, as no job has."""
    with suppress(OSError):
        return any(file.removesuffix(" (deleted)").endswith("/" + _LOCK) for _, file in open_files(pid))
    return False


def bind(state: Path) -> socket.socket:
    """Return the listening socket; only the holder of the lock may call this.

    Raises:
        OSError: it cannot be bound.
    """
    (state / _SOCKET).unlink(missing_ok=True)
    folder = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{_SOCKET}")  # the kernel takes 107 bytes, and paths are longer
    except OSError:
        listener.close()
        raise
    finally:
        os.close(folder)
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


_LOCK = "launcher.lock"
_SOCKET = "launcher.sock"
_BACKLOG = 16
_DEATH_PATIENCE = 2.0  # seconds
