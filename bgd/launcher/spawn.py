"""Starts one process exactly as a Launch says."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from bgd.launcher.cgroup import Group
from bgd.launcher.children import Children
from bgd.launcher.execution import Usage
from bgd.launcher.input import unnamed
from bgd.launcher.preparation import preparation, steps_of
from bgd.launcher.problems import SHORTAGES, CannotStart, why_not_started
from bgd.launcher.process import MARK, Process, read_process
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

    def seen(self) -> Process | None:
        if not self._children.is_watched(self.pid):
            return None
        try:
            return read_process(self.pid)
        except OSError as error:
            log.warning("process %d cannot be looked at: %s", self.pid, error.strerror)
            return None

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
        process = await _prepared(launch, standard_input, output, result, group)
    except BaseException:
        if result is not None:
            os.close(result)
        raise
    return Spawned(process, result, tools.children)


async def _prepared(
    launch: Launch, standard_input: int, output: int, result: int | None, group: Group | None
) -> asyncio.subprocess.Process:
    steps = steps_of(launch, group)
    if not steps:  # as most: it costs no fork
        return await _started(launch, standard_input, output, result, None)
    with preparation(steps) as prepare:
        return await _started(launch, standard_input, output, result, prepare)


async def _started(
    launch: Launch,
    standard_input: int,
    output: int,
    result: int | None,
    prepare: Callable[[], None] | None,
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *(launch.argv or [""]),
            stdin=standard_input,
            stdout=output,
            stderr=output,
            env=_with_result(environment_of(launch), result),
            cwd=launch.cwd,
            umask=launch.umask,
            start_new_session=True,
            pass_fds=() if result is None else (result,),
            preexec_fn=prepare,
        )
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise CannotStart(why_not_started(launch, error)) from error
    except ValueError as error:  # NUL, text that cannot be encoded, a variable named with "="
        raise CannotStart(why_not_started(launch, error)) from error


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
