"""One warm worker: a process that imports what jobs need, and then forks for each, or runs it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

from bgd.clock import elapsed
from bgd.core.spec import Isolation
from bgd.launcher.children import LostChild
from bgd.launcher.context import Tools
from bgd.launcher.problems import CannotStart, one_line
from bgd.launcher.process import MARK, read_process
from bgd.launcher.spawn import Apart, Command, started
from bgd.launcher.warm.attempts import Forked, Jobs, NotTaken, Reused
from bgd.launcher.warm.channel import WORKER_PROTOCOL, Said, WorkerLine
from bgd.wire.launching import Launch, NotStarted, WarmStart

# --- Which attempts may share a warm worker, and what such a worker is started with.


class WarmKey(Struct, frozen=True):
    """All that a worker cannot change any more once it runs."""

    isolation: Isolation
    argv: tuple[str, ...]
    path: tuple[str, ...]
    preload: tuple[str, ...]
    recycle: tuple[int | None, int | None]
    folder: str  # that it starts in
    waits_for: str | None  # a folder that may not answer: other jobs must not wait for it as well
    startup: tuple[tuple[str, str], ...]


def key_of(launch: Launch, warm: WarmStart, waits_for: str | None) -> WarmKey:
    return WarmKey(
        isolation=warm.isolation,
        argv=tuple(launch.argv),
        path=tuple(warm.path),
        preload=tuple(warm.preload),
        recycle=(warm.recycle_jobs, warm.recycle_memory),
        folder=launch.cwd if _has_relative_paths(launch.env) else "/",
        waits_for=waits_for,
        startup=tuple(sorted(item for item in launch.env.items() if item[0].startswith(_AT_STARTUP))),
    )


def environment_of_worker(launch: Launch, warm: WarmStart) -> dict[str, str]:
    """Return what a worker is started with to run this attempt, and others of its key."""
    environment = {MARK: ROOM_FOR_MARK, "PYTHONUNBUFFERED": "1", **launch.env}
    for name, value in warm.base.items():
        if name.startswith(_AT_STARTUP):
            continue
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    environment[MARK] = ROOM_FOR_MARK
    return environment


ROOM_FOR_MARK = "-" * 160  # a job writes its own mark over it, where /proc shows it

# looked at by who starts the interpreter, by itself, its C library or the first import that computes, and
# never again
_AT_STARTUP = (
    *("PATH", "HOME", "PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_", "GLIBC_"),
    *("OMP_", "OPENBLAS_", "MKL_"),
)


def _has_relative_paths(environment: dict[str, str]) -> bool:
    """Tell whether the interpreter would look for modules from the folder that it starts in."""
    paths = environment.get("PYTHONPATH")
    return bool(paths) and not all(each.startswith("/") for each in str(paths).split(":"))


# --- Starts the process of a warm worker, and says why one did not become ready.


class FailedStart(CannotStart):
    """The worker ended before it was ready."""

    def __init__(self, problem: str) -> None:
        super().__init__(one_line(NotStarted.OTHER, problem))


class Crashed(FailedStart):
    """It did not say why: it was killed, or ended by what it imported."""


async def start(
    launch: Launch, command: Command, tools: Tools, begun: Callable[[asyncio.subprocess.Process], None]
) -> None:
    """Start the worker that `launch` needs; `begun` is given its process, which may hang before it runs.

    Raises:
        CannotStart: for a reason that lies in the Launch.
        OSError, LostChild: as `bgd.launcher.spawn.spawn`.
    """
    if tools.mounts.that_may_hang(launch) is None:
        begun(await started(launch, command))
        return
    apart = Apart(launch, command, tools.children)
    begun(apart.process)
    await apart.begun()


def end_of(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


# --- What a warm worker prints while it starts.


class Words:
    """A pipe, read all the time, of which the beginning is kept."""

    def __init__(self) -> None:
        """Make the pipe; `far_end` is for the worker, and to be closed here once that has it."""
        self._reader, self.far_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._loop = asyncio.get_running_loop()
        self._text = bytearray()
        self._loop.add_reader(self._reader, self._read)

    def end(self) -> bytes:
        """Return what has been printed, and read no more."""
        while self._reader >= 0 and self._read():
            pass
        self._close()
        return bytes(self._text)

    def _read(self) -> bool:
        """Take one piece; False: there is none now."""
        try:
            piece = os.read(self._reader, _KEPT)
        except BlockingIOError:
            return False
        if not piece:
            self._close()
        self._text += piece[: _KEPT - len(self._text)]
        return len(self._text) < _KEPT

    def _close(self) -> None:
        if self._reader >= 0:
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1


_KEPT = 32_768  # bytes: half of what a pipe holds, so that they fit into a job's


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

    async def live(self, launch: Launch, warm: WarmStart) -> None:
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

    async def _work(self, launch: Launch, warm: WarmStart) -> None:
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


def _beginning(warm: WarmStart) -> dict[str, object]:
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


# --- All warm workers: found or started for an attempt, and ended when others are needed more.


class Workers:
    """None is started but for an attempt, and none is looked after but when one of them stirs."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._living: set[Worker] = set()
        self._by_key: dict[WarmKey, list[Worker]] = {}  # not retired; the most recently used last
        self._unfit: dict[WarmKey, str] = {}
        tools.children.hear_of_orphans = self._hear

    async def lease(self, launch: Launch, warm: WarmStart, asked: asyncio.Future[None]) -> Worker | None:
        """Return a worker that is ready, to be released later; None: `asked` was done before there was one.

        Raises:
            Unfit: none can be had for this attempt, which must do without.
            CannotStart: none became ready, and none will.
            OSError, LostChild: as from `bgd.launcher.spawn.spawn`.
        """
        key = key_of(launch, warm, self._tools.mounts.folder_that_may_hang(launch.cwd))
        while not asked.done():
            if key in self._unfit:
                raise Unfit(self._unfit[key])
            free = self._free(key)
            worker = free or self._begin(key, launch, warm)
            self._by_key[key] = self._by_key.pop(key)
            worker.users += 1
            if not worker.settled.done():
                await asyncio.wait({worker.settled, asked}, return_when=asyncio.FIRST_COMPLETED)
            if worker.problem is None and worker.settled.done() and not asked.done():
                return worker
            worker.release()
            if isinstance(worker.problem, Unfit) and key not in self._unfit:
                self._note_unfit(key, worker.problem)
            # a crash is told to the one that it was started for, and is no proof that another will crash
            if worker.problem is not None and (free is None or not isinstance(worker.problem, Crashed)):
                raise worker.problem
        return None

    def renew(self) -> None:
        """Give none of them another attempt, and no key the blame for what its worker was unfit for."""
        self._unfit.clear()
        self._by_key.clear()
        for worker in self._living:
            worker.retire()

    def end(self) -> None:
        """End them all at once; only when no attempt runs."""
        for worker in self._living:
            worker.kill()

    def _hear(self) -> None:
        for worker in list(self._living):
            worker.hear()

    def _free(self, key: WarmKey) -> Worker | None:
        """Return one that can be given another attempt; a worker that runs them itself has one at a time."""
        for worker in reversed(self._by_key.get(key, [])):
            if not worker.is_retired and (key.isolation is Isolation.FORK or not worker.users):
                return worker
        return None

    def _begin(self, key: WarmKey, launch: Launch, warm: WarmStart) -> Worker:
        worker = Worker(key, self._tools, self._consider)
        self._living.add(worker)
        self._by_key.setdefault(key, []).append(worker)
        self._tools.group.create_task(self._see_to_its_end(worker, launch, warm))
        return worker

    async def _see_to_its_end(self, worker: Worker, launch: Launch, warm: WarmStart) -> None:
        try:
            await worker.live(launch, warm)
        finally:
            self._living.discard(worker)

    def _consider(self, worker: Worker) -> None:
        """Forget it if it is retired; of too many keys that idle retire those not used for longest."""
        workers = self._by_key.get(worker.key, [])
        if worker.is_retired and worker in workers:
            workers.remove(worker)
            if not workers:
                del self._by_key[worker.key]
        if len(self._by_key) <= _MOST_IDLE:
            return
        idle = [key for key, each in self._by_key.items() if not any(one.users for one in each)]
        for key in idle[:-_MOST_IDLE]:
            for each in self._by_key.pop(key):
                each.retire()

    def _note_unfit(self, key: WarmKey, unfit: Unfit) -> None:
        log.warning(
            "[python] preload %s: such jobs get fresh interpreters until `bgctl reload`, as %s",
            *(f"[{', '.join(key.preload)}]", unfit),
        )
        if len(self._unfit) >= _MOST_UNFIT:
            self._unfit.clear()
        self._unfit[key] = str(unfit)


_MOST_IDLE = 8  # keys; an interpreter with what it has imported takes some ten megabytes
_MOST_UNFIT = 100  # environments differ from job to job, and so may keys
