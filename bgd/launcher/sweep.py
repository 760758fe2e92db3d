"""The sweep (R5): a new launcher ends what its dead predecessor's attempts left, before it answers anyone."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import select
import socket
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from bgd.clock import boot_id, elapsed
from bgd.core.job import Outcome
from bgd.launcher.cgroup import Group
from bgd.launcher.context import Tools
from bgd.launcher.journal import Instance, Recollection, Trace, boot_of
from bgd.launcher.output import bytes_logged
from bgd.launcher.process import hold, read_process
from bgd.launcher.scan import Look
from bgd.launcher.tree import Ladder, Tree, key_of
from bgd.paths import lock_error
from bgd.wire.launching import AttemptEnded, AttemptKey, log_name

# --- Lock and socket: there is one launcher of a state folder, and one place to meet it (R6).


class Busy(Exception):
    """Another launcher is at work; the message names it."""


def take_lock(state: Path) -> int:
    """Return a descriptor that holds the folder's lock for as long as it is open anywhere.

    Raises:
        Busy: somebody else holds it.
        OSError: the lock file cannot be opened.
        ConfigError: its file system has no locks.
    """
    path = state / _LOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        who = f"process {holder}" if holder else "another process"
        raise Busy(f"a launcher is running already: {who} holds {path}") from error
    except OSError as error:
        os.close(fd)
        raise lock_error(path, error) from error
    return fd


def sign_lock(lock: int) -> None:
    """Write into the lock who holds it, for people: nothing decides by it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def outlive(predecessor: Instance | None, state: Path) -> None:
    """See that the launcher whose journal was found has ended: what it left may only be ended then.

    The lock does not tell where it was deleted, or the folder is a copy of one that is in use: its jobs are
    not to be ended, nor started a second time.

    Raises:
        Busy: it lives.
        OSError: it cannot be told now.
    """
    if predecessor is None or predecessor.pid is None or boot_of(predecessor.id) != boot_id():
        return
    process = read_process(predecessor.pid)
    if process is None or process.ticks != predecessor.ticks or process.is_dead:
        return
    pidfd = hold(process)
    if pidfd is None:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        has_ended = bool(poll.poll(_PARTING * 1000))  # who was killed loses the lock a moment before
    finally:
        os.close(pidfd)
    if not has_ended:
        raise Busy(
            f"process {process.pid}, the launcher that wrote the journal in {state}, still runs: the folder "
            "is a copy of one in use, or its launcher.lock was deleted. Jobs start here once that has ended"
        )


def is_launcher(pid: int) -> bool:
    """Whether a process is a launcher, of whatever folder: it has the lock open, which no job inherits."""
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with suppress(OSError):  # closed since it was listed
                target = os.readlink(entry.path)  # noqa: PTH115  plain strings here
                if target.removesuffix(" (deleted)").endswith("/" + _LOCK):
                    return True
    return False


def bind(state: Path) -> socket.socket:
    """Return the listening socket; only for who holds the lock.

    Raises:
        OSError: the path is too long or cannot be bound.
    """
    path = state / "launcher.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


_LOCK = "launcher.lock"
_BACKLOG = 16
_PARTING = 2.0  # seconds


log = logging.getLogger(__name__)


async def sweep(left: Recollection, tools: Tools) -> list[AttemptEnded]:
    """Return every end that is still to be told, those the predecessor saw and those nobody saw."""
    ends = [trace.finished.ended for trace in left.traces.values() if trace.finished]
    unfinished = {key: trace for key, trace in left.traces.items() if not trace.finished}
    # a journal too damaged to name its boot leaves only marks to go by: pids and pipes may be others' by now
    has_boot = left.instance is not None
    is_same_boot = left.instance is None or boot_of(left.instance.id) == boot_of(tools.journal.instance.id)
    if unfinished and is_same_boot:
        log.warning("ending what a launcher left that died: %d attempts", len(unfinished))
        async with asyncio.TaskGroup() as group:
            for key, trace in unfinished.items():
                tree = _tree_of(key, trace) if has_boot else _marked_tree(key)
                if tree is not None:
                    group.create_task(_end(tree, tools))
    if is_same_boot and left.instance is not None and left.instance.groups is not None:
        Group(left.instance.groups).remove()
    for key, trace in unfinished.items():
        ended = _unseen(key, trace, tools.logs, is_same_boot=is_same_boot)
        tools.journal.finish(ended, durable=False)
        ends.append(ended)
    tools.journal.sync()
    return ends


async def end_strays(store: str, tools: Tools) -> None:
    """End all that carries a mark of this store; to be called before anything of it was started here.

    For after a journal that was lost or damaged: nothing else tells what its launcher had started.

    Raises:
        Busy: that launcher lives, as where this database is a copy of one in use.
    """
    look = await tools.looker.look(0)
    marked = {pid: key for pid, each in look.marks.items() if (key := key_of(each)) and key.store == store}
    launcher = next((each for each in _above(marked, look) if is_launcher(each)), None)
    if launcher is not None:
        raise Busy(
            f"process {launcher}, another launcher, runs jobs of this database: it is a copy of one in use. "
            "Jobs start here once those have ended"
        )
    if marked:
        keys = set(marked.values())
        log.warning("ending what no journal tells of: %d attempts", len(keys))
        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(_end(_marked_tree(key), tools))
    try:
        tools.journal.end_search()
    except OSError as error:  # the next launcher will look once more
        log.warning("the journal cannot take that nothing is left: %s", error.strerror)


def _above(marked: Collection[int], look: Look) -> set[int]:
    """Return all that these processes descend from, without themselves."""
    above: set[int] = set()
    for pid in marked:
        process = look.processes.get(pid)
        while process is not None and process.parent not in above:
            above.add(process.parent)
            process = look.processes.get(process.parent)
    return above - set(marked)


async def _end(tree: Tree, tools: Tools) -> None:
    """Kill a tree at once: its output has nowhere to go, and its end can no longer be seen."""
    try:
        await Ladder(tree, tools.looker, tools.deadlines, grace=0.0).bring_down()
    except Exception:  # one job's trouble must not keep the launcher from all others
        log.exception("job %d: not all of its processes could be ended", tree.key.job)
        tree.kill_unseen()


def _marked_tree(key: AttemptKey) -> Tree:
    return Tree(key, channel=None, since=0.0, pid=None)


def _tree_of(key: AttemptKey, trace: Trace) -> Tree | None:
    began, first = trace.began, trace.first_process
    if began is None:
        return None
    pid, ticks = (first.pid, first.ticks) if first else (None, None)
    group = None if began.group is None else Group(began.group)
    return Tree(key, began.pipe, began.since, pid, ticks, stamp=began.stamp, group=group)


def _unseen(key: AttemptKey, trace: Trace, logs: str, *, is_same_boot: bool) -> AttemptEnded:
    return AttemptEnded(
        key=key,
        outcome=Outcome.UNKNOWN if is_same_boot else Outcome.INTERRUPTED,
        started_at=trace.began.started_at if trace.began else None,
        finished_at=time.time(),
        log_bytes=bytes_logged(f"{logs}/{log_name(key.job, key.attempt)}"),
        problem="its launcher died" if is_same_boot else "the machine went down",
        run_seconds=elapsed() - trace.began.since if trace.began and is_same_boot else None,
    )
