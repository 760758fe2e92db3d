"""Dispatcher: what the launcher is sent, once it has been saved and as far as it is still wanted."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from bgd.clock import now
from bgd.config import Config, PythonConfig
from bgd.core.decision import Aim, Wish, wish_for
from bgd.core.job import ACTIVE, Job, JobId, Outcome, RetryPolicy, State
from bgd.core.scheduler import Continue, Stop, Suspend
from bgd.core.spec import OPTIONS, Isolation, JobSpec
from bgd.core.target import RunnerTarget, parse_target
from bgd.daemon.access import allowed_environment, check_may_run, restricts_commands
from bgd.daemon.launching import LauncherLink, LauncherSnapshot
from bgd.daemon.storage.records import AttemptEnd, NewAttempt, StoredSpec
from bgd.daemon.streams import Subscriptions
from bgd.errors import Refused
from bgd.wire import calls, launching
from bgd.wire.launching import (
    NO_LIMITS,
    Ended,
    Key,
    Launch,
    Limits,
    Started,
    ToLauncher,
    Warm,
    Watch,
    problem_with_limits,
)
from bgd.wire.views import JobError
from bgd.worker import WORKER

# --- The book of active attempts: which launcher was given each, and what has yet to be sent to it.


NEVER_STARTED = "stopped before it was started"


class Reconciliation(Struct, frozen=True):
    """What to do about an active attempt after a launcher has told what it knows.

    `adopt`: it runs there. `outcome`: it is over, for the reason `why`. Neither: it is handed on with the
    next transaction.
    """

    job: Job
    adopt: bool = False
    outcome: Outcome | None = None
    why: str = ""


class AttemptTable:
    """Active attempts by job, from START to their end.

    An attempt's Launch is sent only to the launcher it was *saved* for (R3): so what the database says
    always suffices to tell later whether it can have been started.
    """

    def __init__(self) -> None:
        self._launcher: dict[JobId, str] = {}  # instance it was saved for
        self._slot: dict[JobId, int] = {}
        self._unsent: set[JobId] = set()
        self._to_reassign: set[JobId] = set()

    def restore(self, job_id: JobId, slot: int, launcher: str) -> None:
        """Take an attempt as it was written down."""
        self._slot[job_id] = slot
        self._launcher[job_id] = launcher

    def start(self, job: Job, slot: int, launcher: str, at: float) -> NewAttempt:
        """Take a new attempt; the row returned belongs into the next transaction."""
        self._slot[job.id] = slot
        self._unsent.add(job.id)
        return self._saved_for(job, launcher, at)

    def reassign(self, jobs: Iterable[Job | None], launcher: str, at: float) -> list[tuple[Job, NewAttempt]]:
        """Return the rows of attempts that go to another launcher than the one they were saved for."""
        waiting, self._to_reassign = self._to_reassign, set()
        return [
            (job, self._saved_for(job, launcher, at)) for job in jobs if job is not None and job.id in waiting
        ]

    @property
    def to_reassign(self) -> Iterable[JobId]:
        return self._to_reassign

    def may_send(self, job: Job, launcher: str) -> bool:
        """Tell whether this launcher is the one the attempt was saved for, and has not been sent it yet."""
        return job.id in self._unsent and self._launcher[job.id] == launcher

    def sent(self, job_id: JobId) -> None:
        self._unsent.discard(job_id)

    def end(self, job_id: JobId) -> None:
        """Forget an attempt that is over."""
        self._launcher.pop(job_id, None)
        self._slot.pop(job_id, None)
        self._unsent.discard(job_id)
        self._to_reassign.discard(job_id)

    def slot_of(self, job_id: JobId) -> int:
        return self._slot[job_id]

    def reconcile(
        self, jobs: Iterable[Job], snapshot: LauncherSnapshot, store_id: str, boot_id: str
    ) -> list[Reconciliation]:
        """Judge every active attempt by what a launcher knows of it (R3).

        Ends in the snapshot are left out: they are handled like any other end. Attempts that were decided
        while a transaction was being written are left out too: the next transaction saves them for the
        launcher of its time.
        """
        ended = {end.key for end in snapshot.ended}
        verdicts = []
        for job in jobs:
            key = Key(store_id, job.id, job.attempt)
            if key in ended or job.id not in self._launcher:
                continue
            if key in snapshot.started:
                self._launcher[job.id] = snapshot.instance
                self._unsent.discard(job.id)
                verdicts.append(Reconciliation(job, adopt=True))
            else:
                verdicts.append(self._judge_absent(job, snapshot, boot_id))
        return verdicts

    def _judge_absent(self, job: Job, snapshot: LauncherSnapshot, boot_id: str) -> Reconciliation:
        launcher = self._launcher[job.id]
        was_never_started = (
            job.id in self._unsent or launcher == snapshot.instance or launcher in snapshot.covers
        )
        if was_never_started and job.state is State.STOPPING:
            return Reconciliation(job, outcome=Outcome.CANCELLED, why=NEVER_STARTED)
        if was_never_started:
            self._unsent.add(job.id)
            self._to_reassign.add(job.id)
            return Reconciliation(job)
        if launcher.partition(":")[0] != boot_id:
            return Reconciliation(job, outcome=Outcome.INTERRUPTED, why="the machine went down while it ran")
        return Reconciliation(job, outcome=Outcome.UNKNOWN, why="its launcher died and nobody saw it end")

    def _saved_for(self, job: Job, launcher: str, at: float) -> NewAttempt:
        self._launcher[job.id] = launcher
        return NewAttempt(job.id, job.attempt, self._slot[job.id], launcher, at)


# --- Both ends of an attempt: from a stored spec to a Launch, from the launcher's report to what is kept.


DEFAULT_UMASK = 0o022


def build_launch(key: Key, job: Job, spec: JobSpec, slot: int, config: Config, position: int = 0) -> Launch:
    """Say to the launcher what to run: a command as it stands, a class job as the program that runs it."""
    marks = {
        "BGD_JOB_ID": str(job.id),
        "BGD_ATTEMPT": str(job.attempt),
        "BGD_QUEUE": job.queue,
        "BGD_SLOT": str(slot),
        "BGD_SOCKET": config.daemon.socket,
    }
    if spec.target is not None:
        own = _environment_of_calls()  # to which it adds
    elif restricts_commands(config):
        own = _least_environment()
    else:  # a command gets just what it was sent with
        own = {} if spec.env is not None else _own_environment()
    added = {**allowed_environment(spec, config), **marks}
    work = _work_of(job, spec, config)
    return Launch(
        key=key,
        argv=work.argv,
        env={**own, **added},
        cwd=work.cwd or spec.cwd or _own_folder(),
        umask=DEFAULT_UMASK if spec.umask is None else spec.umask,
        stdin=work.stdin,
        stdin_path=spec.stdin,
        result=spec.target is not None,
        usual_result=work.usual_result,
        grace=config.daemon.grace,
        log_cap=config.logs.max_bytes,
        log_kill=config.logs.on_limit == "kill",
        warm=_warm(work.isolation, {name: own.get(name) for name in added}, config.python),
        limits=limits_of(spec),
        own_group=config.daemon.cgroups == "all",
        position=position,
        **{name: getattr(spec, name) for name in _PASSED_ON},
    )


def limits_of(spec: JobSpec) -> Limits:
    """Return the limits that every attempt of such a job is held to."""
    return Limits(**{name: getattr(spec, name) for name in Limits.__struct_fields__})


# Options that mean the same in a Launch as in a JobSpec: they are passed on as they are
_PASSED_ON = [
    name
    for name in OPTIONS
    if name in Launch.__struct_fields__ and name not in {"env", "cwd", "umask", "stdin", "key"}
]


def reported_end(ended: Ended) -> AttemptEnd:
    """Read the launcher's report; a class job's own account of itself refines the outcome."""
    account = calls.Account(ended.outcome)
    if ended.result is not None:  # it had a result file, so it was a class job
        account = calls.read_result(ended.result, ended.outcome)
    error = account.error
    if error is None and ended.problem is not None:
        error = JobError(type=account.outcome.value, message=ended.problem)
    return AttemptEnd(
        job=JobId(ended.key.job),
        attempt=ended.key.attempt,
        outcome=account.outcome,
        exit_code=ended.exit_code,
        signal=ended.signal,
        started_at=ended.started_at,
        finished_at=ended.finished_at,
        user_seconds=ended.user_seconds,
        system_seconds=ended.system_seconds,
        max_rss_bytes=ended.max_rss_bytes,
        log_bytes=ended.log_bytes,
        log_kept=ended.log_bytes,
        whole_tree=ended.whole_tree,
        memory_peak_bytes=ended.memory_peak_bytes,
        run_seconds=_run_seconds(ended),
        error=error,
        result=account.value,
        wish=account.wish,
        lineage=account.lineage,
    )


def _run_seconds(ended: Ended) -> float | None:
    """Return how long an attempt ran; by the wall clock if its launcher is too old to measure it.

    None where that cannot be known: nobody saw the end, or the clock was set back.
    """
    if ended.run_seconds is not None or ended.started_at is None:
        return ended.run_seconds
    was_unseen = ended.outcome in {Outcome.UNKNOWN, Outcome.INTERRUPTED}
    took = ended.finished_at - ended.started_at
    return None if was_unseen or took < 0 else took


def apply_exception_rules(end: AttemptEnd, policy: RetryPolicy) -> AttemptEnd:
    """Let the policy say what follows an exception, where the job itself has not."""
    wish = end.wish or wish_for(end.lineage, policy.on_exceptions)
    if wish is None:
        return end
    return replace(end, wish=wish, outcome=Outcome.SNOOZED if wish.aim is Aim.SNOOZE else end.outcome)


def missing_installation(python: PythonConfig) -> str | None:
    """Say what of bgd's own installation a class job would miss; None: nothing.

    It was there when the daemon started. Another interpreter that the configuration names is for the launcher
    to look at, as its file system may not answer.
    """
    needed = [str(WORKER), *([sys.executable] if python.interpreter == sys.executable else [])]
    missing = next((each for each in needed if not os.access(each, os.R_OK)), None)
    if missing is None:
        return None
    return (
        f"{missing} is gone: the virtual environment of bgd was moved or rebuilt while bgd ran; restart bgd"
    )


def postponed_end(job: Job, at: float, why: str) -> AttemptEnd:
    """Write up an attempt that could not start, which is not its job's fault: it uses up no retry."""
    wish = Wish(Aim.SNOOZE, after=_UNTIL_REPAIRED)
    return AttemptEnd(
        job=job.id,
        attempt=job.attempt,
        outcome=Outcome.SNOOZED,
        finished_at=at,
        error=JobError(type=Outcome.NOT_STARTED.value, message=why),
        wish=wish,
    )


