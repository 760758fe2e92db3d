"""The folder that the launcher shares with the nodes of a cluster: it tells what became of an attempt there.

Its file system may hang, so only forks of the launcher touch it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import stat
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from bgd.errors import ConfigError
from bgd.launcher.children import Child, fork
from bgd.launcher.context import Context
from bgd.launcher.problems import SHORTAGES, CannotStart, one_line
from bgd.paths import make_cluster_folder
from bgd.wire.class_jobs import MAX_DOCUMENT
from bgd.wire.launching import NotStarted
from bgd.worker import NODE

log = logging.getLogger(__name__)


class Node(Struct, frozen=True):
    """Where a program runs: the node's name, the program's pid there, and the step in Slurm."""

    node: str
    pid: int
    step: str  # JOB.STEP, empty if Slurm did not say


class NodeOutcome(Struct, frozen=True):
    """How a program ended; `code` is negative for a signal. `problem`: it did not start."""

    code: int
    finished_at: float
    problem: str = ""
    leftovers: str = ""
    user_seconds: float | None = None
    system_seconds: float | None = None
    max_rss_bytes: int | None = None


class Found(Struct, frozen=True):
    """What an attempt's folder holds.

    `is_ours`: the launcher has the claim, so the program never runs. `is_lost`: there is no such folder.
    `problem`: nobody knows what it holds. `is_locked`: something of it runs. `sees_locks`: a lock of its node
    was seen here before, so if it is not locked, nothing runs.
    """

    is_ours: bool = False
    is_lost: bool = False
    problem: str = ""
    node: Node | None = None
    outcome: NodeOutcome | None = None
    is_locked: bool = False
    sees_locks: bool = False


class SharedFolder:
    """The folder of one attempt, below `shared`; bgd/worker/node.py has what is in it."""

    def __init__(self, context: Context, shared: str, name: str) -> None:
        self._context = context
        self._shared = shared
        self.path = f"{shared}/{name}"
        self.program = f"{shared}/{_PROGRAM}"

    async def prepare(self) -> None:
        """Make it, and the node's program beside it.

        Raises:
            CannotStart: that is not possible.
            OSError: its disk is full; may be tried again.
        """
        await self.in_fork(partial(_prepare, self.path, self.program))

    async def look(self, submission: int) -> Found:
        """Return what it holds, and claim this submission unless it has begun."""
        try:
            found = await self.in_fork(partial(_look, self.path, submission))
        except _UNUSABLE as error:
            return Found(problem=str(error))
        return msgspec.json.decode(found, type=Found)

    async def result(self) -> bytes:
        """Return what a class job has written as its result; b"" if that cannot be read."""
        try:
            return await self.in_fork(partial(_result, self.path))
        except _UNUSABLE as error:
            log.warning("a result cannot be read: %s", error)
            return b""

    async def remove(self) -> None:
        """Remove it; if that is not possible, leave it."""
        with suppress(*_UNUSABLE):
            await self.in_fork(partial(_remove, self.path))

    async def close(self) -> None:
        """Note in it that its attempt has ended, which without an outcome nothing else shows."""
        with suppress(*_UNUSABLE):
            await self.in_fork(partial(_close, self.path))

    async def over(self, prefix: str) -> list[str]:
        """Return the names of all folders in the shared one in whose attempts nothing runs any more."""
        return await self._listed(partial(_over, self._shared, prefix))

    async def names(self, prefix: str) -> list[str]:
        """Return the names of all folders beside it that begin so."""
        return await self._listed(partial(_names, self._shared, prefix))

    async def _listed(self, do: Callable[[], bytes]) -> list[str]:
        try:
            return msgspec.json.decode(await self.in_fork(do), type=list[str])
        except _UNUSABLE:
            return []

    async def in_fork(self, do: Callable[[], bytes]) -> bytes:
        """Return what a fork returns, which may hang on the shared folder.

        Raises:
            CannotStart: the folder cannot be used.
            OSError: its disk is full, or does not answer now.
        """

        async def start() -> tuple[Child, asyncio.Future[bytes]]:
            async with self._context.forking:
                pid, written = fork(partial(_answer, do, self._shared, self.path))
                child = Child(pid, self._context.children)
                await asyncio.sleep(0)
            return child, written

        child, written = await self._context.retry(f"{self.path} cannot be looked at yet", start)
        text = await written
        await child.wait()
        self._context.children.take_usage(child.pid)
        problem, _, answer = text.partition(b"\n")
        if problem or not text:
            number, _, words = problem.decode(errors="replace").partition(" ")
            if int(number or 0) in _PASSING:
                raise OSError(int(number), os.strerror(int(number)), self._shared)
            words = words or f"the shared folder {self._shared}: it did not answer"
            raise CannotStart(one_line(NotStarted.OTHER, words))
        return answer


# --- What forks do in the shared folder. They write a problem with its number, or an answer below that line.


def _answer(do: Callable[[], bytes], shared: str, folder: str, writer: int) -> None:
    try:
        if Path(shared).exists():  # else its file system may be away, and a look must not take its place
            make_cluster_folder(Path(shared))
        _check_own(folder)
        text = b"\n" + do()
    except OSError as error:
        text = f"{error.errno} the shared folder {shared}: {error.strerror}\n".encode()
    except ConfigError as error:
        text = f"{getattr(error.__cause__, 'errno', 0)} {error}\n".encode()
    while text:
        text = text[os.write(writer, text) :]


def _check_own(folder: str) -> None:
    """Refuse a link, and a folder that another user made while the shared one was open to others."""
    with suppress(FileNotFoundError):
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigError(f"{folder} is not a folder of user {os.geteuid()}: remove it")


def _prepare(folder: str, program: str) -> bytes:
    make_in_shared(folder)
    if not _is_program(program):
        new = Path(folder, "program")
        new.write_bytes(_SOURCE)
        new.replace(program)
    return b""


def make_in_shared(folder: str) -> None:
    """Make the folder of an attempt, and the shared one around it unless that is there.

    Raises:
        ConfigError, OSError: that is not possible.
    """
    make_cluster_folder(Path(folder).parent)
    Path(folder).mkdir(mode=0o700, exist_ok=True)


def _is_program(path: str) -> bool:
    """Return whether a file is the program of a node, which runs with all rights of this user."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # there is none, or a link
        return False
    with os.fdopen(fd, "rb") as file:
        return os.fstat(fd).st_uid == os.geteuid() and file.read(len(_SOURCE) + 1) == _SOURCE


