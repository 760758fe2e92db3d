"""Retention: finished jobs are kept as configured, and then deleted without holding anyone up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from functools import partial

from bgd import clock
from bgd.clock import now
from bgd.config import Config
from bgd.core.job import FINAL, State
from bgd.daemon.job_actions import JobActions
from bgd.daemon.storage.read import RetentionLimits
from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.errors import Refused
from bgd.units import format_size
from bgd.wire.steering import Prune

logger = logging.getLogger(__name__)

GATHERING = 10.0  # seconds between two passes: jobs that end one by one go together
FIRST_PORTION = 10  # jobs in the first transaction of a pass, and in any where the disk is short of room
MAX_PORTION = 200
AGE_SAVE_INTERVAL = 3600.0  # seconds between two passes at most: a power cut loses no more of the jobs' ages
LONG_TRANSACTION = (
    0.01  # seconds of a transaction, beyond which the next one is smaller: whoever submits waits for it
)


class Retention:
    """Deletes finished jobs in small transactions, with a pause after each that is as long as it took.

    There is a pass at the start, one when the next job has been kept long enough, and one soon after jobs
    have finished, as there may now be too many of them. Jobs age on the elapsed clock, and from one boot to
    the next as `adopt_boot` says: a wall clock that is wrong for a moment must not delete all history.
    """

    def __init__(self, supervisor: Supervisor, actions: JobActions, store: Store) -> None:
        self._supervisor = supervisor
        self._actions = actions
        self._store = store
        self._pruning = asyncio.Lock()
        self._due = asyncio.Event()
        self._due.set()
        self._alarm = clock.Alarm(asyncio.get_running_loop(), self._due.set)
        self._pass_at: float | None = None
        supervisor.when_finished(self._schedule_pass)
        supervisor.when_configured(self._schedule_pass)

    async def run(self) -> None:
        """Keep finished jobs as configured, for ever."""
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                self._pass_at = None
                async for _ in self.prune(configured_limits(self._supervisor.config)):
                    pass
                next_at = await self._store.next_prunable_at(configured_limits(self._supervisor.config))
                await self._supervisor.space.retry_while_full(partial(self._store.note_age, now()))
                self._arm(next_at)
        finally:
            self._alarm.close()

    async def prune(self, keep: RetentionLimits) -> AsyncGenerator[tuple[int, int], None]:
        """Delete what is not to be kept; yield how many jobs have gone so far, with bytes of their logs."""
        elapsed = now().elapsed
        jobs = log_bytes = 0
        portion = FIRST_PORTION
        async with self._pruning:
            try:
                while due := await self._store.prunable_jobs(keep, elapsed, portion):
                    began = time.monotonic()
                    gone = set(await self._actions.remove_due(due))
                    took = time.monotonic() - began
                    jobs += len(gone)
                    log_bytes += sum(each.logged for each in due if each.job in gone)
                    yield jobs, log_bytes
                    portion = (
                        max(portion // 2, 1) if took > LONG_TRANSACTION else min(2 * portion, MAX_PORTION)
                    )
                    if self._supervisor.space.is_short():
                        portion = min(portion, FIRST_PORTION)
                    await asyncio.sleep(took)
            finally:
                if jobs:
                    logger.info("removed %d finished jobs, with %s of logs", jobs, format_size(log_bytes))

    async def dry_run(self, keep: RetentionLimits) -> tuple[int, int]:
        """Return how many jobs `prune` would delete now, and the bytes of their logs."""
        await self._supervisor.saved()
        return await self._store.total_prunable(keep, now().elapsed)

    def _schedule_pass(self) -> None:
        """See to a pass: there may be too many finished jobs by now."""
        if self._pass_at is None:
            self._pass_at = now().elapsed + GATHERING
            self._alarm.set(self._pass_at)

    def _arm(self, next_at: float | None) -> None:
        elapsed = now().elapsed
        times = [
            elapsed + AGE_SAVE_INTERVAL,
            self._pass_at,
            None if next_at is None else max(next_at, elapsed + GATHERING),
        ]
        self._alarm.set(min(at for at in times if at is not None))


def configured_limits(config: Config) -> RetentionLimits:
    """Return what the configuration keeps."""
    said = config.retention
    return RetentionLimits(
        seconds={
            State.SUCCEEDED: said.succeeded_for,
            State.FAILED: said.failed_for,
            State.CANCELLED: said.failed_for,
        },
        most=said.max_finished,
        log_bytes=said.logs_total,
    )


def requested_limits(request: Prune, config: Config) -> RetentionLimits:
    """Return what a request leaves: what it says, or if it says nothing what is configured.

    Raises:
        Refused: it is about jobs that have not finished.
    """
    states = request.states or sorted(FINAL)
    unfinished = set(states) - FINAL
    if unfinished:
        raise Refused(f"only finished jobs can be pruned, none that is {min(unfinished)}: cancel it first")
    configured = configured_limits(config)
    if request.older_than is None and request.keep is None and request.logs_total is None:
        seconds = {state: configured.seconds[state] for state in states}
        return RetentionLimits(seconds=seconds, most=configured.most, log_bytes=configured.log_bytes)
    return RetentionLimits(
        seconds=dict.fromkeys(states, request.older_than), most=request.keep, log_bytes=request.logs_total
    )
