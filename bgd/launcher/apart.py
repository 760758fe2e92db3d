"""A fork of the launcher does in its place what may hang: it hangs alone, and can be killed.

Most programs are started by a vfork, which costs a tenth of this, and holds up the launcher until the kernel
has entered the folder and opened the program.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NoReturn

from msgspec import Struct

from bgd.launcher.children import Children, all_from, fork
from bgd.launcher.input import opened
from bgd.launcher.loop import process_of
from bgd.launcher.preparation import Step, take
from bgd.launcher.problems import SHORTAGES, CannotStart, why_not_started
from bgd.launcher.stamp import wear
from bgd.wire.launching import Launch


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


_MOST = 4096  # bytes
