"""Runs calls that touch folders which may not answer, each in a process of its own.

A thread that waits for such a file system cannot be stopped. It would keep its place in the pool, and keep
the daemon's process, with its lock, from ending.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from bgd.daemon.threads import run_to_completion
from bgd.system.mounts import own_mounts

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE = 20.0  # seconds for a call; a check of a cluster takes up to 15
_REAPING = 5.0  # seconds in which a process ends that has answered


class NoAnswer(OSError):
    """A folder does not answer; the message names it."""


class ForeignFolders:
    """Runs functions that touch a folder: on a thread, or in a process if the folder may not answer.

    A late process stays until its file system answers; meanwhile the folder gets no other process.
    """

    def __init__(self) -> None:
        self._late: dict[str, list[subprocess.Popen[bytes]]] = {}  # by folder

    def may_hang(self, folder: str) -> bool:
        """Return whether a call on a folder may never end."""
        return own_mounts().folder_that_may_hang(folder) is not None

    async def call(self, folder: str, function: Callable[P, R], /, *args: P.args, **options: P.kwargs) -> R:
        """Call a module's function that touches `folder`, and return its result.

        Function, arguments and result are pickled, only between processes of this program.

        Raises:
            NoAnswer: the folder has not answered in time.
        """
        if not self.may_hang(folder):
            return await asyncio.to_thread(function, *args, **options)
        return await self.call_apart(folder, PATIENCE, function, *args, **options)

    async def call_apart(
        self, folder: str, patience: float, function: Callable[P, R], /, *args: P.args, **options: P.kwargs
    ) -> R:
        """The same, in a process in any case, which has `patience` seconds."""
        import pickle  # noqa: PLC0415 - most daemons have no such folder

        late = self._late[folder] = [each for each in self._late.get(folder, ()) if each.poll() is None]
        if late:
            raise NoAnswer(f"{folder} does not answer: process {late[0].pid} still waits for it")
        packed = pickle.dumps((function, args, options))
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            process = await run_to_completion(partial(self._give_up, folder), _start, packed, writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        try:
            async with asyncio.timeout(patience):
                answer = await _read(reader)
        except BaseException as error:
            self._give_up(folder, process)
            if isinstance(error, TimeoutError):
                raise NoAnswer(f"{folder} has not answered within {patience:g} s") from None
            raise
        await asyncio.to_thread(process.wait, _REAPING)
        if not answer:
            raise NoAnswer(f"{folder} cannot be checked: the process for it ended ({process.returncode})")
        result: R | Exception = pickle.loads(answer)  # noqa: S301 - from a process of ours
        if isinstance(result, Exception):
            raise result
        return result

    def _give_up(self, folder: str, process: subprocess.Popen[bytes]) -> None:
        process.kill()  # which it may not notice before the folder answers
        self._late[folder].append(process)


def _start(packed: bytes, writer: int) -> subprocess.Popen[bytes]:
    """Start a process that makes the call and writes its result, pickled."""
    given = os.memfd_create("call")
    try:
        os.write(given, packed)
        os.lseek(given, 0, os.SEEK_SET)
        program = [sys.executable, "-P", "-c", "from bgd.daemon.foreign import answer; answer()"]
        return subprocess.Popen(program, stdin=given, stdout=writer, cwd="/")
    finally:
        os.close(given)


def answer() -> None:
    """Make the call that stdin describes, and write its result or exception to stdout."""
    import pickle  # noqa: PLC0415 - as above

    function, args, options = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the daemon
    try:
        result = function(*args, **options)
    except Exception as error:  # noqa: BLE001 - the daemon raises it
        result = error
    sys.stdout.buffer.write(pickle.dumps(result))


async def _read(descriptor: int) -> bytes:
    """Return what is written to a pipe until its end, and close it."""
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(descriptor, "rb", 0)
    )
    try:
        return await stream.read()
    finally:
        transport.close()
