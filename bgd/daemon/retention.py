"""Retention: keeps finished jobs as configured, then deletes them without delaying requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from functools import partial

from msgspec.structs import replace

from bgd.core.job import FINAL, State
from bgd.daemon.job_actions import JobActions
from bgd.daemon.storage import inbox, pruning
from bgd.daemon.storage.pruning import RetentionLimits
from bgd.daemon.storage.schema import delete_old_copies
from bgd.daemon.storage.store import Store, save_retention_clock
from bgd.daemon.supervisor import Supervisor
from bgd.errors import Refused
from bgd.settings.config import Config
from bgd.system import clock
from bgd.system.clock import now
from bgd.text.units import format_size
from bgd.wire.requests import Prune

logger = logging.getLogger(__name__)

PASS_DELAY = 10.0  # seconds between two passes, so that jobs that end one by one are deleted together
FIRST_PORTION = 10  # jobs in the first transaction of a pass, and in each while disk space is short
MAX_PORTION = 200  # jobs in one transaction
MAX_PASS_INTERVAL = 3600.0  # seconds: each pass saves the clock of ages, and a power cut loses what follows
LONG_TRANSACTION = 0.01  # seconds; after a longer one the next is smaller, because submits wait for it


class Retention:
    """Deletes finished jobs in small transactions; after each it pauses for as long as that one took.

    A pass runs at the start, when the next job has been kept long enough, and soon after jobs have finished,
    because there may be too many now. Jobs age on the elapsed clock; `adopt_boot` carries their age from one
    boot to the next. A wall clock that is wrong for a moment must not delete all history.
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
        supervisor.on_finished.append(self._schedule_pass)
        supervisor.on_configured.append(self._schedule_pass)

    async def run(self) -> None:
        """Delete finished jobs as configured, forever."""
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                self._pass_at = None
                await self._delete_old_ends()
                async for _ in self.prune(configured_limits(self._supervisor.config)):
                    pass
                path = f"{self._supervisor.config.daemon.state_dir}/bgd.db"
                await asyncio.to_thread(delete_old_copies, path)
                next_at = await self._store.read(
                    pruning.next_prunable_at, configured_limits(self._supervisor.config)
                )
                await self._supervisor.space.retry_while_full(
                    partial(self._store.write, save_retention_clock, now().elapsed)
                )
                self._set_alarm(next_at)
        finally:
            self._alarm.close()

    async def prune(self, keep: RetentionLimits) -> AsyncGenerator[tuple[int, int], None]:
        """Delete jobs beyond these limits; yield the number of jobs and bytes of logs deleted so far."""
        elapsed = now().elapsed
        jobs = log_bytes = 0
        portion = FIRST_PORTION
        async with self._pruning:
            try:
                while due := await self._store.search(pruning.prunable_jobs, keep, elapsed, portion):
                    began = time.monotonic()
                    gone = set(await self._actions.remove_due(due))
                    took = time.monotonic() - began
                    jobs += len(gone)
                    log_bytes += sum(each.logged for each in due if each.job in gone)
                    yield jobs, log_bytes
                    is_long = took > LONG_TRANSACTION
                    portion = max(portion // 2, 1) if is_long else min(2 * portion, MAX_PORTION)
                    if self._supervisor.space.is_short():
                        portion = min(portion, FIRST_PORTION)
                    await asyncio.sleep(took)
            finally:
                if jobs:
                    logger.info("removed %d finished jobs, with %s of logs", jobs, format_size(log_bytes))

    async def dry_run(self, keep: RetentionLimits) -> tuple[int, int]:
        """Return the number of jobs that `prune` would delete now, and the bytes of their logs."""
        await self._supervisor.saved()
        return await self._store.read_apart(pruning.total_prunable, keep, now().elapsed)

    async def _delete_old_ends(self) -> None:
        """Delete ends that stayed unread for `keep_unread`, so that their jobs may be deleted, too."""
        keep, elapsed = self._supervisor.config.retention.keep_unread, now().elapsed
        await self._supervisor.space.retry_while_full(
            partial(self._store.write, inbox.delete_old, elapsed, keep)
        )

    def _schedule_pass(self) -> None:
        """Schedule a pass: there may be too many finished jobs now."""
        if self._pass_at is None:
            self._pass_at = now().elapsed + PASS_DELAY
            self._alarm.set(self._pass_at)

    def _set_alarm(self, next_at: float | None) -> None:
        """Start the next pass when the next job has been kept long enough, or earlier if one is scheduled."""
        elapsed = now().elapsed
        times = [
            elapsed + MAX_PASS_INTERVAL,
            self._pass_at,
            None if next_at is None else max(next_at, elapsed + PASS_DELAY),
        ]
        self._alarm.set(min(at for at in times if at is not None))


def configured_limits(config: Config) -> RetentionLimits:
    """Return the limits of the configuration."""
    retention = config.retention
    return RetentionLimits(
        max_age={
            State.SUCCEEDED: retention.succeeded_for,
            State.FAILED: retention.failed_for,
            State.CANCELLED: retention.failed_for,
        },
        max_jobs=retention.max_finished,
        max_log_bytes=retention.logs_total,
        keeps_unread=True,
    )


def requested_limits(request: Prune, config: Config) -> RetentionLimits:
    """Return the limits that a request names, or if it names none the configured ones; for unread jobs, too.

    Raises:
        Refused: it names a state of unfinished jobs.
    """
    states = request.states or sorted(FINAL)
    unfinished = set(states) - FINAL
    if unfinished:
        raise Refused(f"only finished jobs can be pruned, not {min(unfinished)} ones: cancel them first")
    if request.older_than is None and request.keep is None and request.logs_total is None:
        configured = configured_limits(config)
        max_age = {state: configured.max_age[state] for state in states}
        return replace(configured, max_age=max_age, keeps_unread=False)
    return RetentionLimits(
        max_age=dict.fromkeys(states, request.older_than),
        max_jobs=request.keep,
        max_log_bytes=request.logs_total,
    )