def _look(folder: str, submission: int) -> bytes:
    """Return what the folder holds, and make the claim of this submission unless the node has."""
    path = Path(folder)
    claim = path / f"claim.{submission}"
    try:
        _put(claim, _OURS, path / f"claim.{submission}.launcher")
    except FileNotFoundError:
        return msgspec.json.encode(Found(is_lost=True))
    # after that write, so that a network file system has no older state of the folder in its cache
    text, outcome = claim.read_bytes(), None
    if text == _OURS:
        return msgspec.json.encode(Found(is_ours=True))
    node = msgspec.json.decode(text, type=Node)
    runs = _runs(path, node)  # first, because an outcome is written while it is locked
    with suppress(FileNotFoundError):
        outcome = msgspec.json.decode((path / "outcome").read_bytes(), type=NodeOutcome, strict=False)
    sees_locks = _seen(path, node).exists()
    return msgspec.json.encode(Found(node=node, outcome=outcome, is_locked=runs, sees_locks=sees_locks))


def _put(path: Path, content: bytes, new: Path) -> None:
    """Make a file that is there as a whole or not at all, unless it is there."""
    new.write_bytes(content)
    with suppress(FileExistsError):
        os.link(new, path)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file.

    Raises:
        OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _result(folder: str) -> bytes:
    with Path(folder, "result").open("rb") as file:
        return file.read(MAX_DOCUMENT + 1)


def _remove(folder: str) -> bytes:
    for file in Path(folder).iterdir():
        file.unlink()
    Path(folder).rmdir()
    return b""


def _names(shared: str, prefix: str) -> bytes:
    return msgspec.json.encode([each.name for each in Path(shared).iterdir() if each.name.startswith(prefix)])


def _close(folder: str) -> bytes:
    Path(folder, _OVER).touch()
    return b""


def _over(shared: str, prefix: str) -> bytes:
    folders = [path for path in Path(shared).iterdir() if path.name.startswith(prefix)]
    return msgspec.json.encode([path.name for path in folders if _is_over(path)])


def _is_over(folder: Path) -> bool:
    """Return whether an attempt has ended, or has run and nothing of it does any more."""
    names = os.listdir(folder)  # noqa: PTH208  plain strings here
    if "outcome" in names or _OVER in names:
        return True
    claims = [
        int(number) for _, _, number in (name.partition("claim.") for name in names) if number.isdecimal()
    ]
    claim = (folder / f"claim.{max(claims)}").read_bytes() if claims else _OURS
    if claim == _OURS:
        return False
    node = msgspec.json.decode(claim, type=Node)
    return not _runs(folder, node) and _seen(folder, node).exists()


def _runs(folder: Path, node: Node) -> bool:
    """Return whether something holds an attempt's lock; if so, note that its node's locks are seen here.

    Else a free lock proves nothing: on some file systems each machine sees only its own locks.
    """
    if not is_locked(folder / "lock"):
        return False
    _seen(folder, node).touch()
    return True


def _seen(folder: Path, node: Node) -> Path:
    """Return the path of the file that says that locks of this node are seen here."""
    return folder.parent / f"lock-seen-{zlib.crc32(node.node.encode()):08x}"


_UNUSABLE = (CannotStart, OSError)
_PASSING = SHORTAGES | {errno.EIO, errno.ESTALE}  # the latter two of a network file system
_OURS = b"launcher"
_OVER = "over"
_SOURCE = NODE.read_bytes()  # now, because an upgrade may replace it (R7)
_PROGRAM = f"node-{zlib.crc32(_SOURCE):08x}.py"
