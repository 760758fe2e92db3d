"""Dispatch: sends saved starts and commands to the launcher, and converts the ends that it reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.explain import Cause, Reason
from bgd.core.job import ACTIVE, Decision, Job, JobId, NextStep, Outcome, RetryPolicy, State
from bgd.core.limits import NO_TOKENS, Tokens
from bgd.core.retry import decision_for
from bgd.core.scheduler import StartAttempt
from bgd.core.spec import JobSpec
from bgd.core.target import RunnerTarget, parse_target
from bgd.daemon.access import check_may_run
from bgd.daemon.launches import build_launch, check_executor, limits_of, missing_installation, place_of
from bgd.daemon.launching import LauncherLink, LauncherSnapshot
from bgd.daemon.storage.records import AttemptEnd, NewAttempt, StoredSpec
from bgd.daemon.streams import Subscriptions
from bgd.errors import Refused
from bgd.settings.config import Config
from bgd.system.clock import now
from bgd.wire import class_jobs, launching
from bgd.wire.launching import AttemptEnded, AttemptKey, AttemptStarted, NotStarted, ToLauncher, WatchLog
from bgd.wire.limits import NO_LIMITS, problem_with_limits
from bgd.wire.views import JobError, JobUsage

logger = logging.getLogger(__name__)

START_PATIENCE = 2.0  # seconds without a report until an attempt counts as waiting for its launcher
ANSWER_PATIENCE = 5.0  # seconds for the launcher to answer a question


class Dispatcher:
    """Sends launches and commands to the launcher.

    Args:
        link: the connection to the launcher.
        attempts: the active attempts.
        subscriptions: knows the followers of each log.
        store_id: the database's id, a part of each attempt's key.
        job_of: returns the unfinished job with an id, or None.
    """

    def __init__(
        self,
        link: LauncherLink,
        attempts: AttemptTable,
        subscriptions: Subscriptions,
        store_id: str,
        job_of: Callable[[JobId], Job | None],
    ) -> None:
        self._link = link
        self._attempts = attempts
        self._subscriptions = subscriptions
        self._store_id = store_id
        self._job_of = job_of
        self._missing: str | None = None  # what is missing for class jobs, as last logged

    def launch(
        self, job: Job, stored: StoredSpec, results: Mapping[int, str], config: Config, position: int
    ) -> AttemptEnd | None:
        """Launch an attempt whose start or permit is saved, unless its launcher has gone since then.

        `stored`: its spec. `results`: those that its arguments refer to. `position`: the id of the newest
        event on disk. Returns the end of the attempt if it must not start.
        """
        key = self.key_of(job)
        current = self.active_job(key)
        if current is None or not self._attempts.may_send(job, self._link.instance):
            return None  # it has ended, or the next snapshot finds it unsent and reassigns it
        if current.state is State.STOPPING:  # asked for while the start was being saved
            return stopped_end(job, now().wall)
        spec = stored.whole()
        try:
            if spec.references:
                spec = _with_results(spec, results)
            check_may_run(spec, config)
            place = None
            if config.executors or spec.executor:
                check_executor(spec, job.queue, config)
                place = place_of(spec, job.queue, config)
        except Refused as refusal:
            return unreported_end(job, Outcome.REFUSED, now().wall, str(refusal))
        if spec.target is not None and (missing := self._missing_for(spec.target, config)) is not None:
            return postponed_end(job, now().wall, missing)
        attempt = self._attempts.active[job.id]
        slot, tokens = attempt.slot, attempt.tokens
        launch = build_launch(
            key, job, spec, slot, config, position, place=place, tokens=tokens, start_by=attempt.expires
        )
        if self._link.send(launch):
            attempt.is_unsent = False
            self.watch_log(job.id)
            if current.suspended:
                self.send_command(current, config.daemon.grace)
        return None

    def send_command(self, job: Job, grace: float) -> None:
        """Stop, suspend or continue an attempt, as its job says, unless it ended before that was saved."""
        key = self.key_of(job)
        if self.active_job(key) is None:
            return
        if job.state is State.STOPPING:
            self._link.send(launching.StopProcesses(key, grace, is_cancel=not job.making_way))
        else:
            self._link.send(
                (launching.SuspendProcesses if job.suspended else launching.ContinueProcesses)(key)
            )

    def resend_commands(self, job: Job, started: AttemptStarted, grace: float) -> None:
        """Send an adopted attempt the commands that may have been saved but not sent."""
        if job.state is State.STOPPING or job.suspended is not started.suspended:
            self.send_command(job, grace)

    def check_limits(self, spec: JobSpec) -> None:
        """Check that the launcher can enforce the limits of a spec, as far as its abilities are known.

        Raises:
            Refused: it cannot; the message says why.
        """
        limits, abilities = limits_of(spec), self._link.abilities
        if limits is NO_LIMITS or abilities is None:
            return
        problem = problem_with_limits(limits, abilities)
        if problem is not None:
            raise Refused(problem)

    def stop_stray(self, key: AttemptKey, grace: float) -> None:
        """Stop an attempt that is not running according to this database."""
        if self.active_job(key) is None:
            logger.warning(
                "stopping attempt %d of job %d: the database does not have it as running",
                key.attempt,
                key.job,
            )
            self._link.send(launching.StopProcesses(key, grace))

    def watch_log(self, job_id: JobId, *, on: bool = True) -> None:
        """Have the launcher report the growth of a followed log; with `on` False, no longer."""
        if self._subscriptions.has_log_subscribers(job_id) != on:
            return
        job = self._job_of(job_id)
        if job is not None and job.state in ACTIVE:
            self._link.send(WatchLog(self.key_of(job), on))

    def tell(self, job: Job, message_of: Callable[[AttemptKey], ToLauncher]) -> None:
        """Send a message about an active job's attempt.

        Raises:
            Refused: no launcher is connected.
        """
        if not self._link.send(message_of(self.key_of(job))):
            raise Refused(f"job {job.id} cannot be reached just now: no launcher is connected")

    def wait_of(self, job: Job) -> Reason | None:
        """Return why the attempt of a running job has not begun; None: it has, or the reason is unknown."""
        attempt = self._attempts.active.get(job.id)
        if attempt is None or attempt.unreported_since is None:
            return attempt.waits if attempt is not None else None
        if self._link.obstacle is not None:
            return Reason(cause=Cause.LAUNCHER, problem=self._link.obstacle)
        is_long = now().wall - attempt.unreported_since > START_PATIENCE and not job.suspended
        return Reason(cause=Cause.START) if is_long else None

    def has_begun(self, job_id: JobId) -> bool:
        """Return whether the launcher has said that the attempt of an active job runs."""
        attempt = self._attempts.active.get(job_id)
        return attempt is not None and attempt.unreported_since is None and attempt.waits is None

    def ask(self, job: Job, *, settled: bool = False) -> asyncio.Future[bool | None]:
        """Ask the launcher whether an active job's attempt has not ended; pass the answer to `refusals`.

        `settled`: as in CheckAttempt.
        """
        return self._link.ask(self.key_of(job), settled=settled)

    async def refusals(
        self, answers: Mapping[JobId, asyncio.Future[bool | None]], *, may_end: bool = False
    ) -> dict[JobId, Refused]:
        """Wait for answers; return why nothing was done to those jobs that the launcher has not reached.

        `may_end`: an attempt that has ended was reached before.
        """
        await asyncio.wait(answers.values(), timeout=0.0 if self._link.obstacle else ANSWER_PATIENCE)
        found = {}
        for job_id, answer in answers.items():
            if not answer.done() or answer.result() is None:
                why = self._link.obstacle or "the launcher does not answer"
                found[job_id] = Refused(f"job {job_id} is not reached yet: {why}")
            elif not answer.result() and not may_end:
                found[job_id] = Refused(f"job {job_id} has ended")
        return found

    async def wait_until_begun(self) -> None:
        """Wait until the launcher has begun all attempts that it was sent, unless it does not answer."""
        answer = self._link.ask(AttemptKey(self._store_id, 0, 0))  # it reads in order
        await asyncio.wait({answer}, timeout=0.0 if self._link.obstacle else ANSWER_PATIENCE)

    async def usage(self) -> tuple[dict[int, JobUsage], str | None]:
        """Ask the launcher what running jobs use now; also return why nothing is known of any."""
        if not self._attempts.active:
            return {}, None
        link, answer = self._link, self._link.ask_usage()
        await asyncio.wait({answer}, timeout=0.0 if link.obstacle else ANSWER_PATIENCE)
        if not answer.done() or (usages := answer.result()) is None:
            return {}, link.obstacle or "the launcher does not answer"
        return {
            job.id: JobUsage(
                cpu_percent=each.cpu_percent, memory_bytes=each.memory_bytes, processes=each.processes
            )
            for each in usages
            if (job := self.active_job(each.key)) is not None
        }, None

    def active_job(self, key: AttemptKey) -> Job | None:
        """Return the job whose active attempt has this key, or None."""
        job = self._job_of(JobId(key.job))
        if job is None or job.attempt != key.attempt or job.state not in ACTIVE:
            return None
        return job if key.store == self._store_id else None

    def key_of(self, job: Job) -> AttemptKey:
        """Return the key of the job's latest attempt."""
        return AttemptKey(self._store_id, job.id, job.attempt)

    def _missing_for(self, target: str, config: Config) -> str | None:
        """Return what is missing of bgd's installation for a class job; log it once, and when it is back."""
        if isinstance(parse_target(target), RunnerTarget):
            return None
        missing = missing_installation(config.python)
        if missing == self._missing:
            return missing
        self._missing = missing
        if missing is None:
            logger.info("class jobs start again")
        else:
            logger.error("class jobs cannot start and are tried again every minute: %s", missing)
        return missing


