"""Attempts on a Slurm cluster: each is one srun, and bgd/worker/node.py runs its program on the node.

srun's exit code proves nothing, and srun may die while the program runs on. So an attempt has only ended once
its node has reported how, or when Slurm's controller no longer has its job and nothing in its folder is
locked. Until then nothing runs again. `claim.N` in the attempt's folder decides whether the N-th submission
runs: if the launcher makes it first, that submission never will, whatever Slurm still does with it.

Nothing here blocks the event loop: srun, squeue and scancel are processes, and the shared folder, whose file
system may hang, is only touched by forks.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bgd.clock import elapsed
from bgd.core.explain import Cause, Reason
from bgd.core.job import Outcome
from bgd.core.spec import StopSignal
from bgd.launcher.children import Child
from bgd.launcher.context import Context
from bgd.launcher.controller import SRUN_COST, SlurmJob
from bgd.launcher.deadlines import Countdown, settle
from bgd.launcher.folder_watch import FolderWatch
from bgd.launcher.journal import Began
from bgd.launcher.output import AttemptOutput, Log, bytes_logged
from bgd.launcher.problems import CannotStart, one_line
from bgd.launcher.process import new_tag, set_tag
from bgd.launcher.shared_folder import Found, Node, NodeOutcome, SharedFolder
from bgd.launcher.spawn import StandardInput
from bgd.launcher.sweep import kill_tree
from bgd.launcher.tree import StopReason, Tree
from bgd.wire.launching import (
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    Launch,
    NotStarted,
    SlurmStart,
)

log = logging.getLogger(__name__)


class _Report(Struct, frozen=True):
    """One line of the node's program on srun's stderr."""

    started: Node | None = None
    ended: NodeOutcome | None = None


class SlurmAttempt:
    """One attempt on a cluster, with the interface of an Attempt.

    `adopted`: the record of a launcher that has died; what it submitted may still run.
    """

    def __init__(
        self,
        launch: Launch,
        context: Context,
        watch: FolderWatch,
        started: Callable[[AttemptStarted], None],
        grew: Callable[[], None],
        adopted: Began | None = None,
    ) -> None:
        assert launch.slurm is not None  # noqa: S101  who makes one has looked
        self.launch = launch
        self._settings: SlurmStart = launch.slurm
        self._context = context
        self._report_start = started
        self._grew = grew
        self._adopted = adopted
        self._record = adopted  # the latest in the journal
        self._controller = watch.controller
        self._watch = watch
        self._name = job_name(launch.key)
        self._folder = SharedFolder(context, self._settings.folder, self._name)
        self._submission = adopted.submission if adopted else 1
        self._started_at, self._since = time.time(), elapsed()
        self._submitted_at = self._since
        self._tag: int | None = None  # of its srun
        self._output: AttemptOutput | None = None
        self._log_bytes, self._log_problem = 0, None if adopted is None else _UNLOGGED
        self._said = bytearray()  # the end of what srun and Slurm wrote to stderr
        self._line = bytearray()  # the beginning of its next line
        self._waits: Reason | None = None  # why it has no node yet
        self._node: Node | None = None
        self._outcome: NodeOutcome | None = None
        self._outcome_at = 0.0  # when srun passed it on, on the elapsed clock
        self._result: bytes | None = None
        self._limit: Countdown | None = None
        # what is asked of it
        self._reason: Outcome | None = None
        self._grace = math.inf
        self._grace_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop_asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._srun: Child | None = None
        self._is_quiet = False  # nothing of it runs any more, though srun has not ended
        self._is_forgotten = False  # by Slurm
        self._times_lost = 0
        self._is_submitted = adopted is not None
        self._may_hold = adopted is not None  # an allocation, which its srun may have been unable to release
        self._is_lost = False  # its folder was removed, and with it the proof that it did not run
        self._is_suspended = adopted is not None and adopted.suspended
        self._was_signalled = False
        self._signals: list[int] = [signal.SIGSTOP] if self._is_suspended else []  # for its start
        self._sending = asyncio.Lock()

    @property
    def state(self) -> AttemptStarted:
        """What a supervisor is told of it while it has not ended; it has no pid before it has a node."""
        place = self.launch.place
        if place is not None and self._node is not None:
            place = replace(place, node=self._node.node)
        return AttemptStarted(
            key=self.launch.key,
            pid=self._node.pid if self._node else None,
            started_at=self._started_at,
            suspended=self._is_suspended,
            since=self._since,
            place=place,
            waits=self._waits,
        )

    @property
    def log_bytes(self) -> int:
        """The size of its output so far."""
        return self._output.log.total if self._output else self._log_bytes

    @property
    def log_problem(self) -> str | None:
        """Why output is missing from its log; None: no output is missing."""
        return (self._output.log.problem if self._output else None) or self._log_problem

    # --- what may be asked of it

    def stop(self, reason: Outcome, grace: float, told: StopReason = StopReason.OTHER) -> None:  # noqa: ARG002
        """Stop it. May be called again: the first reason and the shortest grace count."""
        if self._reason is None:
            self._reason = reason
        was_suspended, self._is_suspended = self._is_suspended, False
        if grace <= 0:
            settle(self._grace_over)
        elif grace < self._grace:
            self._grace = grace
            self._context.deadlines.after(grace, partial(settle, self._grace_over))
        if not self._stop_asked.done():
            self._stop_asked.set_result(None)
            self._begin(self._bring_down(was_suspended=was_suspended))

    def signal(self, signum: int, *, whole_tree: bool) -> None:  # noqa: ARG002  Slurm signals whole steps
        """Signal its processes on the node, or as soon as they run."""
        if self._node is None:
            self._signals.append(signum)
        elif self._outcome is None:
            self._begin(self._send(signum))

    def suspend(self) -> None:
        """Stop its processes and its time limit, unless it is to end."""
        if self._reason is not None or self._outcome is not None:
            return
        self._is_suspended = True
        if self._limit is not None:
            self._limit.pause()
        self.signal(signal.SIGSTOP, whole_tree=True)
        self._note_suspension()

    def resume(self) -> None:
        """Undo `suspend`, and nothing else."""
        if not self._is_suspended:
            return
        self._is_suspended = False
        if self._limit is not None:
            self._limit.resume()
        self.signal(signal.SIGCONT, whole_tree=True)
        self._note_suspension()

    def _note_suspension(self) -> None:
        if self._record is not None:
            self._record = self._context.journal.note_suspension(self._record, suspended=self._is_suspended)
            self._context.sync_soon(self.launch.key)

    def _begin(self, action: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return self._context.begin(action, f"job {self.launch.key.job}")

    async def _send(self, signum: int) -> None:
        step = self._node.step if self._node else ""
        if self._settings.nodes is not None and signum in _NOT_PASSED_ON:
            step = ""  # all steps of its job, as srun inside cannot pass these on
        async with self._sending:  # in the order in which they were asked for
            await self._controller.signal(self._name, step, signum)

    async def _bring_down(self, *, was_suspended: bool) -> None:
        """Keep it from starting; if it runs, send its stop signal, and KILL when the grace is over."""
        if not self._is_submitted:
            return  # and it never will be
        if self._node is None and (await self._folder.look(self._submission)).is_ours:
            await self._cancel_until_over()
            return
        first = signal.Signals[f"SIG{self.launch.stop_signal or StopSignal.TERM}"]
        self._was_signalled = True
        if not self._grace_over.done():
            await self._send(first)
            if was_suspended:
                await self._send(signal.SIGCONT)
            await asyncio.wait({self._grace_over, self._over}, return_when=asyncio.FIRST_COMPLETED)
        if not self._over.done():
            await self._send(signal.SIGKILL)
            await self._wait(_KILL_PATIENCE, self._over)
        await self._cancel_until_over()

    async def _cancel_until_over(self) -> None:
        """Cancel its job in Slurm until that is gone."""
        pause = _FIRST_PAUSE
        while not self._over.done():
            await self._controller.cancel(self._name)
            await self._wait(pause, self._over)
            pause = min(pause * 2, _LONGEST_PAUSE)

    # --- its life

    async def live(self) -> AttemptEnded:
        """Run it; return how it ended when nothing of it is left in Slurm or on a node."""
        try:
            if self._adopted is None:
                await self._submit()
            else:
                await self._continue(self._adopted)
            if self.launch.result and self._outcome is not None:
                self._result = await self._folder.result()
            ended = self._ended(was_preempted=await self._was_preempted())
        except CannotStart as error:
            ended = self._never_ran(Outcome.NOT_STARTED, str(error))
        finally:
            if self._limit is not None:
                self._limit.pause()
            self._close_output()
            settle(self._over)
        if self._outcome is None:
            await self._folder.close()
        return ended

    def abandon(self, problem: str) -> AttemptEnded:
        """Return an end with outcome `unknown` after an error in the launcher."""
        return self._end(Outcome.UNKNOWN, problem=problem)

    async def clean_up(self) -> None:
        """Release what it may still hold in Slurm; call it once its end is on disk."""
        self._watch.note_end(self._name)
        if self._may_hold:
            await self._controller.release(self._name)

    async def _continue(self, began: Began) -> None:
        """Find out what became of a dead launcher's attempt; submit it again if it never started."""
        self._started_at = began.started_at
        self._log_bytes = bytes_logged(self._context.log_path(self.launch))
        if began.ran_since is not None:
            self._since = began.ran_since
        await self._settle(is_gone=True)
        # its srun may wait for a job that Slurm has forgotten, and would do so for ever
        await kill_tree(Tree(began.key, began.pipe, began.since, pid=None, tag=began.tag), self._context)
        if self._never_started and self._reason is None:
            self._submission += 1
            self._log_problem = None
            await self._submit()

    async def _submit(self) -> None:
        """Submit it until Slurm takes it; return when nothing of it is left there.

        Raises:
            CannotStart: Slurm refuses it.
        """
        pause, what = _FIRST_PAUSE, f"job {self.launch.key.job} cannot be submitted yet"
        waits = partial(self._wait_for, Cause.START)
        while (
            begun := await self._context.retry(what, self._begin_srun, self._stop_asked, waits)
        ) is not None:
            code = await self._run_srun(*begun)
            if self._outcome is not None:
                # else srun has released the allocation
                self._may_hold = code < 0 or elapsed() - self._outcome_at > _RELEASE_PATIENCE
                return
            await self._settle(is_gone=code < 0)
            if not self._never_started or self._reason is not None:
                return
            self._submission += 1
            words = self._said.decode(errors="replace")
            if code >= 0 and not self._is_slurms_fault(words):
                raise CannotStart(
                    one_line(NotStarted.OTHER, f"Slurm says: {last_line(words) or f'code {code}'}")
                )
            problem = "srun was killed" if code < 0 else f"Slurm is away ({last_line(words)})"
            if code >= 0:
                self._controller.is_silent()
                self._told(None)
            log.warning("job %d: %s; next try in %g s", self.launch.key.job, problem, pause)
            await self._wait(pause, self._stop_asked)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _begin_srun(self) -> tuple[Child, int] | None:
        """Start srun once the journal on the disk says so; return it, and where its stderr can be read.

        None: it is to end.

        Raises:
            CannotStart: that is not possible.
            OSError: the reason lies in the machine; nothing was started, so it may be tried again.
        """
        if self._reason is not None:
            return None
        await self._folder.prepare()
        controller, delayed = self._controller, partial(self._wait_for, Cause.REQUESTS)
        if not await controller.answering(self._stop_asked, partial(self._told, None)):
            return None
        if not await controller.admit(SRUN_COST, self._stop_asked, delayed):
            return None
        self._output, self._tag = self._context.new_output(self.launch), new_tag()
        self._submitted_at = elapsed()
        try:
            self._began()
            await self._context.journal.make_durable(self.launch.key)
            return None if self._reason is not None else self._start_srun(self._output)
        except BaseException:
            self._close_output()
            raise

    def _start_srun(self, output: AttemptOutput) -> tuple[Child, int]:
        launch, context = self.launch, self._context
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(reader, False)
            context.readers.add(reader, partial(self._read_messages, reader))
            with closing(StandardInput(replace(launch, stdin_path=None), context.state)) as given:
                standard_input = context.null if given.fd is None else given.fd
                set_tag(self._tag)
                standard = (standard_input, output.job_end, writer)
                srun = self._controller.start(self._argv(), self._environment(), standard)
        except BaseException:
            context.readers.remove(reader)
            os.close(reader)
            raise
        finally:
            set_tag(None)
            os.close(writer)
        self._is_submitted = True
        return srun, reader

    def _is_slurms_fault(self, words: str) -> bool:
        """Return whether to submit it again after these words of srun, which are not about the job."""
        if any(each in words for each in IS_AWAY):
            return True
        if not any(each in words for each in _LOST):
            return False
        self._times_lost += 1
        return self._times_lost < _MOST_LOST

    @property
    def _never_started(self) -> bool:
        return self._node is None and self._outcome is None and not self._is_lost

    async def _run_srun(self, srun: Child, reader: int) -> int:
        """Wait for srun's end; return its exit code, or the negated number of the signal that ended it."""
        context, output = self._context, self._output
        assert output is not None  # noqa: S101  `_begin_srun` has opened it
        self._said.clear()
        self._wait_for(Cause.NODE)
        self._controller.watch(self._name, self._told)
        try:
            code = await self._end_of(srun)
            context.children.take_usage(srun.pid)
            self._read_messages(reader)
        finally:
            self._controller.unwatch(self._name)
            context.readers.remove(reader)
            os.close(reader)
        if self._node is not None and not output.drain():
            await output.ended(context.deadlines.timer(_OUTPUT_PATIENCE))
        self._close_output()
        if code < 0 and self._node is not None:
            self._log_problem = self._log_problem or _CUT_OFF
        return code

    async def _end_of(self, srun: Child) -> int:
        """Return srun's exit code; -9 if it waited in vain."""
        self._srun, self._is_quiet, self._is_forgotten = srun, False, False
        checking = self._begin(self._check_that_slurm_has_it())
        code = await srun.wait()
        checking.cancel()
        self._srun = None
        return -signal.SIGKILL if self._is_forgotten else code

    async def _check_that_slurm_has_it(self) -> None:
        """Kill srun if Slurm does not have its job, which srun never notices.

        A controller that is killed forgets the jobs of its last seconds.
        """
        absent = 0
        while True:
            await self._context.deadlines.timer(max(self._controller.seldom, _SRUN_PATIENCE))
            jobs = await self._controller.recent_jobs()
            absent = absent + 1 if jobs is not None and self._name not in jobs else 0
            if absent > 1:
                self._is_forgotten = True  # now, as it may end by itself once it has no claim
                found = await self._folder.look(self._submission)
                self._is_forgotten = not found.is_locked and not found.problem
                if self._is_forgotten:
                    self._kill_srun("Slurm does not have its job")
                    return

    def seems_over(self) -> None:
        """Kill srun if this is said twice: nothing runs on the node any more, and srun waits for it."""
        if self._is_quiet:
            self._kill_srun("nothing of it runs on its node any more")
        self._is_quiet = True

    def _kill_srun(self, why: str) -> None:
        if self._srun is not None and self._srun.returncode is None:  # else its number may be another's
            log.warning("job %d: its srun waits in vain: %s", self.launch.key.job, why)
            os.killpg(self._srun.pid, signal.SIGKILL)

    def _argv(self) -> list[str]:
        launch = self.launch
        has_input = launch.stdin is not None
        stdin = launch.stdin_path or ("-" if has_input else os.devnull)
        nodes = self._settings.nodes
        # one task a node; its output as it comes; nothing of srun's own but errors
        return [
            "srun",
            *self._settings.options,
            *(f"--nodes={nodes or 1}", f"--ntasks={nodes or 1}", "--unbuffered", "--quiet", "--chdir=/"),
            # only the first task stays, and what it runs may run srun on all that the job has
            *([] if nodes is None else ["--wait=0", "--overlap"]),
            f"--job-name={self._name}",
            "--input=0" if has_input else "--input=none",
            *(self._settings.python, "-I", "-S", self._folder.program),
            *(self._folder.path, str(self._submission)),
            *(
                f"{launch.grace:g}",
                launch.cwd,
                f"{launch.umask:o}",
                stdin,
                "1" if launch.result else "0",
                *launch.argv,
            ),
        ]

    def _environment(self) -> dict[str, str]:
        """Return the job's environment without what would change the meaning of srun's arguments.

        It has no mark of the attempt: a node may be this machine, where the sweep ends marked processes.
        """
        return {"PYTHONUNBUFFERED": "1", **without_slurm(self.launch.env), **self._controller.environment}

    def _began(self) -> None:
        """Note in the journal that it is submitted, for a later launcher; synced, for one after a reset."""
        assert self._output is not None  # noqa: S101  srun writes to it
        ran_since = None if self._node is None else self._since
        self._record = Began(
            *(self.launch.key, self._output.inode, self._submitted_at, self._started_at, self._tag),
            launch=self.launch,
            submission=self._submission,
            ran_since=ran_since,
            suspended=self._is_suspended,
        )
        self._context.journal.add_step(self._record)

    # --- what it waits for

    def _wait_for(self, cause: Cause, code: str | None = None, at: float | None = None) -> None:
        """Report why it has no node yet, unless that was reported; `code`: Slurm's own word."""
        place = self.launch.place
        waits = Reason(cause=cause, subject=place.executor if place else "", problem=code, at=at)
        if waits != self._waits:
            self._waits = waits
            self._report_start(self.state)

    def _told(self, job: SlurmJob | None) -> None:
        """Take what the controller says of its job, None: it does not answer."""
        if job is None:
            self._wait_for(Cause.CONTROLLER, at=self._controller.silent_since)
        elif job.state == _PENDING:
            self._wait_for(Cause.NODE, None if job.reason == NO_REASON else one_line_of(job.reason))
        else:
            self._wait_for(Cause.NODE, one_line_of(job.state))

    # --- what srun and the node say

    def _read_messages(self, reader: int) -> None:
        """Take what is there now on srun's stderr: reports of the node, and words for people."""
        with suppress(BlockingIOError):
            while part := os.read(reader, _PART):
                *lines, rest = bytes(self._line + part).split(b"\n")
                self._line[:] = rest[-_PART:]
                for line in lines:
                    self._read_line(line)
            self._context.readers.remove(reader)  # at its end it would be readable for ever

    def _read_line(self, line: bytes) -> None:
        _, mark, text = line.partition(_MARK)
        if not mark:
            self._said += line + b"\n"
            del self._said[:-_PART]
            return
        try:
            report = _decode_report(text)
        except msgspec.MsgspecError:
            log.warning("job %d: its node reports what cannot be read", self.launch.key.job)
            return
        if report.started is not None:
            self._runs_on(report.started)
        if report.ended is not None:
            self._outcome, self._outcome_at = report.ended, elapsed()

    def _runs_on(self, node: Node) -> None:
        """Report that it runs, and do what was asked of it before."""
        launch = self.launch
        self._node, self._waits = node, None
        self._controller.unwatch(self._name)
        self._controller.answers()
        if self._adopted is None or self._adopted.ran_since is None:
            self._started_at, self._since = time.time(), elapsed()
        if self._output is not None:
            self._note_start()
            self._output.begin(partial(self._output_moved, self._output.log))
        time_out = partial(self.stop, Outcome.TIMEOUT, launch.grace, StopReason.TIMEOUT)
        seconds = None if not launch.timeout else max(self._since + launch.timeout - elapsed(), 0.0)
        self._limit = Countdown(self._context.deadlines, seconds, time_out)
        if self._is_suspended:
            self._limit.pause()
        self._report_start(self.state)
        for signum in self._signals:
            self._begin(self._send(signum))
        if node.node not in self._watch.nodes:
            self._begin(self._see_lock(node.node))

    def _note_start(self) -> None:
        try:
            self._began()
        except OSError as error:  # that it was submitted stands there, which the next launcher starts from
            log.warning(
                "cannot write to the journal that job %d has a node: %s", self.launch.key.job, error.strerror
            )
        self._context.sync_soon(self.launch.key)

    async def _see_lock(self, node: str) -> None:
        """Let it be noted that locks of this node are seen here, before anything on it may die."""
        if (await self._folder.look(self._submission)).is_locked:
            self._watch.nodes.add(node)

    def _output_moved(self, written: Log) -> None:
        if self.launch.log_kill and written.is_over_cap and self._reason is None:
            self.stop(Outcome.LOG_LIMIT, 0.0)
        self._grew()

    async def _settle(self, *, is_gone: bool) -> None:
        """Return once its node has told how it ended, or nothing of it can be left, or it never started.

        `is_gone`: srun may have died before the controller had heard all of it, so one answer is too little.
        """
        absent, pause, has_warned, found = 0, _FIRST_PAUSE, False, Found()
        while True:
            if not found.is_ours:  # else its program never runs, so nothing changes there any more
                found = await self._folder.look(self._submission)
            self._outcome = self._outcome or found.outcome
            self._is_lost = found.is_lost
            if found.node is not None and self._node is None:
                self._runs_on(found.node)
            if self._outcome is not None:
                self._may_hold = True
                return
            if found.is_locked and not found.problem:
                absent, pause = 0, min(pause, _LOCKED_PAUSE)  # it runs, so Slurm need not be asked
                await self._wait(pause)
                pause *= 2
                continue
            jobs = await self._controller.jobs()
            if jobs is None and self._node is None:
                self._told(None)
            is_listed = jobs is not None and self._name in jobs
            absent = absent + 1 if jobs is not None and not is_listed else 0
            if absent > (is_gone and not found.is_ours) and not found.problem:
                return
            if is_listed and (found.is_ours or found.sees_locks):
                await self._controller.cancel(self._name)
                pause = min(pause, _LOCKED_PAUSE)
            if not has_warned and pause > _LONG:
                has_warned = True
                log.warning(
                    "job %d: nobody knows yet how it ended: %s", self.launch.key.job, _why(jobs, found)
                )
            await self._wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _wait(self, seconds: float, *until: asyncio.Future[Any]) -> None:
        """Return after this many seconds, or once something is done."""
        await self._context.deadlines.wait(seconds, *until)

    # --- its output and its end

    def _close_output(self) -> None:
        if self._output is not None:
            self._log_bytes, self._log_problem = self._output.log.total, self._output.log.problem
            self._output.close()
            self._output = None

    def _never_ran(self, outcome: Outcome, problem: str | None) -> AttemptEnded:
        key = self.launch.key
        return AttemptEnded(key=key, outcome=outcome, finished_at=time.time(), problem=problem)

    async def _was_preempted(self) -> bool:
        """Return whether Slurm says that it ended it for another job; ask only if it may have."""
        seen, node = self._outcome, self._node
        if self._reason is not None or node is None or (seen is not None and 0 <= seen.code <= _SIGNALLED):
            return False
        number, _, _ = node.step.partition(".")
        return bool(number) and await self._controller.end_of(self._name, number) == "PREEMPTED"

    def _ended(self, *, was_preempted: bool) -> AttemptEnded:
        reason, seen = self._reason, self._outcome
        if seen is None and self._node is None and not self._is_lost:
            return self._never_ran(reason or Outcome.CANCELLED, None)
        if seen is None and reason is not None:
            return self._end(reason, signum=signal.SIGKILL)
        if seen is None and was_preempted:
            return self._end(Outcome.INTERRUPTED, problem=_PREEMPTED)
        if seen is None:
            return self._end(
                Outcome.UNKNOWN, problem=f"it is gone from {self._where}, and nobody saw how it ended"
            )
        if seen.problem:
            return self._never_ran(Outcome.NOT_STARTED, one_line_of(seen.problem))
        code = seen.code
        if reason is not None and self._was_signalled and not (reason is Outcome.INTERRUPTED and code == 0):
            outcome = reason
        elif was_preempted:
            outcome = Outcome.INTERRUPTED
        elif code < 0:
            outcome = Outcome.SIGNAL
        else:
            outcome = Outcome.EXIT if code else Outcome.SUCCEEDED
        code_or_none, signum = (code, None) if code >= 0 else (None, -code)
        return self._end(outcome, code_or_none, signum, _PREEMPTED if was_preempted else None)

    @property
    def _where(self) -> str:
        return f"node {self._node.node}" if self._node else "Slurm"

    def _end(
        self, outcome: Outcome, code: int | None = None, signum: int | None = None, problem: str | None = None
    ) -> AttemptEnded:
        seen, result = self._outcome, self._result
        return AttemptEnded(
            key=self.launch.key,
            outcome=outcome,
            exit_code=code,
            signal=signum,
            started_at=self._started_at,
            finished_at=time.time(),  # the node's clock may be another
            user_seconds=seen.user_seconds if seen else None,
            system_seconds=seen.system_seconds if seen else None,
            max_rss_bytes=seen.max_rss_bytes if seen else None,
            log_bytes=self.log_bytes,
            problem=problem or self.log_problem,
            result=None if result is None else result or self.launch.usual_result,
            log_problem=self.log_problem,
            run_seconds=elapsed() - self._since if self._node else None,
            leftovers=(seen.leftovers or None) if seen else None,
        )