def unreported_end(job: Job, outcome: Outcome, at: float, why: str) -> AttemptEnd:
    """Write up an end that no launcher reports: refused at the start, or seen by nobody."""
    return AttemptEnd(
        job=job.id,
        attempt=job.attempt,
        outcome=outcome,
        finished_at=at,
        error=JobError(type=outcome.value, message=why),
    )


class _Work(Struct):
    """What is started, and what it reads; `cwd` None: where the job says."""

    argv: list[str]
    stdin: bytes | None
    cwd: str | None = None
    usual_result: bytes = b""
    isolation: Isolation = Isolation.SPAWN


def _work_of(job: Job, spec: JobSpec, config: Config) -> _Work:
    if spec.target is None:
        return _Work(list(spec.argv or ()), spec.input)
    target = parse_target(spec.target)
    if isinstance(target, RunnerTarget):
        runner = config.runners[target.runner]
        document = calls.runner_request(target, job.id, job.attempt, spec.arguments)
        return _Work(list(runner.argv), document, runner.cwd, calls.NOTHING)
    document = calls.request(target, spec.arguments, config.python.path, config.security.allowed_classes)
    isolation = spec.isolation or config.python.isolation
    return _Work([config.python.interpreter, str(WORKER)], document, isolation=isolation)


def _warm(isolation: Isolation, base: dict[str, str | None], python: PythonConfig) -> Warm | None:
    """Say what worker a job is for; `base`: what that has in place of the job's own variables.

    None: a fresh interpreter.
    """
    if isolation is Isolation.SPAWN:
        return None
    is_reused = isolation is Isolation.REUSE
    return Warm(
        isolation=isolation,
        path=list(python.path),
        preload=list(python.preload),
        base=base,
        recycle_jobs=python.recycle_jobs if is_reused else None,
        recycle_memory=python.recycle_memory if is_reused else None,
    )


