"""One warm worker: a process that imports what jobs need, and then forks for each, or runs it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from bgd.clock import elapsed
from bgd.core.spec import Isolation
from bgd.launcher.apart import Command
from bgd.launcher.children import LostChild
from bgd.launcher.problems import CannotStart
from bgd.launcher.process import read_process
from bgd.launcher.tools import Tools
from bgd.launcher.warm.forked import Forked
from bgd.launcher.warm.jobs import Jobs, NotTaken
from bgd.launcher.warm.key import WarmKey, environment_of_worker
from bgd.launcher.warm.line import WORKER_PROTOCOL, Said, WorkerLine
from bgd.launcher.warm.reused import Reused
from bgd.launcher.warm.start import Crashed, FailedStart, end_of, start
from bgd.launcher.warm.words import Words
from bgd.wire.launching import Launch, Warm

log = logging.getLogger(__name__)


class Unfit(Exception):
    """The worker would fork badly, for the reason the message says; fresh interpreters will do."""


class Worker:
    """`changed` is called whenever it has become free of an attempt, or has ended.

    `users`: attempts that wait for it or run by it. `settled` is done once it is ready, or has a
    `problem` and never will be; `words` is what it printed until then.
    """

    def __init__(self, key: WarmKey, tools: Tools, changed: Callable[[Worker], None]) -> None:
        self.key = key
        self.users = 0
        self.is_retired = False
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.problem: Exception | None = None
        self.words = b""
        self._tools = tools
        self._changed = changed
        self._since = elapsed()
        self._printed = Words()
        self._line = WorkerLine(self._hear, self._lose_line)
        self._process: asyncio.subprocess.Process | None = None
        self._jobs: Jobs | None = None
        self._doing = "started"
        self._failure: str | None = None

    async def live(self, launch: Launch, warm: Warm) -> None:
        """Start it for an attempt, and return when it has ended."""
        patience = self._tools.deadlines.after(_PATIENCE, self._lose_patience)
        self.settled.add_done_callback(lambda _: patience.cancel())
        try:
            await self._work(launch, warm)
        except (CannotStart, OSError, LostChild) as error:
            self._settle(error)
        except Exception as error:  # one worker's trouble must not end all jobs with the launcher
            log.exception("a warm worker failed")
            self._settle(FailedStart(f"its launcher failed it: {type(error).__name__}: {error}"))
        finally:
            self.is_retired = True
            self._line.close()
            self._changed(self)

    @property
    def since_of_jobs(self) -> float:
        """Elapsed clock: no process of an attempt that begins now is older, and the worker may be one."""
        return self._since if self.key.isolation is Isolation.REUSE else elapsed()

    async def run(
        self, launch: Launch, output: int, stamp: int | None, asked: asyncio.Future[None]
    ) -> Forked | Reused:
        """Have it run an attempt of this stamp, whose output goes there; who is let down has to release it.

        Once `asked` is done, as the attempt is to end, it has little time left to begin.

        Raises:
            NotTaken: it does not.
            CannotStart, OSError, LostChild: as from `bgd.launcher.spawn.spawn`.
        """
        if self.is_retired or self._jobs is None:
            raise NotTaken
        patience = [self._tools.deadlines.after(_PATIENCE, self.kill)]

        def hurry(_: object) -> None:
            patience.append(self._tools.deadlines.after(_LEAVE, self.kill))

        asked.add_done_callback(hurry)
        try:
            return await self._jobs.run(launch, output, stamp)
        finally:
            asked.remove_done_callback(hurry)
            for each in patience:
                each.cancel()

    def hear(self) -> None:
        """Take what it has said by now."""
        self._line.hear()

    def release(self) -> None:
        """Take note that one of its users needs it no more."""
        self.users -= 1
        if self.is_retired:
            self.retire()
        self._changed(self)

    def retire(self) -> None:
        """Give it nothing more to do; it ends when it has done what it has."""
        self.is_retired = True
        if not self.users and self.settled.done():
            self._line.close()
            self._tools.deadlines.after(_LEAVE, self.kill)

    def kill(self) -> None:
        self.is_retired = True
        if self._process is not None:
            self._tools.children.kill(self._process.pid)

    def _lose_line(self) -> None:
        """Let it end with the job that closed the line, which it does by itself; else it is of no use."""
        self.is_retired = True
        if self.key.isolation is not Isolation.REUSE or self._jobs is None or not self._jobs.is_running:
            self.kill()

    async def _work(self, launch: Launch, warm: Warm) -> None:
        environment = environment_of_worker(launch, warm)
        try:
            command = Command(
                argv=[*launch.argv, str(self._line.far_end.fileno())],
                env=environment,
                cwd=self.key.folder,
                umask=0o022,
                input=self._tools.null,
                output=self._printed.far_end,
                passed=(self._line.far_end.fileno(),),
            )
            await start(launch, command, self._tools, self._own)
        finally:
            self._line.far_end.close()
            os.close(self._printed.far_end)
        process = self._process
        assert process is not None  # noqa: S101  it was started
        if self.key.isolation is Isolation.FORK:
            self._tools.looker.apart.add(process.pid)
        code = -signal.SIGKILL
        try:
            seen = read_process(process.pid)
            if seen is not None:
                parts = self._tools, self._line, seen, environment
                self._jobs = Jobs(*parts, ended=self.release, retire=self.retire, kill=self.kill)
                self._line.say(_beginning(warm), (), self._tools.state)
            code = await process.wait()
        except BaseException:
            self.kill()
            await process.wait()
            raise
        finally:
            self._tools.looker.apart.discard(process.pid)
            self._bury(process.pid, code)
        if self._failure is not None:
            self._settle(FailedStart(self._failure))
        else:
            self._settle(Crashed(f"its worker {end_of(code)} while it {self._doing}"))

    def _own(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def _bury(self, pid: int, code: int) -> None:
        """See to what the worker, which is reaped, has left."""
        self._line.hear_rest()
        if not self.users:  # else one that it has just forked might still be of its group
            with suppress(ProcessLookupError, PermissionError):  # whatever a preloaded module had started
                os.killpg(pid, signal.SIGKILL)
        usage = self._tools.children.take_usage(pid)
        if self._jobs is not None:
            self._jobs.lose_worker(code, usage)

    def _hear(self, said: Said, descriptor: int | None) -> None:
        try:
            if said.id is not None:
                self._hear_of_job(said, descriptor)
            elif said.importing is not None:
                self._doing = f"imported {said.importing}"
            elif said.failed is not None:
                self._failure = said.failed
            elif said.ready is not None:
                self._settle(self._unfit(said.ready, said))
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _hear_of_job(self, said: Said, descriptor: int | None) -> None:
        if said.stale is not None:
            self.is_retired = True
        try:
            if self._jobs is not None:
                self._jobs.hear(said, descriptor)
        except LookupError:  # what it has not been given: it is mad
            self.kill()

    def _unfit(self, pid: int, said: Said) -> Unfit | None:
        if said.skew:
            return Unfit("bgd was upgraded, and this launcher speaks with workers as the one before")
        if said.unfit is not None:
            return Unfit(f"{said.unfit} would not outlive a fork")
        if self._process is None or self._process.pid != pid:  # its children could not be told from others
            return Unfit("its interpreter is not the process that was started, but a child of that")
        return None

    def _settle(self, problem: Exception | None) -> None:
        if self.settled.done():
            return
        self.words = self._printed.end()
        if isinstance(problem, FailedStart):
            problem.words = self.words
        self.problem = problem
        self.settled.set_result(None)
        if self.is_retired or problem is not None:
            self.retire()

    def _lose_patience(self) -> None:
        self._failure = f"its worker was not ready after {_PATIENCE:g} s: it {self._doing}"
        self.kill()


def _beginning(warm: Warm) -> dict[str, object]:
    beginning: dict[str, object] = {
        "protocol": WORKER_PROTOCOL,
        "path": warm.path,
        "preload": warm.preload,
    }
    if warm.isolation is Isolation.REUSE:
        beginning["recycle"] = [warm.recycle_jobs, warm.recycle_memory]
    return beginning


_PATIENCE = 120.0  # seconds for the imports of a worker, and for its answer to a job
_LEAVE = 5.0  # seconds for a worker that is no longer needed, or stands in the way of a job's end
