"""Warm workers: processes that import what jobs need, then fork for each job or run it themselves."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

from bgd.core.spec import Isolation
from bgd.launcher.children import Child, LostChild
from bgd.launcher.context import Context
from bgd.launcher.problems import CannotStart, one_line
from bgd.launcher.process import MARK
from bgd.launcher.spawn import Command, ResultFile, start_in_fork, start_process
from bgd.launcher.warm import attempts
from bgd.launcher.warm.attempts import ForkedExecution, NotAccepted, ReusedExecution
from bgd.launcher.warm.channel import WORKER_PROTOCOL, SharedMemory, WorkerChannel, WorkerMessage
from bgd.system.clock import elapsed
from bgd.wire.launching import Launch, NotStarted, WarmStart

log = logging.getLogger(__name__)


# --- All warm workers: found or started for an attempt, and ended when others are used more.


class WorkerPool:
    """All warm workers; a worker is started only when an attempt needs it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._living: set[Worker] = set()
        self._by_key: dict[WarmKey, list[Worker]] = {}  # not retired; the most recently used last
        self._unfit: dict[WarmKey, str] = {}
        context.children.on_orphan = self._receive_all

    async def lease(self, launch: Launch, warm: WarmStart, stop_asked: asyncio.Future[None]) -> Worker | None:
        """Return a ready worker, to be released later; None: `stop_asked` was done before there was one.

        Raises:
            NoWarmWorker: this attempt needs a fresh interpreter.
            CannotStart: no worker became ready, and none will.
            OSError, LostChild: as from `bgd.launcher.spawn.start_process`.
        """
        key = warm_key(launch, warm, self._context.mounts.folder_that_may_hang(launch.cwd))
        while not stop_asked.done():
            if key in self._unfit:
                raise NoWarmWorker(self._unfit[key])
            free = self._free(key)
            worker = free or self._start_worker(key, launch, warm)
            self._by_key[key] = self._by_key.pop(key)
            worker.users += 1
            if not worker.settled.done():
                await asyncio.wait({worker.settled, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
            if worker.problem is None and worker.settled.done() and not stop_asked.done():
                return worker
            worker.release()
            if isinstance(worker.problem, NoWarmWorker) and key not in self._unfit:
                self._note_unfit(key, worker.problem)
            # a crash fails the attempt that the worker was started for; for others another worker may not
            # crash
            if worker.problem is not None and (free is None or not worker.has_crashed):
                raise worker.problem
        return None

    def renew(self) -> None:
        """Give existing workers no more attempts, and forget why workers were unfit."""
        self._unfit.clear()
        self._by_key.clear()
        for worker in self._living:
            worker.retire()

    def end(self) -> None:
        """Kill them all; only while no attempt runs."""
        for worker in self._living:
            worker.kill()

    def _receive_all(self) -> None:
        for worker in list(self._living):
            worker.receive()

    def _free(self, key: WarmKey) -> Worker | None:
        """Return a worker that can take another attempt; one that runs jobs itself takes one at a time."""
        for worker in reversed(self._by_key.get(key, [])):
            if not worker.is_retired and (key.isolation is Isolation.FORK or not worker.users):
                return worker
        return None

    def _start_worker(self, key: WarmKey, launch: Launch, warm: WarmStart) -> Worker:
        worker = Worker(key, self._context, self._check)
        self._living.add(worker)
        self._by_key.setdefault(key, []).append(worker)
        self._context.group.create_task(self._see_to_its_end(worker, launch, warm))
        return worker

    async def _see_to_its_end(self, worker: Worker, launch: Launch, warm: WarmStart) -> None:
        try:
            await worker.live(launch, warm)
        finally:
            self._living.discard(worker)

    def _check(self, worker: Worker) -> None:
        """Forget a retired worker; if too many keys are idle, retire the workers of the longest idle key."""
        workers = self._by_key.get(worker.key, [])
        if worker.is_retired and worker in workers:
            workers.remove(worker)
            if not workers:
                del self._by_key[worker.key]
        if len(self._by_key) <= _MAX_IDLE:
            return
        idle = [key for key, each in self._by_key.items() if not any(one.users for one in each)]
        for key in idle[:-_MAX_IDLE]:
            for each in self._by_key.pop(key):
                each.retire()

    def _note_unfit(self, key: WarmKey, unfit: NoWarmWorker) -> None:
        log.warning(
            "[python] preload %s: such jobs get fresh interpreters until `bgctl reload`, as %s",
            *(f"[{', '.join(key.preload)}]", unfit),
        )
        if len(self._unfit) >= _MAX_UNFIT:
            self._unfit.clear()
        self._unfit[key] = str(unfit)


_MAX_IDLE = 8  # keys; an interpreter with its imports takes about ten megabytes or more
_MAX_UNFIT = 100  # each job's environment, and so its key, may differ


# --- One warm worker.


class NoWarmWorker(Exception):
    """No warm worker can run the attempt, for the reason in the message; a fresh interpreter can."""


class Worker:
    """One warm worker. `changed` is called when an attempt has released it, or when it has ended.

    `users`: how many attempts wait for it or run in it. `settled` is done when it is ready, or has a
    `problem` and never will be ready; `log_text` is what it printed until then. `has_crashed`: it has ended
    without a reason, as it was killed, or a module that it imported ended it.
    """

    def __init__(self, key: WarmKey, context: Context, changed: Callable[[Worker], None]) -> None:
        self.key = key
        self.users = 0
        self.is_retired = False
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.problem: Exception | None = None
        self.has_crashed = False
        self.log_text = b""
        self._context = context
        self._changed = changed
        self._since = elapsed()
        self._startup_output = _output_in_memory()
        try:
            self._channel = WorkerChannel(
                self._on_message, self._channel_closed, shares_memory=key.isolation is Isolation.REUSE
            )
        except OSError:
            os.close(self._startup_output)
            raise
        self._memory = self._channel.memory
        self._process: Child | None = None
        self._environment: dict[str, str] = {}  # that it was started with
        self._used: attempts.WorkerUsage = (0.0, 0.0, 0)  # by one that runs them itself, until it was idle
        self._numbers = itertools.count(1)  # of attempts
        self._handovers: dict[int, attempts.Handover] = {}
        self._begun: dict[int, ForkedExecution | ReusedExecution] = {}
        self._doing = "started"
        self._failure: str | None = None
        self._failure_kind = NotStarted.OTHER

    async def live(self, launch: Launch, warm: WarmStart) -> None:
        """Start it for an attempt; return when it has ended."""
        patience = self._context.deadlines.after(_PATIENCE, self._time_out)
        self.settled.add_done_callback(lambda _: patience.cancel())
        try:
            await self._work(launch, warm)
        except (CannotStart, OSError, LostChild) as error:
            self._settle(error)
        except Exception as error:  # an error of one worker must not end the launcher, and all jobs with it
            log.exception("a warm worker failed")
            self._fail(f"an error in the launcher: {type(error).__name__}: {error}")
        finally:
            self.is_retired = True
            self._channel.close()
            self._channel.close_memory()
            self._changed(self)

    @property
    def since_of_jobs(self) -> float:
        """Elapsed clock: no process of an attempt that begins now is older; the worker may be one of them."""
        return self._since if self.key.isolation is Isolation.REUSE else elapsed()

    async def run(
        self, launch: Launch, output: int, tag: int | None, stop_asked: asyncio.Future[None]
    ) -> ForkedExecution | ReusedExecution:
        """Let it run an attempt with this tag; if this raises, the caller must release the worker.

        When `stop_asked` is done, because the attempt is to end, the worker gets little more time to begin.

        Raises:
            NotAccepted: the worker does not run it.
            CannotStart, OSError, LostChild: as from `bgd.launcher.spawn.start_process`.
        """
        if self.is_retired:
            raise NotAccepted
        result = ResultFile() if self._memory is None else None
        number = next(self._numbers)
        handover = self._handovers[number] = attempts.Handover(launch, result)
        deadlines = self._context.deadlines
        patience = [deadlines.after(_PATIENCE, self.kill)]

        def hurry(_: object) -> None:
            patience.append(deadlines.after(_EXIT_PATIENCE, self.kill))

        stop_asked.add_done_callback(hurry)
        try:
            content = {"id": number, "stamp": tag, **attempts.description_of(launch, self._environment)}
            sent = (output,) if result is None else (output, result.fd)
            self._channel.send(content, sent, self._context.state)
            if self._memory is not None:
                self._check_later(number, self._memory, _FIRST_CHECK)
            return await handover.begun
        except BaseException:
            if result is not None:
                result.close()
            raise
        finally:
            self._handovers.pop(number, None)
            stop_asked.remove_done_callback(hurry)
            for each in patience:
                each.cancel()

    def receive(self) -> None:
        """Handle the messages that it has sent."""
        self._channel.receive()

    def release(self) -> None:
        """Note that one of its users no longer needs it."""
        self.users -= 1
        if self.is_retired:
            self.retire()
        self._changed(self)

    def retire(self) -> None:
        """Give it no more attempts; it ends after its present ones."""
        self.is_retired = True
        if not self.users and self.settled.done():
            self._channel.close()
            self._context.deadlines.after(_EXIT_PATIENCE, self.kill)

    def kill(self) -> None:
        """Kill it, and give it no more attempts."""
        self.is_retired = True
        self.signal(signal.SIGKILL)

    def signal(self, signum: int) -> None:
        """Send its process a signal, if it has one."""
        if self._process is not None:
            self._context.children.kill(self._process.pid, signum)

    # --- what its attempts tell it

    def reap(self, number: int) -> None:
        """Let it reap the process that it forked for an attempt."""
        self._channel.send({"reap": number}, (), self._context.state)

    def take_back(self, number: int, *, is_fit: bool = True) -> None:
        """Note that an attempt needs it no longer; `is_fit`: it can take another."""
        self._begun.pop(number, None)
        if not is_fit:
            self.retire()
        self.release()

    # --- its process

    def _channel_closed(self) -> None:
        """Kill it, unless the job that it runs closed the channel: then it ends by itself with the job."""
        self.is_retired = True
        is_taken = self._memory is not None and self._memory.taken in self._handovers
        if self._memory is None or not (self._begun or is_taken):
            self.kill()

    async def _work(self, launch: Launch, warm: WarmStart) -> None:
        self._environment = environment_of_worker(launch, warm)
        try:
            command = Command(
                argv=[*launch.argv, str(self._channel.far_end.fileno())],
                env=self._environment,
                cwd=self.key.folder,
                umask=0o022,
                input=self._context.null,
                output=self._startup_output,
                passed=(self._channel.far_end.fileno(),),
            )
            if self._context.mounts.that_may_hang(launch) is None:
                self._process = start_process(launch, command, self._context.children)
            else:
                await start_in_fork(launch, command, self._context, begun=self._set_process)
        finally:
            self._channel.far_end.close()
        process = self._process
        assert process is not None  # noqa: S101  it was started
        if self.key.isolation is Isolation.FORK:
            self._context.scanner.excluded.add(process.pid)
        code = -signal.SIGKILL
        try:
            shared = () if self._memory is None else (self._memory.fd,)
            self._channel.send(_beginning(warm), shared, self._context.state)
            code = await process.wait()
        except BaseException:
            self.kill()
            await process.wait()
            raise
        finally:
            self._context.scanner.excluded.discard(process.pid)
            self._clean_up(process, code)
        self.has_crashed = self._failure is None
        self._fail(self._failure or f"its worker {end_of(code)} while it {self._doing}")

    def _set_process(self, process: Child) -> None:
        self._process = process

    def _clean_up(self, process: Child, code: int) -> None:
        """Clean up after the worker, which is reaped."""
        self._channel.receive_rest()
        if not self.users:  # else a child that it has just forked might still be in its group
            with suppress(ProcessLookupError, PermissionError):  # processes that preloaded modules started
                os.killpg(process.pid, signal.SIGKILL)
        for number, handover in list(self._handovers.items()):
            if self._memory is not None and self._memory.taken == number:
                self._begin(number, handover, None)
            elif handover.result is not None and handover.result.is_taken:
                handover.begun.set_exception(LostChild("its warm worker died while it started the job"))
            else:
                handover.begun.set_exception(NotAccepted())
        self._handovers.clear()
        for begun in list(self._begun.values()):
            begun.worker_ended(code, process.usage)

    def _on_message(self, message: WorkerMessage, descriptor: int | None) -> None:
        if message.id is not None:
            self._on_job_message(message.id, message, descriptor)
        elif message.importing is not None:
            self._doing = f"imported {message.importing}"
        elif message.failed is not None:
            self._failure = message.failed
            if message.is_lasting:
                self._failure_kind = NotStarted.NO_PRELOAD
        elif message.ready is not None:
            self._used = message.usage or self._used
            self._settle(self._problem_with(message.ready, message))

    def _on_job_message(self, number: int, message: WorkerMessage, descriptor: int | None) -> None:
        """Handle a message about a job.

        Raises:
            OSError: the machine lacks what is needed to watch it; may be called again with the same.
        """
        if message.stale is not None:
            self.is_retired = True
        if number not in self._begun:
            handover = self._handovers.get(number)
            if handover is None:  # it was never given this job: it is broken
                self.kill()
                return
            problem = attempts.problem_in(message, handover.launch, self._context)
            if problem is None:
                try:
                    self._begin(number, handover, descriptor)
                except LostChild as error:
                    problem = error
            del self._handovers[number]
            if problem is not None:
                handover.begun.set_exception(problem)
                return
        self._begun[number].receive(message)
        if message.usage is not None and self._memory is not None:
            self._used = message.usage

    def _begin(self, number: int, handover: attempts.Handover, pidfd: int | None) -> None:
        """Note that the worker runs the attempt.

        Raises:
            LostChild: its process is not known.
            OSError: it cannot be watched now.
        """
        begun = (
            self._reused(number) if handover.result is None else self._forked(number, handover.result, pidfd)
        )
        self._begun[number] = begun
        handover.begun.set_result(begun)

    def _check_later(self, number: int, memory: SharedMemory, pause: float) -> None:
        """Check now and then whether the worker runs the attempt, as it sends a message only at the end."""

        def check() -> None:
            if number not in self._handovers:  # it was answered, or the worker has ended
                return
            if memory.taken == number:
                self._begin(number, self._handovers.pop(number), None)
            else:
                self._check_later(number, memory, pause * 2)

        asyncio.get_running_loop().call_later(pause, check)

    def _reused(self, number: int) -> ReusedExecution:
        memory, process = self._memory, self._process
        assert memory is not None and process is not None  # noqa: PT018, S101  else it forks, or has not begun
        return ReusedExecution(self, number, process.pid, memory, self._used)

    def _forked(self, number: int, result: ResultFile, pidfd: int | None) -> ForkedExecution:
        if pidfd is None:
            raise LostChild("its warm worker named no process")
        # if the worker has died since, this process is the child's parent
        parents = {os.getpid()} if self._process is None else {os.getpid(), self._process.pid}
        return ForkedExecution(self, number, attempts.child_of(parents, pidfd), pidfd, result, self._context)

    def _problem_with(self, pid: int, message: WorkerMessage) -> NoWarmWorker | None:
        if message.skew:
            return NoWarmWorker("bgd was upgraded, but this launcher still speaks the earlier protocol")
        if message.unfit is not None:
            return NoWarmWorker(f"{message.unfit} would break in a fork")
        if self._process is None or self._process.pid != pid:  # its children could not be identified
            return NoWarmWorker("its interpreter is not the process that was started, but a child of that")
        return None

    def _fail(self, problem: str) -> None:
        self._settle(CannotStart(one_line(self._failure_kind, problem)))

    def _settle(self, problem: Exception | None) -> None:
        if self.settled.done():
            return
        self.log_text = _end_output(self._startup_output)
        if isinstance(problem, CannotStart):
            problem.log_text = self.log_text
        self.problem = problem
        self.settled.set_result(None)
        if self.is_retired or problem is not None:
            self.retire()

    def _time_out(self) -> None:
        self._failure = f"its worker was not ready after {_PATIENCE:g} s: it {self._doing}"
        self.kill()


def _beginning(warm: WarmStart) -> dict[str, object]:
    beginning: dict[str, object] = {"protocol": WORKER_PROTOCOL, "path": warm.path, "preload": warm.preload}
    if warm.isolation is Isolation.REUSE:
        beginning["recycle"] = [warm.recycle_jobs, warm.recycle_memory]
    return beginning


_FIRST_CHECK = 0.002  # seconds between checks whether an attempt has begun; each pause is doubled
_PATIENCE = 120.0  # seconds for the imports of a worker, and for its answer to a job
_EXIT_PATIENCE = 5.0  # seconds for a worker that is not needed, or that delays the end of an attempt


# --- The start of a worker's process, and why one did not become ready.


def end_of(code: int) -> str:
    """Return in words how a process ended."""
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _output_in_memory() -> int:
    """Return a file for what a starting worker prints, in which only `_MOST_OUTPUT` bytes can be written."""
    file = os.memfd_create("bgd-worker-output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, _MOST_OUTPUT)  # takes no memory
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    return file


def _end_output(file: int) -> bytes:
    """Return the beginning of what a starting worker has printed, and let the file take nothing more."""
    text = os.pread(file, min(os.lseek(file, 0, os.SEEK_CUR), _KEPT), 0)  # the worker writes at this place
    os.ftruncate(file, 0)  # the worker, and processes that it started, may have it open for long
    os.close(file)
    return text


_KEPT = 32_768  # bytes: half of what a pipe holds, so that they fit into a job's pipe
_MOST_OUTPUT = 16 << 20  # bytes of memory; a worker that prints more gets an error


# --- Which attempts may share a warm worker, and how it is started.


class WarmKey(Struct, frozen=True):
    """What a running worker cannot change; attempts with the same key may share a worker."""

    isolation: Isolation
    argv: tuple[str, ...]
    path: tuple[str, ...]
    preload: tuple[str, ...]
    recycle: tuple[int | None, int | None]
    folder: str  # where it starts
    waits_for: str | None  # a folder that may not answer: other jobs must not wait for it
    startup: tuple[tuple[str, str], ...]


def warm_key(launch: Launch, warm: WarmStart, waits_for: str | None) -> WarmKey:
    """Return the key of the workers that can run this attempt; `waits_for` as in WarmKey."""
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
    """Return the environment to start a worker with for this attempt, and for others with the same key."""
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


ROOM_FOR_MARK = "-" * 160  # a job overwrites it with its own mark, for /proc to show

# prefixes of variables that are read only once: to start the interpreter, by the interpreter or its C library
# as it starts, or by the first import of a library that computes
_AT_STARTUP = (
    *("PATH", "HOME", "PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_", "GLIBC_"),
    *("OMP_", "OPENBLAS_", "MKL_"),
)


def _has_relative_paths(environment: dict[str, str]) -> bool:
    """Return whether the interpreter would search for modules in the folder that it starts in."""
    paths = environment.get("PYTHONPATH")
    return bool(paths) and not all(each.startswith("/") for each in str(paths).split(":"))
