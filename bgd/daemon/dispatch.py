"""Dispatch: what the launcher is sent, once it has been saved and as far as it is still wanted."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bgd.config import Config
from bgd.core.job import ACTIVE, Job, JobId, Outcome, State
from bgd.core.scheduler import Continue, Stop, Suspend
from bgd.core.spec import JobSpec
from bgd.core.target import RunnerTarget, parse_target
from bgd.daemon.access import check_may_run
from bgd.daemon.attempts import NEVER_STARTED, Attempts
from bgd.daemon.feeds import Feeds
from bgd.daemon.instants import now
from bgd.daemon.launches import end_for_now, end_without_report, launch_of, limits_of, what_is_gone
from bgd.daemon.launching import LauncherLink
from bgd.daemon.storage.records import AttemptEnd, StoredSpec
from bgd.errors import Refused
from bgd.wire import launching
from bgd.wire.launching import Key, Started, ToLauncher, Watch
from bgd.wire.limits import NO_LIMITS, problem_with

OLD_LAUNCHER = (
    "its launcher is of an older bgd, and makes way for a new one when bgd starts while nothing runs"
)

logger = logging.getLogger(__name__)


class Dispatch:
    """The way to the launcher.

    Args:
        link: the connection to it.
        attempts: which launcher was given what.
        feeds: who follows which log.
        store_id: of the database, in whose name it is asked.
        job_of: returns the unfinished job of an id, None for any other.
    """

    def __init__(
        self,
        link: LauncherLink,
        attempts: Attempts,
        feeds: Feeds,
        store_id: str,
        job_of: Callable[[JobId], Job | None],
    ) -> None:
        self._link = link
        self._attempts = attempts
        self._feeds = feeds
        self._store_id = store_id
        self._job_of = job_of
        self._gone: str | None = None  # as it was last said

    def launch(
        self, job: Job, specs: dict[JobId, StoredSpec], config: Config, position: int
    ) -> AttemptEnd | None:
        """Send what has been saved as started, unless its launcher has gone since then.

        `position`: the id of the newest event on disk. Returns its end, if it need not or may not be started
        any more.
        """
        current = self.active(self.key(job))
        if current is None or not self._attempts.may_send(job, self._link.instance):
            return None  # over; or the next snapshot finds it absent and unsent, and hands it on
        if current.state is State.STOPPING:  # asked while the start was being saved
            return end_without_report(job, Outcome.CANCELLED, now().wall, NEVER_STARTED)
        stored = specs[job.id]
        try:
            check_may_run(stored.spec, config)
        except Refused as refusal:
            return end_without_report(job, Outcome.REFUSED, now().wall, str(refusal))
        if stored.spec.target is not None and not isinstance(parse_target(stored.spec.target), RunnerTarget):
            gone = what_is_gone(config.python)
            self._complain(gone)
            if gone is not None:
                return end_for_now(job, now().wall, gone)
        slot = self._attempts.slot_of(job.id)
        launch = launch_of(self.key(job), job, stored.spec, slot, config, position)
        if not self._link.can(launch):
            return end_without_report(job, Outcome.REFUSED, now().wall, OLD_LAUNCHER)
        if self._link.send(launch):
            self._attempts.sent(job.id)
            self.watch_log(job.id)
            if current.suspended:
                self.give(Suspend(current), config.daemon.grace)
        return None

    def give(self, order: Stop | Suspend | Continue, grace: float) -> None:
        """Send an order for an attempt, which may have been over before the order was saved."""
        key = self.key(order.job)
        if self.active(key) is None:
            return
        match order:
            case Stop():
                self._link.send(launching.Stop(key, grace))
            case Suspend():
                self._send_if_known(launching.Suspend(key))
            case Continue():
                self._send_if_known(launching.Continue(key))

    def repeat_orders(self, job: Job, started: Started, grace: float) -> None:
        """Say again of an adopted attempt what may have been saved and not sent before."""
        if job.state is State.STOPPING:
            self.give(Stop(job), grace)
        elif job.suspended is not started.suspended:
            self.give(Suspend(job) if job.suspended else Continue(job), grace)

    def check_limits(self, spec: JobSpec) -> None:
        """See whether jobs can be held to such limits, as far as that is known.

        Raises:
            Refused: they cannot, and why.
        """
        limits, abilities = limits_of(spec), self._link.abilities
        if limits == NO_LIMITS or abilities is None:
            return
        problem = problem_with(limits, abilities)
        if problem is not None:
            raise Refused(problem)

    def stop_stray(self, key: Key, grace: float) -> None:
        """Stop what runs and should not: an attempt that this database does not have as running."""
        if self.active(key) is None:
            logger.warning(
                "stopping attempt %d of job %d: the database has no such run", key.attempt, key.job
            )
            self._link.send(launching.Stop(key, grace))

    def watch_log(self, job_id: JobId, *, on: bool = True) -> None:
        """Ask the launcher to tell when an active attempt writes, if somebody follows; or no longer to."""
        job = self._job_of(job_id)
        if job is not None and job.state in ACTIVE and self._feeds.has_log_followers(job_id) == on:
            self._link.send(Watch(self.key(job), on))

    def tell(self, job: Job, message_of: Callable[[Key], ToLauncher]) -> None:
        """Send a message about an active job's attempt.

        Raises:
            Refused: there is no launcher just now, or it is too old to know what is meant.
        """
        message = message_of(self.key(job))
        self.check_known(job, message_of)
        if not self._link.send(message):
            raise Refused(f"job {job.id} cannot be told anything just now: no launcher is connected")

    def check_known(self, job: Job, message_of: Callable[[Key], ToLauncher]) -> None:
        """See whether the launcher knows such a message.

        Raises:
            Refused: it is too old.
        """
        if not self._link.can(message_of(self.key(job))):
            raise Refused(f"this cannot be done to job {job.id}: {OLD_LAUNCHER}")

    def active(self, key: Key) -> Job | None:
        """Return the job whose active attempt this is, None if there is none."""
        job = self._job_of(JobId(key.job))
        return job if job is not None and job.state in ACTIVE and key == self.key(job) else None

    def key(self, job: Job) -> Key:
        """Return the name of the job's latest attempt."""
        return Key(self._store_id, job.id, job.attempt)

    def _complain(self, gone: str | None) -> None:
        """Say once that class jobs cannot start, and once that they can again."""
        if gone == self._gone:
            return
        self._gone = gone
        if gone is None:
            logger.info("class jobs start again")
        else:
            logger.error("class jobs cannot start and are tried again every minute: %s", gone)

    def _send_if_known(self, message: ToLauncher) -> None:
        if self._link.can(message):  # one that does not know it was never asked for it, either
            self._link.send(message)
