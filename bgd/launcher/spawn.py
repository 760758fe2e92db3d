"""Start one process exactly as a Launch says."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard, TypeVar

from msgspec import Struct

from bgd.launcher.cgroup import Group, Usage
from bgd.launcher.children import Child, Children, fork, start_program
from bgd.launcher.context import Context
from bgd.launcher.output import TERM_TYPE, set_controlling_terminal
from bgd.launcher.problems import (
    SHORTAGES,
    CannotStart,
    explained,
    no_input_problem,
    one_line,
    reason_of,
    why_not_started,
)
from bgd.launcher.process import MARK, set_tag
from bgd.launcher.tree import UNKILLABLE, ProcessEnd, StopReason, mark
from bgd.wire.class_jobs import MAX_DOCUMENT
from bgd.wire.launching import Launch, NotStarted
from bgd.wire.limits import NO_LIMITS

log = logging.getLogger(__name__)

T = TypeVar("T")


def start_process(launch: Launch, command: Command, children: Children) -> Child:
    """Start a process for a Launch; it inherits its tag, umask and folder from this process.

    Raises:
        CannotStart: the Launch is the cause.
        OSError: as `spawn`.
    """
    assert isinstance(command.input, int)  # noqa: S101  only a start in a fork has a path
    argv, standard = [*command.argv] or [""], (command.input, command.output, command.output)
    umask = os.umask(command.umask)
    try:
        with explained(partial(why_not_started, launch)):
            set_tag(command.tag)
            os.chdir(command.cwd)
            pid = _first_that_runs(
                command, lambda path: start_program(path, argv, command.env, standard, command.passed)
            )
    finally:
        os.chdir("/")
        set_tag(None)
        os.umask(umask)
    return Child(pid, children)


def _first_that_runs(command: Command, run: Callable[[str], T]) -> T:
    """Call `run` with the program in each folder of its PATH until one can be run, as a shell does.

    Raises:
        OSError: none can be run.
    """
    name = command.argv[0] if command.argv else ""
    if "/" in name:
        return run(name)
    first: OSError | None = None
    for folder in os.get_exec_path(command.env):
        path = os.path.join(folder, name)  # noqa: PTH118  plain strings here
        try:
            os.stat(path)  # noqa: PTH116  a process that cannot run it would take longer
            return run(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            first = first or error
    raise first or missing


async def start_in_fork(
    launch: Launch,
    command: Command,
    context: Context,
    stop_asked: asyncio.Future[None] | None = None,
    begun: Callable[[Child], None] = lambda _: None,
    stuck: Callable[[str], None] = lambda _: None,
) -> Child | None:
    """Do what `start_process` does in a fork, which may hang; None: it was killed, as `stop_asked` was done.

    `begun` is given the process at once, and `stuck` a sentence about it, if it was killed and does not die.
    Only a fork can open a path as input, or take steps.

    A fork takes 2 ms, and `start_process` 0.1 ms. A shell would take 0.5 ms, and could not report why the
    program cannot be started. A fork is safe because the only other thread, the journal's, holds no lock that
    it needs: it opens, syncs and closes.

    Raises:
        CannotStart, OSError: as `start_process`.
    """
    kept = [each for each in (command.input, command.output, *command.passed) if isinstance(each, int)]
    pid, settled = fork(partial(_become, launch, command), kept)
    process = Child(pid, context.children)
    begun(process)
    ends: set[asyncio.Future[Any]] = {settled} if stop_asked is None else {settled, stop_asked}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not settled.done():
        settled.cancel()
        if not await _killed(process, context):
            stuck(f"process {process.pid} was killed and waits in the kernel; it no longer runs a program")
        return None
    if report := settled.result():
        await process.wait()
        number, _, problem = report.decode(errors="replace").partition(" ")
        if int(number) in SHORTAGES:
            raise OSError(int(number), os.strerror(int(number)))
        raise CannotStart(problem)
    return process


async def _killed(process: Child, context: Context) -> bool:
    """Kill a process; return whether it has ended soon."""
    context.children.kill(process.pid)
    ended = context.group.create_task(process.wait())
    await context.deadlines.wait(UNKILLABLE, ended)
    is_over = ended.done()
    ended.cancel()
    return is_over


def environment_of(launch: Launch, result: ResultFile | None = None) -> dict[str, str]:
    """Return the environment of an attempt's first process, which writes its result to a file."""
    # the mark comes first: see bgd.launcher.process.mark_of
    environment = {MARK: mark(launch.key), "PYTHONUNBUFFERED": "1", **launch.env}
    environment[MARK] = mark(launch.key)
    if launch.pty:
        environment.setdefault("TERM", TERM_TYPE)
    if result is not None:
        environment["BGD_RESULT_FD"] = str(result.fd)
    return environment


