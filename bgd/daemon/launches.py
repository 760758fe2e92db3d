"""Both ends of an attempt: from a stored spec to a Launch, from the launcher's report to what is kept."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from bgd.config import Config, PythonConfig
from bgd.core.decision import Aim, Wish, wish_for
from bgd.core.job import Job, JobId, Outcome, RetryPolicy
from bgd.core.spec import Isolation, JobSpec
from bgd.core.target import RunnerTarget, parse_target
from bgd.daemon.access import passing_environment, restricts_commands
from bgd.daemon.storage.records import AttemptEnd
from bgd.wire import calls
from bgd.wire.launching import Ended, Key, Launch, Warm
from bgd.wire.limits import Limits
from bgd.wire.views import JobError
from bgd.worker import WORKER

DEFAULT_UMASK = 0o022


def launch_of(key: Key, job: Job, spec: JobSpec, slot: int, config: Config, position: int = 0) -> Launch:
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
    added = {**passing_environment(spec, config), **marks}
    work = _work_of(job, spec, config)
    return Launch(
        key=key,
        argv=work.argv,
        env={**own, **added},
        cwd=work.cwd or spec.cwd or _own_folder(),
        umask=DEFAULT_UMASK if spec.umask is None else spec.umask,
        stdin=work.stdin,
        stdin_path=spec.stdin,
        pty=spec.pty,
        result=spec.target is not None,
        usual_result=work.usual_result,
        timeout=spec.timeout,
        grace=config.daemon.grace,
        log_cap=config.logs.max_bytes,
        log_kill=config.logs.on_limit == "kill",
        warm=_warm(work.isolation, {name: own.get(name) for name in added}, config.python),
        limits=limits_of(spec),
        keep_leftovers=spec.keep_leftovers,
        own_group=config.daemon.cgroups == "all",
        position=position,
    )


def limits_of(spec: JobSpec) -> Limits:
    """Return what every attempt of such a job is held to."""
    return Limits(
        nice=spec.nice,
        memory_max=spec.memory_max,
        cpu_max=spec.cpu_max,
        pids_max=spec.pids_max,
        open_files=spec.open_files,
        core_max=spec.core_max,
    )


def end_of(ended: Ended) -> AttemptEnd:
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


def judged(end: AttemptEnd, policy: RetryPolicy) -> AttemptEnd:
    """Let the policy say what follows an exception, where the job itself has not."""
    wish = end.wish or wish_for(end.lineage, policy.on_exceptions)
    if wish is None:
        return end
    return replace(end, wish=wish, outcome=Outcome.SNOOZED if wish.aim is Aim.SNOOZE else end.outcome)


def what_is_gone(python: PythonConfig) -> str | None:
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


def end_for_now(job: Job, at: float, why: str) -> AttemptEnd:
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


def end_without_report(job: Job, outcome: Outcome, at: float, why: str) -> AttemptEnd:
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
