"""Starts one process exactly as a Launch says."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, cast

from msgspec import Struct

from bgd.launcher.cgroup import Group
from bgd.launcher.children import Children, all_from, fork, process_of
from bgd.launcher.context import Tools
from bgd.launcher.output import KIND, take_control
from bgd.launcher.problems import SHORTAGES, CannotStart, no_input, one_line, why_not_started
from bgd.launcher.process import MARK, wear
from bgd.launcher.tree import UNKILLABLE, Tree, Usage, mark
from bgd.wire.launching import NO_LIMITS, Launch, NotStarted

# --- What a job reads, and the unnamed files that carry its input and its result.


class Input:
    """`fd` is what the process is to read, None if that is nothing."""

    def __init__(self, launch: Launch, folder: str, *, is_apart: bool = False) -> None:
        """Open it; `folder` is where unnamed files are made. `is_apart`: leave a file to who may hang.

        Raises:
            CannotStart: it cannot be read.
            OSError: of the machine; may be tried again.
        """
        self.fd: int | None = None
        if launch.stdin is not None:
            self.fd = unnamed(folder, launch.stdin)
        elif launch.stdin_path is not None and not is_apart:
            # a FIFO must not hold up the loop until somebody writes to it
            self.fd = opened(launch.cwd, launch.stdin_path, os.O_NONBLOCK)
            os.set_blocking(self.fd, True)  # as programs expect their input to be

    @property
    def is_fifo(self) -> bool:
        return self.fd is not None and stat.S_ISFIFO(os.fstat(self.fd).st_mode)

    async def begun(self, until: asyncio.Future[None]) -> None:
        """Wait for the first to write to a FIFO, as a shell does in opening it; or for `until`.

        Without anybody who writes, its reader would find an end at once.
        """
        if self.fd is None:
            return
        fd, loop = self.fd, asyncio.get_running_loop()
        begun: asyncio.Future[None] = loop.create_future()

        def begin() -> None:
            loop.remove_reader(fd)
            begun.set_result(None)

        loop.add_reader(fd, begin)
        try:
            await asyncio.wait({begun, until}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(fd)

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


def unnamed(folder: str, content: bytes = b"") -> int:
    """Return a file without a name that holds `content` and is at its beginning."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        fd = os.memfd_create("bgd")  # a file system that knows no unnamed files
    if not content:
        return fd
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError as error:
        os.close(fd)
        if error.errno in SHORTAGES:
            raise
        raise CannotStart(f"{NotStarted.OTHER}: its input cannot be written: {error.strerror}") from error
    return fd


def opened(folder: str, path: str, flags: int = 0) -> int:
    """Open a file that a process in this folder is to read.

    Raises:
        CannotStart: it cannot be read.
        OSError: of the machine; may be tried again.
    """
    try:
        # as the process itself would find it
        fd = os.open(
            os.path.join(folder, path),  # noqa: PTH118  plain strings here
            os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | flags,
        )
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise CannotStart(no_input(path, f"{error.strerror}")) from error
    except ValueError as error:  # NUL, text that cannot be encoded
        raise CannotStart(no_input(path, "no file can have this name")) from error
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise CannotStart(no_input(path, "it is a directory"))
    return fd


# --- What a process does between its fork and its program: it takes on limits, and its terminal.


Step = tuple[str, Callable[[], None]]  # what it does, as a problem names it


def steps_of(launch: Launch, group: Group | None) -> list[Step]:
    """Return what is to be done; nothing, for most."""
    if group is None and not launch.pty and launch.limits == NO_LIMITS:
        return []
    limits, steps = launch.limits, list[Step]()
    if group is not None:
        steps.append((f"control group {group.path}", lambda: _join(group)))
    if limits.nice is not None:
        nice = limits.nice
        steps.append((f"nice {nice}", lambda: os.setpriority(os.PRIO_PROCESS, 0, nice)))
    if limits.core_max is not None:
        size = limits.core_max
        steps.append((f"core_max {size}", lambda: resource.setrlimit(resource.RLIMIT_CORE, (size, size))))
    if limits.open_files is not None:
        count = limits.open_files
        steps.append(
            (f"open_files {count}", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count,) * 2))
        )
    if launch.pty:
        steps.append(("terminal", take_control))
    return steps


@contextmanager
def preparation(steps: Sequence[Step]) -> Iterator[Callable[[], None]]:
    """Give what the child is to call before it becomes the program.

    It takes a fork, 2 ms, where others cost a vfork, 0.2 ms. A shell between would take 0.5 ms, and could not
    tell why the program cannot be started. A fork is safe, as this process has one thread only.

    Raises:
        CannotStart: the child could not do it.
    """
    hearing, saying = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield lambda: _take_or_tell(steps, saying)
    except subprocess.SubprocessError as error:  # which says no more than that there was one
        raise CannotStart(os.read(hearing, _MOST).decode(errors="replace")) from error
    finally:
        os.close(hearing)
        os.close(saying)


