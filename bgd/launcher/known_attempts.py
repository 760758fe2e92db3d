"""Every attempt that this launcher knows: starting, running, or ended and not yet acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.launcher.attempt import Attempt, Executor
from bgd.launcher.cluster.controller import Controller
from bgd.launcher.cluster.pilots import PilotPool
from bgd.launcher.context import Context
from bgd.launcher.journal import Began, or_without
from bgd.launcher.local import LocalExecutor
from bgd.launcher.tree import StopReason
from bgd.launcher.usage import UsageReader
from bgd.launcher.warm.worker import WorkerPool
from bgd.wire import launching
from bgd.wire.launching import AttemptEnded, AttemptKey, AttemptStarted, Launch, SlurmStart

if TYPE_CHECKING:
    from bgd.launcher.supervisors import SupervisorChannel

log = logging.getLogger(__name__)


class KnownAttempts:
    """Do what the supervisor asks of attempts, and report to it.

    Attributes:
        unended: attempts that have not ended.
        idle: called when no attempt runs any more.
    """

    def __init__(self, context: Context, channel: SupervisorChannel) -> None:
        self._context = context
        self.workers = WorkerPool(context)
        self._channel = channel
        self.unended: dict[AttemptKey, Attempt] = {}
        self._ends: dict[AttemptKey, AttemptEnded] = {}  # not acknowledged
        self._local = LocalExecutor(context, self.workers).execute
        self._controllers: dict[str, Controller] = {}  # of each Slurm, by its configuration
        self._pools: dict[str, PilotPool] = {}  # by their executors
        self.idle: Callable[[], None] = lambda: None
        self._is_closing = False
        self._deferred: set[AttemptKey] = set()  # launched while closing, and not begun
        self._watched: set[AttemptKey] = set()
        self._grown: set[AttemptKey] = set()
        self._usage = UsageReader(context, self.unended)
        self._is_measuring = False

    @property
    def is_running(self) -> bool:
        """Whether an attempt has begun and not ended."""
        return len(self.unended) > len(self._deferred)

    def remember(self, ends: Iterable[AttemptEnded]) -> None:
        """Adopt unacknowledged ends of a predecessor."""
        self._ends.update((ended.key, ended) for ended in ends)

    def adopt(self, records: Iterable[Began]) -> None:
        """Adopt attempts that outlived a predecessor."""
        for began in records:
            if began.launch is not None:
                self._begin(self._add(began.launch, began))

    def snapshot(self) -> Iterator[AttemptStarted | AttemptEnded]:
        """Yield the state or the end of every known attempt."""
        yield from (attempt.state for attempt in self.unended.values())
        yield from self._ends.values()

    def launch(self, launch: Launch) -> None:
        """Start an attempt once: if its key is known, report its state again (R2)."""
        key = launch.key
        if key in self.unended or key in self._ends:
            self._channel.send(self.unended[key].state if key in self.unended else self._ends[key])
            return
        attempt = self._add(launch)
        if self._is_closing:
            # the journal has nothing of it, so it counts as never started and the next launcher gets it;
            # interrupting it would fail all queued jobs, one after the other
            self._deferred.add(key)
        else:
            self._begin(attempt)

    def stop(self, key: AttemptKey, grace: float, *, is_cancel: bool) -> None:
        """Stop an attempt that has not ended; `is_cancel`: let a class job know that it is cancelled."""
        if attempt := self.unended.get(key):
            told = StopReason.CANCELLED if is_cancel else StopReason.OTHER
            attempt.stop(Outcome.CANCELLED, grace, told)
            if key in self._deferred:
                self._deferred.remove(key)
                self._begin(attempt)  # it ends at once

    def interrupt(self) -> None:
        """Stop all attempts, and start no more."""
        self._is_closing = True
        for attempt in self.unended.values():
            attempt.stop(Outcome.INTERRUPTED, attempt.launch.grace)

    def acknowledge(self, key: AttemptKey) -> None:
        """Forget an attempt that has ended (R4)."""
        if self._ends.pop(key, None) is None:
            return
        self._watched.discard(key)
        if self._context.outbox is not None:
            self._context.outbox.forget(key)
        with or_without(f"the acknowledgement of job {key.job}"):  # then a next launcher reports it again
            self._context.journal.forget(key)

    def watch(self, key: AttemptKey, *, on: bool) -> None:
        """Start or stop reporting the growth of an attempt's log."""
        if not on:
            self._watched.discard(key)
            self._grown.discard(key)
        elif self._known(key) is not None:
            self._watched.add(key)
            self._note_growth(key)

    def is_alive(self, key: AttemptKey) -> bool:
        """Return whether an attempt has not ended, even if this launcher has yet to learn that."""
        attempt = self.unended.get(key)
        return attempt is not None and not attempt.has_exited

    async def check(self, question: launching.CheckAttempt) -> None:
        """Answer once an attempt is stopped or continued, as was last asked, or its end is reported."""
        attempt, asker = self.unended.get(question.key), self._channel.frames.transport
        is_alive = attempt is not None and await attempt.settled()
        if self._channel.frames.transport is asker:
            self._channel.send(launching.Checked(question.number, is_alive))

    def measure(self) -> None:
        """Report what the attempts use; requests that come meanwhile get the same report."""
        if not self._is_measuring:
            self._is_measuring = True
            self._context.begin(self._measure(), "usage of jobs")

    async def _measure(self) -> None:
        try:
            answers = [answer for pool in self._pools.values() for answer in pool.ask_usage()]
            usages = list(await self._usage.read())
            if answers:
                await asyncio.wait(answers, timeout=_PILOT_PATIENCE)
            usages += [usage for answer in answers if answer.done() for usage in answer.result()]
            self._channel.send(launching.Measured(usages))
        finally:
            self._is_measuring = False

    async def end(self) -> None:
        """End warm workers, and release allocations in Slurm if that is quick."""
        self.workers.end()
        for pool in self._pools.values():
            await pool.end()

    def unwatch_all(self) -> None:
        """Stop reporting the growth of all logs."""
        self._watched.clear()
        self._grown.clear()

    def send_growth(self) -> None:
        """Send Grew for each log in `_grown`; a slow supervisor gets it later, once."""
        if self._channel.is_slow:
            return
        for key in self._grown:
            if known := self._known(key):
                self._channel.send(launching.LogGrew(key, known.log_bytes, known.log_problem))
        self._grown.clear()

    def _add(self, launch: Launch, adopted: Began | None = None) -> Attempt:
        grew, executor = partial(self._note_growth, launch.key), self._executor_of(launch)
        attempt = Attempt(launch, self._context, executor, self._channel.send_soon, grew, adopted)
        self.unended[launch.key] = attempt
        return attempt

    def _executor_of(self, launch: Launch) -> Executor:
        if launch.slurm is None:
            return self._local
        # as configured last
        self._controller_of(launch.slurm).settings = launch.slurm
        executor = launch.slurm.pilot.executor
        if executor not in self._pools:
            self._pools[executor] = PilotPool(self._context, self._controller_of, launch)
        return self._pools[executor].execute

    def _controller_of(self, slurm: SlurmStart) -> Controller:
        if slurm.conf not in self._controllers:
            self._controllers[slurm.conf] = Controller(self._context, slurm)
        return self._controllers[slurm.conf]

    def _begin(self, attempt: Attempt) -> None:
        attempt.life = self._context.group.create_task(self._see_to_its_end(attempt))

    async def _see_to_its_end(self, attempt: Attempt) -> None:
        try:
            ended = await attempt.live()
        except Exception as error:  # an error of one job must not end the launcher and all others
            log.exception("job %d: an error in the launcher", attempt.launch.key.job)
            ended = attempt.abandon(f"an error in the launcher: {type(error).__name__}: {error}")
        ended = replace(ended, slot=attempt.launch.slot)
        is_unheard = self._is_closing or not self._channel.is_connected
        with or_without(f"the end of job {ended.key.job}"):  # report it rather than wait for space
            self._context.journal.add_end(ended, durable=is_unheard)
            attempt.acknowledge()
        del self.unended[ended.key]
        self._ends[ended.key] = ended
        self._channel.send(ended)
        if not self.is_running:
            self.idle()

    def _known(self, key: AttemptKey) -> Attempt | AttemptEnded | None:
        return self.unended.get(key) or self._ends.get(key)

    def _note_growth(self, key: AttemptKey) -> None:
        known = self._known(key)
        if key in self._watched or (known is not None and known.log_problem is not None):
            if not self._grown:
                asyncio.get_running_loop().call_soon(self.send_growth)
            self._grown.add(key)


_PILOT_PATIENCE = 2.0  # seconds for pilots to say what their attempts use