def _with_results(spec: JobSpec, results: Mapping[int, str]) -> JobSpec:
    """Return a spec whose arguments hold the results of other jobs; raise Refused if they cannot."""
    try:
        arguments = class_jobs.with_results(spec.arguments, spec.references, results)
    except ValueError as error:
        raise Refused(str(error)) from error
    return replace(spec, arguments=arguments, references=())


# --- Active attempts: the launcher that each was saved for, and whether it was sent.


class ActiveAttempt(Struct):
    """An active attempt, from START to its end.

    `launcher`: the instance it was saved for. `unreported_since`: when its start was decided, epoch time;
    None: a launcher has reported it. `waits`: why it has not begun, as its launcher says. `expires`: as in
    StartAttempt.
    """

    slot: int
    launcher: str
    tokens: Tokens = NO_TOKENS
    is_unsent: bool = False
    unreported_since: float | None = None
    waits: Reason | None = None
    expires: float | None = None


class AttemptTable:
    """The active attempts by job.

    An attempt's Launch is sent only to the launcher that the attempt was *saved* for (R3). So the database
    always shows whether an attempt may have started.

    Attributes:
        active: from START to the end.
        to_reassign: jobs whose attempt the next transaction saves for the launcher of that time.
    """

    def __init__(self) -> None:
        self.active: dict[JobId, ActiveAttempt] = {}
        self.to_reassign: set[JobId] = set()

    def restore(self, job_id: JobId, slot: int, launcher: str, tokens: Tokens = NO_TOKENS) -> None:
        """Add an attempt as the database has it."""
        self.active[job_id] = ActiveAttempt(slot, launcher, tokens)

    def start(self, effect: StartAttempt, launcher: str, at: float) -> NewAttempt:
        """Add a new attempt; return the row for the next transaction."""
        job, slot, tokens = effect.job, effect.slot, effect.tokens
        self.active[job.id] = ActiveAttempt(
            slot, launcher, tokens, is_unsent=True, unreported_since=at, expires=effect.expires
        )
        return NewAttempt(job.id, job.attempt, slot, launcher, at, tokens)

    def reassign(
        self, job_of: Callable[[JobId], Job | None], launcher: str, at: float
    ) -> list[tuple[Job, NewAttempt]]:
        """Move attempts to this launcher; return their jobs with the rows for the next transaction."""
        waiting, self.to_reassign = self.to_reassign, set()
        found = []
        for job_id, attempt in self.active.items():  # in the order of their starts
            if job_id in waiting and (job := job_of(job_id)) is not None:
                attempt.launcher = launcher
                row = NewAttempt(job_id, job.attempt, attempt.slot, launcher, at, attempt.tokens)
                found.append((job, row))
        return found

    def may_send(self, job: Job, launcher: str) -> bool:
        """Return whether the attempt was saved for this launcher and not sent yet."""
        attempt = self.active.get(job.id)
        return attempt is not None and attempt.is_unsent and attempt.launcher == launcher

    def end(self, job_id: JobId) -> int:
        """Forget an attempt that is over; return its slot."""
        attempt = self.active.pop(job_id, None)
        self.to_reassign.discard(job_id)
        return 0 if attempt is None else attempt.slot

    def note_report(self, job_id: JobId, reason: Reason | None) -> bool:
        """Record why the attempt has not begun, None: it has; return whether that is new."""
        attempt = self.active.get(job_id)
        if attempt is None:
            return False
        before, attempt.waits, attempt.unreported_since = attempt.waits, reason, None
        return before != reason

    def forget_waits(self) -> None:
        """Forget why attempts have not begun: only a connected launcher can say."""
        for attempt in self.active.values():
            attempt.waits = None

    def reconcile(
        self, jobs: Iterable[Job], snapshot: LauncherSnapshot, store_id: str, boot_id: str, at: float
    ) -> tuple[list[Job], list[AttemptEnd]]:
        """Compare every active attempt with what a launcher knows of it (R3).

        Return the jobs whose attempts run there, and the ends of those that are over, at the epoch time `at`.
        The next transaction saves the others for another launcher.

        Ends in the snapshot are left out: they are handled like any other end. Attempts that were decided
        while a transaction was being written are left out too: the next transaction saves them for the
        launcher of that time.
        """
        ended = {end.key for end in snapshot.ended}
        adopted: list[Job] = []
        over: list[AttemptEnd] = []
        for job in jobs:
            key = AttemptKey(store_id, job.id, job.attempt)
            if key in ended or job.id not in self.active:
                continue
            if key in snapshot.started:
                attempt = self.active[job.id]
                attempt.launcher, attempt.is_unsent = snapshot.instance, False
                adopted.append(job)
            elif (end := self._reconcile_absent(job, snapshot, boot_id, at)) is not None:
                over.append(end)
        return adopted, over

    def _reconcile_absent(
        self, job: Job, snapshot: LauncherSnapshot, boot_id: str, at: float
    ) -> AttemptEnd | None:
        attempt = self.active[job.id]
        launcher = attempt.launcher
        was_never_started = attempt.is_unsent or snapshot.knows(launcher)
        if was_never_started and job.state is State.STOPPING:
            return stopped_end(job, at)
        if was_never_started:
            attempt.is_unsent = True
            self.to_reassign.add(job.id)
            return None
        return lost_end(job, launcher, boot_id, at)