def take(steps: Sequence[Step]) -> None:
    """Do what is to be done.

    Raises:
        CannotStart: one of the steps cannot be taken.
    """
    for name, step in steps:
        try:
            step()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise CannotStart(one_line(NotStarted.NO_LIMIT, f"{name}: {reason}")) from error


def _take_or_tell(steps: Sequence[Step], saying: int) -> None:
    try:
        take(steps)
    except CannotStart as error:
        os.write(saying, str(error).encode())
        raise


def _join(group: Group) -> None:
    fd = os.open(group.entrance, os.O_WRONLY)
    os.write(fd, b"0")
    os.close(fd)


_MOST = 4096


# --- A fork of the launcher does in its place what may hang: it hangs alone, and can be killed.


class Command(Struct, frozen=True, kw_only=True):
    """What is run for a Launch: `input` is a descriptor, or the path of a file from `cwd`.

    `passed`: further descriptors that the program keeps, by the same numbers.
    """

    argv: Sequence[str]
    env: dict[str, str]
    cwd: str
    umask: int
    input: int | str
    output: int
    passed: tuple[int, ...] = ()
    steps: Sequence[Step] = ()
    stamp: int | None = None


class Apart:
    """`process` is there at once. `settled` is done when it has become the program, cannot, or has ended."""

    def __init__(self, launch: Launch, command: Command, children: Children) -> None:
        """Fork.

        Raises:
            OSError: of the machine; may be tried again.
        """
        kept = [command.output, *command.passed]
        if isinstance(command.input, int):
            kept.append(command.input)
        pid, reader = fork(lambda writer: _become(launch, command, writer), kept)
        self.process = process_of(pid, children)
        self.settled = all_from(reader)

    async def begun(self) -> None:
        """Wait until it is settled.

        Raises:
            CannotStart: for a reason that lies in the Launch.
            OSError: for one that lies in the machine; it may be tried again.
        """
        said = await self.settled
        if said:
            await self.process.wait()
            number, _, problem = said.decode(errors="replace").partition(" ")
            if int(number) in SHORTAGES:
                raise OSError(int(number), os.strerror(int(number)))
            raise CannotStart(problem)


def _become(launch: Launch, command: Command, writer: int) -> None:
    """Be the program, or say why not."""
    try:
        os.setsid()
        if isinstance(command.input, int):
            os.dup2(command.input, 0)
        os.dup2(command.output, 1)
        os.dup2(command.output, 2)
        for fd in command.passed:
            os.set_inheritable(fd, True)
        os.umask(command.umask)
        wear(command.stamp)
        take(command.steps)
        _enter(command)
    except CannotStart as error:
        _say(writer, errno.EINVAL, str(error))
    except (OSError, ValueError) as error:
        number = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
        _say(writer, number, "" if number in SHORTAGES else why_not_started(launch, error))


def _enter(command: Command) -> NoReturn:
    os.chdir(command.cwd)
    if isinstance(command.input, str):
        os.close(0)  # so that the file becomes 0: to close another descriptor of it might take for ever
        os.set_inheritable(opened(command.cwd, command.input), True)  # a FIFO waits for somebody to write
    name = command.argv[0] if command.argv else ""
    folders = [""] if "/" in name else os.get_exec_path(command.env)
    first: OSError | None = None
    for folder in folders:
        try:
            os.execve(os.path.join(folder, name), [*command.argv] or [""], command.env)  # noqa: PTH118, S606
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error
        except OSError as error:
            first = first or error
    raise first or missing


def _say(writer: int, number: int, problem: str) -> None:
    os.write(writer, f"{number} {problem}".encode(errors="replace")[:_MOST])


log = logging.getLogger(__name__)


class Spawned:
    """A process that was started for the attempt, and is this one's child."""

    def __init__(self, process: asyncio.subprocess.Process, result: int | None, children: Children) -> None:
        self.pid = process.pid
        self.result = result
        self._process = process
        self._children = children

    @property
    def is_over(self) -> bool:
        return self._process.returncode is not None

    def signal(self, signum: int) -> None:
        self._children.kill(self.pid, signum)

    async def wait(self) -> int:
        return await self._process.wait()

    def usage(self) -> Usage:
        used = self._children.take_usage(self.pid)
        if used is None:
            return Usage()
        return Usage(round(used.ru_utime, 6), round(used.ru_stime, 6), self._children.peak_of(used))

    def has_left_others(self, tree: Tree) -> bool:
        return tree.has_group()

    def release(self, *, is_intact: bool) -> None:
        """Nothing was lent."""


