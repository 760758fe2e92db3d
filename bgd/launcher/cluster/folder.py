"""The folder of a pilot, shared with its node: its start script and its results.

Only forks of the launcher touch it, because its file system may hang.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from bgd.errors import ConfigError
from bgd.launcher import journal
from bgd.launcher.children import Child, fork
from bgd.launcher.context import Context
from bgd.launcher.problems import SHORTAGES, CannotStart, one_line, printable
from bgd.settings.paths import make_cluster_folder
from bgd.wire.launching import AttemptEnded, NotStarted
from bgd.wire.slurm import message_in

LEASE = 60.0  # seconds without a message until a pilot ends


class Leftovers(Struct, frozen=True):
    """The results of a pilot.

    `problem`: why they are unknown. `is_locked`: it runs. `last_words`: of its log. `has_all`: it ended in
    good order, so an attempt that is not in `ends` was never started. `node`: where it ran, if it did.
    """

    problem: str = ""
    is_locked: bool = False
    has_all: bool = False
    ends: list[AttemptEnded] = []
    last_words: str = ""
    node: str = ""


class PilotFolder:
    """The state folder of a pilot, below `shared`, with the script that starts it."""

    def __init__(self, context: Context, shared: str, name: str) -> None:
        self._context = context
        self._shared = shared
        self.path = f"{shared}/{name}"

    @property
    def script(self) -> str:
        """The script, whose arguments are the interpreter and the folder."""
        return f"{self.path}/{_SCRIPT}"

    async def prepare(self) -> None:
        """Make it.

        Raises:
            CannotStart: that is not possible.
            OSError: its disk is full; may be tried again.
        """
        await self._in_fork(partial(_prepare, self.path))

    async def left(self) -> Leftovers:
        """Return its content."""
        try:
            return msgspec.msgpack.decode(await self._in_fork(partial(_left, self.path)), type=Leftovers)
        except _UNUSABLE as error:
            return Leftovers(problem=str(error))

    async def begun(self, folders: list[str]) -> list[str]:
        """Return those of these folders whose pilots have begun; none if the shared folder cannot be used."""
        try:
            return msgspec.msgpack.decode(await self._in_fork(partial(_begun, folders)), type=list[str])
        except _UNUSABLE:
            return []

    async def remove(self) -> None:
        """Remove it; if that is not possible, leave it."""
        with suppress(*_UNUSABLE):
            await self._in_fork(partial(_remove, self.path))

    async def names(self, prefix: str) -> list[str]:
        """Return the names of all folders beside it that begin so; none if the shared folder cannot be used.

        Raises:
            OSError: as `prepare`.
        """
        try:
            found = await self._in_fork(partial(_names, self._shared, prefix))
        except CannotStart:
            return []
        return msgspec.msgpack.decode(found, type=list[str])

    async def _in_fork(self, do: Callable[[], bytes]) -> bytes:
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

        child, written = await self._context.retry(f"{self.path} cannot be checked yet", start)
        text = await written
        await child.wait()
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
        if Path(
            shared
        ).exists():  # otherwise its file system may be missing, and must not be replaced by a new folder
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
    """Refuse a link, and a folder of another user."""
    with suppress(FileNotFoundError):
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigError(f"{folder} is not a folder of user {os.geteuid()}: remove it")


def _prepare(folder: str) -> bytes:
    make_cluster_folder(Path(folder).parent)
    Path(folder).mkdir(mode=0o700, exist_ok=True)
    Path(folder, _SCRIPT).write_text(
        _START.format(lease=LEASE, orderly=_ORDERLY, node=_NODE), encoding="ascii"
    )
    # NFS reads the size of a file again when it is opened, but remembers for long that there was none
    Path(folder, _NODE).touch()
    return b""


def _begun(folders: list[str]) -> bytes:
    return msgspec.msgpack.encode([each for each in folders if _text_of(each, _NODE)])


def _left(folder: str) -> bytes:
    logging.disable()  # it is a fork; a killed pilot leaves a truncated record
    Path(folder).parent.stat()  # otherwise its file system may be missing, and nothing is known
    lock = Path(folder, "launcher.lock")
    if lock.exists() and _is_locked(lock):
        return msgspec.msgpack.encode(Leftovers(is_locked=True))
    found = journal.read(Path(folder, "launcher.journal"))
    ends = [records.finished.ended for records in found.attempts.values() if records.finished]
    has_all = found.is_whole and Path(folder, _ORDERLY).exists()
    words = printable(message_in(_text_of(folder, "log").rstrip().rpartition("\n")[2]))
    node = _text_of(folder, _NODE).strip()
    return msgspec.msgpack.encode(Leftovers(has_all=has_all, ends=ends, last_words=words, node=node))


def _is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _text_of(folder: str, name: str) -> str:
    with suppress(OSError), Path(folder, name).open("rb") as file:
        return file.read(_MOST_TEXT).decode(errors="replace")
    return ""


def _remove(folder: str) -> bytes:
    for file in Path(folder).iterdir():
        file.unlink()
    Path(folder).rmdir()
    return b""


def _names(shared: str, prefix: str) -> bytes:
    names = [each.name for each in Path(shared).iterdir() if each.name.startswith(prefix)]
    return msgspec.msgpack.encode(names)


_UNUSABLE = (CannotStart, OSError)
_PASSING = SHORTAGES | {errno.EIO, errno.ESTALE}  # the latter two of a network file system
_SCRIPT = "pilot.sh"
_ORDERLY, _NODE = "ended", "node"  # files
# If the launcher is killed, the next one reads its journal, ends what it left, and says so. With control
# groups Slurm sends TERM to this script alone, which passes it on and waits for the launcher to end its jobs.
_START = """#!/bin/sh
trap 'kill -TERM $pilot 2>/dev/null' TERM
echo "$SLURMD_NODENAME" >"$2/{node}" || exit 1
for try in 1 2 3 4 5 6 7 8 9 10; do
    "$1" -P -m bgd.launcher --pilot {lease:g} --state "$2" --logs "$2" &
    pilot=$!
    wait $pilot
    code=$?
    while kill -0 $pilot 2>/dev/null; do
        wait $pilot
        code=$?
    done
    [ $code -eq 0 ] && : >"$2/{orderly}"
    [ $code -lt 128 ] && exit $code
    [ $code -eq 143 ] && exit $code  # TERM, before it could handle that, and so before it ran anything
done
"""
_MOST_TEXT = 1 << 16  # bytes of its log to read