# --- Ends of attempts: from the launcher's report, or from what is known without one.


def reported_end(ended: AttemptEnded) -> AttemptEnd:
    """Return the end that the launcher reports; a class job's result file refines the outcome."""
    report = class_jobs.AttemptReport(ended.outcome)
    if ended.result is not None:  # only class jobs have a result file
        report = class_jobs.read_result(ended.result, ended.outcome)
    error, decision = report.error, report.decision
    if ended.problem is not None:
        error = error or JobError(type=report.outcome.value, message=ended.problem)
        if ended.problem.startswith(NotStarted.NO_PRELOAD):
            decision = Decision(NextStep.FAIL)
    return AttemptEnd(
        job=JobId(ended.key.job),
        attempt=ended.key.attempt,
        outcome=report.outcome,
        log_kept=ended.log_bytes,
        error=error,
        result=report.value,
        decision=decision,
        lineage=report.lineage,
        **dict(zip(_AS_REPORTED, _as_reported(ended), strict=True)),
    )


# What the daemon stores as the launcher reports it
_AS_REPORTED = (
    *("exit_code", "signal", "started_at", "finished_at", "user_seconds", "system_seconds", "max_rss_bytes"),
    *("log_bytes", "whole_tree", "memory_peak_bytes", "run_seconds", "leftovers"),
)
_as_reported = attrgetter(*_AS_REPORTED)