class Stuck(Exception):
    """A process that was killed before it ran a program does not die; the message names it."""


async def spawn(
    launch: Launch, standard_input: int, output: int, tools: Tools, group: Group | None
) -> Spawned:
    """Start the program in this control group, with stdout and stderr to `output`.

    Raises:
        CannotStart: for a reason that lies in the Launch.
        OSError: for one that lies in the machine; it was not started and may be tried again.
        LostChild: it was started and had to be killed at once.
    """
    result = unnamed(tools.state) if launch.result else None
    try:
        process = await started(launch, _command(launch, standard_input, output, result, group))
    except BaseException:
        if result is not None:
            os.close(result)
        raise
    return Spawned(process, result, tools.children)


async def spawn_apart(  # noqa: PLR0917  the parts of one start
    launch: Launch,
    standard_input: int | str,
    output: int,
    tools: Tools,
    group: Group | None,
    stamp: int | None,
    asked: asyncio.Future[None],
) -> Spawned | None:
    """Do as `spawn` in a process that may hang meanwhile; once `asked` is done it is killed: None.

    Raises:
        CannotStart, OSError: as `spawn`.
        Stuck: it was killed, and does not die.
    """
    result = unnamed(tools.state) if launch.result else None
    spawned: Spawned | None = None
    try:
        command = _command(launch, standard_input, output, result, group, stamp)
        apart = Apart(launch, command, tools.children)
        either: set[asyncio.Future[Any]] = {apart.settled, asked}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if apart.settled.done():
            await apart.begun()
            spawned = Spawned(apart.process, result, tools.children)
        else:
            apart.settled.cancel()
            await _kill(apart.process, tools)
        return spawned
    finally:
        if spawned is None and result is not None:
            os.close(result)


async def started(launch: Launch, command: Command) -> asyncio.subprocess.Process:
    """Start what a Launch needs.

    Raises:
        CannotStart: for a reason that lies in the Launch.
        OSError, LostChild: as `spawn`.
    """
    if not command.steps:  # as most: it costs no fork
        return await _started(launch, command, None)
    with preparation(command.steps) as prepare:
        return await _started(launch, command, prepare)


async def _started(
    launch: Launch, command: Command, prepare: Callable[[], None] | None
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *(command.argv or [""]),
            stdin=cast("int", command.input),  # a path is only for who may hang
            stdout=command.output,
            stderr=command.output,
            env=command.env,
            cwd=command.cwd,
            umask=command.umask,
            start_new_session=True,
            pass_fds=command.passed,
            preexec_fn=prepare,
        )
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise CannotStart(why_not_started(launch, error)) from error
    except ValueError as error:  # NUL, text that cannot be encoded, a variable named with "="
        raise CannotStart(why_not_started(launch, error)) from error


async def _kill(process: asyncio.subprocess.Process, tools: Tools) -> None:
    tools.children.kill(process.pid)
    ended = tools.group.create_task(process.wait())
    over = tools.deadlines.passed(UNKILLABLE)
    either: set[asyncio.Future[Any]] = {ended, over}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    over.cancel()
    tools.children.take_usage(process.pid)
    if not ended.done():
        ended.cancel()
        tools.children.watch(process.pid, lambda _: tools.children.take_usage(process.pid))  # reaped some day
        raise Stuck(f"process {process.pid} was killed and waits in the kernel; it runs no program any more")


def _command(
    launch: Launch,
    standard_input: int | str,
    output: int,
    result: int | None,
    group: Group | None,
    stamp: int | None = None,
) -> Command:
    return Command(
        argv=launch.argv,
        env=_with_result(environment_of(launch), result),
        cwd=launch.cwd,
        umask=launch.umask,
        input=standard_input,
        output=output,
        passed=() if result is None else (result,),
        steps=steps_of(launch, group),
        stamp=stamp,
    )


def environment_of(launch: Launch) -> dict[str, str]:
    """Return the environment of an attempt's first process."""
    # the mark comes first: see process.mark_of
    environment = {MARK: mark(launch.key), "PYTHONUNBUFFERED": "1", **launch.env}
    environment[MARK] = mark(launch.key)
    if launch.pty:
        environment.setdefault("TERM", KIND)
    return environment


def _with_result(environment: dict[str, str], result: int | None) -> dict[str, str]:
    return environment if result is None else {**environment, "BGD_RESULT_FD": str(result)}