@cache
def _own_environment() -> dict[str, str]:
    """Return the daemon's environment less what belongs to the daemon alone, or is no text to send.

    It stays as it is, and to look through it takes a tenth of a millisecond.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BGD_", "LISTEN_", "WATCHDOG_"))
        and name not in _OF_THE_DAEMON
        and _is_text(name + value)
    }


@cache
def _environment_of_calls() -> dict[str, str]:
    """Return the daemon's environment, in which no search begins in the folder that a class job is given.

    Who chooses that folder would choose the code: an empty entry, as `PYTHONPATH=:/opt/app` has, is it.
    """
    found = _own_environment()
    settled = {name: _settled(found[name]) for name in _SEARCHED if found.get(name)}
    return {**found, **settled}


@cache
def _least_environment() -> dict[str, str]:
    """Return what a command gets of the daemon's environment where only some programs are allowed."""
    found = _environment_of_calls()
    return {"PATH": os.defpath, **{name: found[name] for name in _LEAST if name in found}}


def _settled(paths: str) -> str:
    """Return a list of paths in which the relative ones are those of the daemon's own folder."""
    folder = _own_folder()
    # $ORIGIN, which the C library knows, is no relative path
    return ":".join(each if each.startswith("$") else str(Path(folder, each)) for each in paths.split(":"))