class SpawnedExecution:
    """An attempt's first process, which is a child of the launcher."""

    def __init__(self, process: Child, result: ResultFile | None, children: Children) -> None:
        self.pid = process.pid
        self._result = result
        self._process = process
        self._children = children

    @property
    def is_over(self) -> bool:
        return self._process.returncode is not None

    def signal(self, signum: int) -> None:
        self._children.kill(self.pid, signum)

    def note_stop(self, reason: StopReason) -> None:
        if self._result is not None and not self.is_over:
            self._result.note_stop(reason)

    async def wait(self) -> ProcessEnd:
        code, used = await self._process.wait(), self._process.usage
        usage = Usage()
        if used is not None:
            peak = self._children.peak_memory(used)
            usage = Usage(round(used.ru_utime, 6), round(used.ru_stime, 6), peak)
        return ProcessEnd(code, usage, None if self._result is None else self._result.read())

    def release(self, *, is_intact: bool) -> None:  # noqa: ARG002  only a reused worker needs to know
        """Close its result file: the process belonged to the attempt alone."""
        if self._result is not None:
            self._result.close()


class ResultFile:
    """The file that a job writes its result to; it is in memory, because one on a disk takes longer.

    Far behind the result it holds the reason of a stop, for the job to read.
    """

    def __init__(self) -> None:
        """Make it.

        Raises:
            OSError: the machine lacks something; may be tried again.
        """
        self.fd = os.memfd_create("bgd-result")

    @property
    def is_taken(self) -> bool:
        """Whether its offset was moved: a warm worker does that first with a job."""
        return os.lseek(self.fd, 0, os.SEEK_CUR) > 0

    def note_stop(self, reason: StopReason) -> None:
        """Let the job read why it is stopped."""
        os.pwrite(self.fd, bytes([reason]), _STOP_REASON_AT)

    def read(self) -> bytes:
        """Return the result, at most one byte more than allowed."""
        size = os.fstat(self.fd).st_size
        content = os.pread(self.fd, min(size, MAX_DOCUMENT + 1), 0)
        return content.rstrip(b"\0") if size > _STOP_REASON_AT else content

    def close(self) -> None:
        """Close it; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


_STOP_REASON_AT = 1 << 21  # bytes; bgd/worker/job.py has it too


# --- What a fork does, for starts that may hang: it hangs alone and can be killed.


class Command(Struct, frozen=True, kw_only=True):
    """The program of a Launch: `input` is a descriptor, or the path of a file relative to `cwd`.

    `passed`: further descriptors that the program keeps, with the same numbers.
    """

    argv: Sequence[str]
    env: dict[str, str]
    cwd: str
    umask: int
    input: int | str
    output: int
    passed: tuple[int, ...] = ()
    steps: Sequence[Step] = ()
    tag: int | None = None


def _become(launch: Launch, command: Command, writer: int) -> None:
    """Become the program, or report why not."""
    try:
        os.setsid()
        if isinstance(command.input, int):
            os.dup2(command.input, 0)
        os.dup2(command.output, 1)
        os.dup2(command.output, 2)
        for fd in command.passed:
            os.set_inheritable(fd, True)
        os.umask(command.umask)
        set_tag(command.tag)
        _apply_steps(command.steps)
        _exec(command)
    except CannotStart as error:
        _report(writer, errno.EINVAL, str(error))
    except (OSError, ValueError) as error:
        number = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
        _report(writer, number, "" if number in SHORTAGES else why_not_started(launch, error))


def _exec(command: Command) -> None:
    os.chdir(command.cwd)
    if isinstance(command.input, str):
        os.close(0)  # so that the file gets number 0: closing another descriptor of it might take forever
        os.set_inheritable(open_input(command.cwd, command.input), True)  # a FIFO waits for a writer
    argv = [*command.argv] or [""]
    _first_that_runs(command, lambda path: os.execve(path, argv, command.env))  # noqa: S606  no shell


def _report(writer: int, number: int, problem: str) -> None:
    os.write(writer, f"{number} {problem}".encode(errors="replace")[:_MAX_REPORT])


# --- The steps between the fork and the program: limits, and the terminal.


Step = tuple[str, Callable[[], None]]  # its name in a `problem`, and its action


def steps_of(launch: Launch, group: Group | None) -> list[Step]:
    """Return the steps for a launch; most launches need none."""
    if group is None and not launch.pty and launch.limits == NO_LIMITS:
        return []
    limits, steps = launch.limits, list[Step]()
    if group is not None:
        steps.append((f"control group {group.path}", group.join))
    if (nice := limits.nice) is not None:
        steps.append((f"nice {nice}", partial(os.setpriority, os.PRIO_PROCESS, 0, nice)))
    resources = {"core_max": resource.RLIMIT_CORE, "open_files": resource.RLIMIT_NOFILE}
    for name, number in resources.items():
        if (most := getattr(limits, name)) is not None:
            steps.append((f"{name} {most}", partial(resource.setrlimit, number, (most, most))))
    if launch.pty:
        steps.append(("terminal", set_controlling_terminal))
    return steps


def _apply_steps(steps: Sequence[Step]) -> None:
    """Take the steps.

    Raises:
        CannotStart: a step failed.
        OSError: of the machine; may be tried again.
    """
    for name, step in steps:
        with explained(partial(_no_limit, name)):
            step()


def _no_limit(name: str, error: OSError | ValueError) -> str:
    return one_line(NotStarted.NO_LIMIT, f"{name}: {reason_of(error)}")


_MAX_REPORT = 4096


# --- Standard input, and the unnamed files that hold a job's input and its result.


@contextmanager
def standard_input(launch: Launch, folder: str, *, in_fork: bool) -> Iterator[int | str | None]:
    """Yield what a process reads: an open descriptor, or a path for the fork to open; None: nothing.

    Unnamed files are made in `folder`. `in_fork`: leave a path to the fork, because opening it may hang.

    Raises:
        CannotStart: it cannot be read.
        OSError: the machine lacks something; may be tried again.
    """
    if launch.stdin is not None:
        fd = unnamed_file(folder, launch.stdin)
    elif launch.stdin_path is None or in_fork:
        yield launch.stdin_path
        return
    else:
        # opening a FIFO must not block the event loop until there is a writer
        fd = open_input(launch.cwd, launch.stdin_path, os.O_NONBLOCK)
        os.set_blocking(fd, True)  # programs expect blocking input
    try:
        yield fd
    finally:
        os.close(fd)


def is_fifo(source: int | str | None) -> TypeGuard[int]:
    """Return whether this is an open FIFO; until it has a writer, its reader would see its end at once."""
    return isinstance(source, int) and stat.S_ISFIFO(os.fstat(source).st_mode)


def unnamed_file(folder: str, content: bytes = b"") -> int:
    """Return the descriptor of a file without a name that holds `content`, positioned at its start.

    It is in memory if the file system supports no such files, or has no space or inodes for it.
    """
    try:
        return _filled(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), content)
    except OSError as error:
        if error.errno in SHORTAGES - _OF_DISK:
            raise
    return _filled(os.memfd_create("bgd"), content)


_OF_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})


def _filled(fd: int, content: bytes) -> int:
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_input(folder: str, path: str, flags: int = 0) -> int:
    """Open a file for a process in this folder to read.

    Raises:
        CannotStart: it cannot be read.
        OSError: the machine lacks something; may be tried again.
    """

    def why(error: OSError | ValueError) -> str:
        reason = reason_of(error) if isinstance(error, OSError) else "no file can have this name"
        return no_input_problem(path, reason)

    with explained(why):
        # relative to the process's own folder
        fd = os.open(
            os.path.join(folder, path),  # noqa: PTH118  plain strings here
            os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | flags,
        )
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise CannotStart(no_input_problem(path, "it is a directory"))
    return fd
