"""What a process does between its fork and its program: it takes on limits, and its terminal."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bgd.launcher.cgroup import Group
from bgd.launcher.problems import CannotStart, one_line
from bgd.launcher.terminal import take_control
from bgd.wire.launching import Launch, NotStarted
from bgd.wire.limits import NO_LIMITS

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