def _own_folder() -> str:
    """Return the daemon's working directory, or the root where it has none that could be named."""
    try:
        folder = os.getcwd()  # noqa: PTH109 - asked at every launch, and a Path costs four times as much
    except FileNotFoundError:  # removed since the daemon started in it
        return "/"
    return folder if _is_text(folder) else "/"


def _is_text(word: str) -> bool:
    """Tell whether UTF-8 can hold it: names and values of Linux are bytes, and need not be text."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


_LEAST = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
_UNTIL_REPAIRED = 60.0  # seconds between two tries of a class job while the installation is not whole
_SEARCHED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_OF_THE_DAEMON = frozenset({"NOTIFY_SOCKET", "MAINPID", "INVOCATION_ID", "JOURNAL_STREAM"})


OLD_LAUNCHER = (
    "its launcher is of an older bgd, and makes way for a new one when bgd starts while nothing runs"
)

logger = logging.getLogger(__name__)


class Dispatcher:
    """The way to the launcher.

    Args:
        link: the connection to it.
        attempts: which launcher was given what.
        subscriptions: who follows which log.
        store_id: of the database, in whose name it is asked.
        job_of: returns the unfinished job of an id, None for any other.
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
        self._gone: str | None = None  # as it was last said

    def launch(
        self, job: Job, specs: dict[JobId, StoredSpec], config: Config, position: int
    ) -> AttemptEnd | None:
        """Send what has been saved as started, unless its launcher has gone since then.

        `position`: the id of the newest event on disk. Returns its end, if it need not or may not be started
        any more.
        """
        current = self.active_job(self.key_of(job))
        if current is None or not self._attempts.may_send(job, self._link.instance):
            return None  # over; or the next snapshot finds it absent and unsent, and hands it on
        if current.state is State.STOPPING:  # asked while the start was being saved
            return unreported_end(job, Outcome.CANCELLED, now().wall, NEVER_STARTED)
        stored = specs[job.id]
        try:
            check_may_run(stored.spec, config)
        except Refused as refusal:
            return unreported_end(job, Outcome.REFUSED, now().wall, str(refusal))
        if stored.spec.target is not None and not isinstance(parse_target(stored.spec.target), RunnerTarget):
            gone = missing_installation(config.python)
            self._report_missing(gone)
            if gone is not None:
                return postponed_end(job, now().wall, gone)
        slot = self._attempts.slot_of(job.id)
        launch = build_launch(self.key_of(job), job, stored.spec, slot, config, position)
        if not self._link.supports(launch):
            return unreported_end(job, Outcome.REFUSED, now().wall, OLD_LAUNCHER)
        if self._link.send(launch):
            self._attempts.sent(job.id)
            self.watch_log(job.id)
            if current.suspended:
                self.send_command(Suspend(current), config.daemon.grace)
        return None

    def send_command(self, command: Stop | Suspend | Continue, grace: float) -> None:
        """Send an order for an attempt, which may have been over before the order was saved."""
        key = self.key_of(command.job)
        if self.active_job(key) is None:
            return
        match command:
            case Stop():
                self._link.send(launching.Stop(key, grace))
            case Suspend():
                self._send_if_supported(launching.Suspend(key))
            case Continue():
                self._send_if_supported(launching.Continue(key))

    def resend_commands(self, job: Job, started: Started, grace: float) -> None:
        """Say again of an adopted attempt what may have been saved and not sent before."""
        if job.state is State.STOPPING:
            self.send_command(Stop(job), grace)
        elif job.suspended is not started.suspended:
            self.send_command(Suspend(job) if job.suspended else Continue(job), grace)

    def check_limits(self, spec: JobSpec) -> None:
        """See whether jobs can be held to such limits, as far as that is known.

        Raises:
            Refused: they cannot, and why.
        """
        limits, abilities = limits_of(spec), self._link.abilities
        if limits == NO_LIMITS or abilities is None:
            return
        problem = problem_with_limits(limits, abilities)
        if problem is not None:
            raise Refused(problem)

    def stop_stray(self, key: Key, grace: float) -> None:
        """Stop what runs and should not: an attempt that this database does not have as running."""
        if self.active_job(key) is None:
            logger.warning(
                "stopping attempt %d of job %d: the database has no such run", key.attempt, key.job
            )
            self._link.send(launching.Stop(key, grace))

    def watch_log(self, job_id: JobId, *, on: bool = True) -> None:
        """Ask the launcher to tell when an active attempt writes, if somebody follows; or no longer to."""
        job = self._job_of(job_id)
        if job is not None and job.state in ACTIVE and self._subscriptions.has_log_subscribers(job_id) == on:
            self._link.send(Watch(self.key_of(job), on))

    def tell(self, job: Job, message_of: Callable[[Key], ToLauncher]) -> None:
        """Send a message about an active job's attempt.

        Raises:
            Refused: there is no launcher just now, or it is too old to know what is meant.
        """
        message = message_of(self.key_of(job))
        self.check_supported(job, message_of)
        if not self._link.send(message):
            raise Refused(f"job {job.id} cannot be told anything just now: no launcher is connected")

    def check_supported(self, job: Job, message_of: Callable[[Key], ToLauncher]) -> None:
        """See whether the launcher knows such a message.

        Raises:
            Refused: it is too old.
        """
        if not self._link.supports(message_of(self.key_of(job))):
            raise Refused(f"this cannot be done to job {job.id}: {OLD_LAUNCHER}")

    def active_job(self, key: Key) -> Job | None:
        """Return the job whose active attempt this is, None if there is none."""
        job = self._job_of(JobId(key.job))
        return job if job is not None and job.state in ACTIVE and key == self.key_of(job) else None

    def key_of(self, job: Job) -> Key:
        """Return the name of the job's latest attempt."""
        return Key(self._store_id, job.id, job.attempt)

    def _report_missing(self, gone: str | None) -> None:
        """Say once that class jobs cannot start, and once that they can again."""
        if gone == self._gone:
            return
        self._gone = gone
        if gone is None:
            logger.info("class jobs start again")
        else:
            logger.error("class jobs cannot start and are tried again every minute: %s", gone)

    def _send_if_supported(self, message: ToLauncher) -> None:
        if self._link.supports(message):  # one that does not know it was never asked for it, either
            self._link.send(message)
