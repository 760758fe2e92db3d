"""Starts one process exactly as a Launch says."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, cast

from bgd.launcher.apart import Apart, Command
from bgd.launcher.cgroup import Group
from bgd.launcher.children import Children
from bgd.launcher.execution import Usage
from bgd.launcher.input import unnamed
from bgd.launcher.ladder import UNKILLABLE
from bgd.launcher.preparation import preparation, steps_of
from bgd.launcher.problems import SHORTAGES, CannotStart, why_not_started
from bgd.launcher.process import MARK
from bgd.launcher.terminal import KIND
from bgd.launcher.tools import Tools
from bgd.launcher.tree import Tree, mark
from bgd.wire.launching import Launch

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