def apply_exception_rules(end: AttemptEnd, policy: RetryPolicy) -> AttemptEnd:
    """Apply the rules for exceptions, unless the job itself has decided."""
    decision = end.decision or decision_for(end.lineage, policy.on_exceptions)
    if decision is None:
        return end
    return replace(
        end, decision=decision, outcome=Outcome.SNOOZED if decision.step is NextStep.SNOOZE else end.outcome
    )


def postponed_end(job: Job, at: float, why: str) -> AttemptEnd:
    """Return the end of an attempt that cannot start for reasons outside its job: it uses up no retry."""
    decision = Decision(NextStep.SNOOZE, after=_RETRY_INTERVAL)
    return AttemptEnd(
        job=job.id,
        attempt=job.attempt,
        outcome=Outcome.SNOOZED,
        finished_at=at,
        error=JobError(type=Outcome.NOT_STARTED.value, message=why),
        decision=decision,
    )


def stopped_end(job: Job, at: float) -> AttemptEnd:
    """Return the end of an attempt that was stopped before it began."""
    return unreported_end(job, Outcome.CANCELLED, at, "stopped before it was started")


def lost_end(job: Job, launcher: str, boot_id: str, at: float, *, has_begun: bool = True) -> AttemptEnd:
    """Return the end of an attempt whose launcher is gone; with `has_begun` False it may not have begun."""
    if launcher.partition(":")[0] != boot_id:
        why = "the machine went down" + (" while it ran" if has_begun else "; it may have begun")
        return unreported_end(job, Outcome.INTERRUPTED, at, why)
    why = "its launcher died; " + ("outcome unknown" if has_begun else "it may have begun")
    return unreported_end(job, Outcome.UNKNOWN, at, why)


def unreported_end(job: Job, outcome: Outcome, at: float, why: str) -> AttemptEnd:
    """Return an end that no launcher reports: the start was refused, or the outcome is unknown."""
    return AttemptEnd(
        job=job.id,
        attempt=job.attempt,
        outcome=outcome,
        finished_at=at,
        error=JobError(type=outcome.value, message=why),
    )


_RETRY_INTERVAL = 60.0  # seconds between two tries of a class job while the installation is incomplete