def job_name(key: AttemptKey) -> str:
    """Return the name of an attempt's job in Slurm, which no other attempt ever has."""
    return f"bgd-{key.store}-{key.job}-{key.attempt}"


def without_slurm(env: dict[str, str]) -> dict[str, str]:
    """Return an environment without Slurm's variables, which are about the sender's own job."""
    return {name: value for name, value in env.items() if not name.startswith(("SLURM_", "SRUN_"))}


def one_line_of(text: str) -> str:
    """Return foreign text on one line."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _why(jobs: dict[str, SlurmJob] | None, found: Found) -> str:
    if found.problem:
        return found.problem
    return "Slurm's controller does not answer" if jobs is None else "Slurm still has its job"


def last_line(words: str) -> str:
    """Return the last of the lines that a program of Slurm has written, without its name."""
    lines = [
        line.removeprefix("srun: ").removeprefix("error: ") for line in words.splitlines() if line.strip()
    ]
    return lines[-1] if lines else ""


_MARK = b"bgd-node: "
_NOT_PASSED_ON = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT}
_PENDING, NO_REASON = "PENDING", "None"  # in squeue's words
_PART = 1 << 12  # bytes of srun's stderr that are kept
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds until Slurm is asked again, doubled each time
_RELEASE_PATIENCE = 2.0  # seconds; srun takes longer, and then gives up silently, if the controller is away
_SRUN_PATIENCE = 5.0  # seconds between two looks: an srun is killed if both times Slurm lacks its job
_LOCKED_PAUSE = 2.0  # seconds until the lock of a program without srun is looked at again
_LONG = 4.0  # seconds between two questions from which on a warning is logged
_KILL_PATIENCE = 5.0  # seconds for a killed step to be gone
_OUTPUT_PATIENCE = 5.0  # seconds for srun's second process to end after the first
_SIGNALLED = 128  # plus the number of a signal: a shell's code for a program that it ended
_PREEMPTED = "Slurm gave its node to another job (preemption)"
_CUT_OFF = "its srun was killed: what it wrote since then is missing"
_UNLOGGED = "its launcher died: what it wrote since then is missing"
# what Slurm's programs say if the controller cannot be reached (slurm_errno.c), or this machine has no room
# for a thread, which is not the job's fault
IS_AWAY = (
    *("nable to contact slurm controller", "Socket timed out", "Zero Bytes", "onnection", "ommunication"),
    *("Resource temporarily unavailable", "Cannot allocate memory"),
)

# what srun says if the allocation that it had got is gone, for example with a controller that was killed
_LOST = (
    *("nable to create step", "nable to confirm allocation", "has been revoked"),
    *(": Killed", ": Terminated"),  # preempted before the program of the node could begin
)
_MOST_LOST = 5  # times

_decode_report = msgspec.json.Decoder(_Report, strict=False).decode
