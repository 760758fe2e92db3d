"""Launches: builds the start of a job on its executor, and checks that it is possible.

A command is launched as it stands, a class job as the program that runs it.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Iterable
from functools import cache
from operator import attrgetter
from pathlib import Path

from msgspec import Struct, convert
from msgspec.structs import replace

from bgd.core.job import Job
from bgd.core.limits import NO_TOKENS, Tokens
from bgd.core.spec import (
    DEFAULT_QUEUE,
    LOCAL,
    NOTIFICATION_QUEUE,
    ON_NODES,
    OPTIONS,
    ExecutorKind,
    Isolation,
    JobCause,
    JobSpec,
)
from bgd.core.target import RunnerTarget, parse_target
from bgd.daemon.access import allowed_environment, config_file, restricts_commands
from bgd.errors import Refused, nearest
from bgd.logs.files import last_lines
from bgd.settings.config import Config, ExecutorConfig, PythonConfig
from bgd.text.escape import is_text
from bgd.wire import class_jobs
from bgd.wire.launching import AttemptKey, Launch, PilotStart, Place, SlurmStart, WarmStart, log_name
from bgd.wire.limits import NO_LIMITS, Limits
from bgd.worker import WORKER

DEFAULT_UMASK = 0o022
MAX_CAUSE_OUTPUT = 8_000  # bytes of the output of a job, for the one that follows it


def build_launch(  # noqa: PLR0913 (all that an attempt is made from)
    key: AttemptKey,
    job: Job,
    spec: JobSpec,
    slot: int,
    config: Config,
    position: int = 0,
    *,
    place: Place | None = None,
    tokens: Tokens = NO_TOKENS,
    start_by: float | None = None,
) -> Launch:
    """Build the Launch of an attempt: the command, or the program that runs a class job.

    `place`: its executor; None: this machine, directly. `tokens`: those that it holds.
    `start_by`: as in Launch.
    """
    own = _daemons_part(job, spec, config)
    added = allowed_environment(spec, config) | _bgd_variables(job, spec, slot, config, tokens, place)
    program = _program_of(job, spec, config)
    launch = Launch(
        key=key,
        argv=program.argv,
        env={**own, **added},
        cwd=program.cwd or spec.cwd or _own_folder(),
        umask=DEFAULT_UMASK if spec.umask is None else spec.umask,
        stdin=program.stdin,
        stdin_path=spec.stdin,
        result=spec.target is not None,
        usual_result=program.usual_result,
        grace=config.daemon.grace,
        log_cap=config.logs.max_bytes,
        log_kill=config.logs.on_limit == "kill",
        warm=_warm(program.isolation, own, added, config.python),
        limits=limits_of(spec),
        own_group=config.daemon.cgroups == "all",
        position=position,
        place=place,
        start_by=start_by,
        slot=slot,
        **{name: getattr(spec, name) for name in _PASSED_ON},
    )
    return launch if place is None else on_executor(launch, spec, config.executors[place.executor])


_OF_TRACE = ("TRACEPARENT", "TRACESTATE")


def _bgd_variables(
    job: Job, spec: JobSpec, slot: int, config: Config, tokens: Tokens, place: Place | None
) -> dict[str, str]:
    variables = {
        "BGD_JOB_ID": str(job.id),
        "BGD_ATTEMPT": str(job.attempt),
        "BGD_QUEUE": job.queue,
        "BGD_SLOT": str(slot),
        "BGD_SOCKET": config.daemon.socket,
        **{f"BGD_RESOURCE_{name.upper()}": ",".join(held) for name, held in tokens.items()},
    }
    if place is not None and place.kind.has_nodes:
        variables["BGD_ON_NODE_OF"] = place.executor
    if spec.batch is not None:
        variables["BGD_BATCH_ID"] = str(spec.batch)
    if spec.trace is not None:
        variables |= zip(_OF_TRACE, spec.trace, strict=True)
    if spec.cause is not None:
        variables |= _cause_variables(spec.cause, config.log_dir)
    return variables


def _cause_variables(cause: JobCause, log_dir: str) -> dict[str, str]:
    """Return the variables that tell a job what it follows; of a job, with the last lines of its output."""
    told = {"ID": str(cause.id), "NAME": cause.name, "OUTCOME": cause.outcome, "ERROR": cause.error}
    if cause.attempt and not cause.of_batch:
        log = f"{log_dir}/{log_name(cause.id, cause.attempt)}"
        told["OUTPUT"] = "\n".join(last_lines(log, MAX_CAUSE_OUTPUT))
    return {f"BGD_CAUSE_{name}": text.replace("\0", "") for name, text in told.items() if text is not None}


def _daemons_part(job: Job, spec: JobSpec, config: Config) -> dict[str, str]:
    """Return the part of the daemon's environment for a job."""
    if spec.target is not None:
        return _class_job_environment()  # the job adds to it
    if job.queue == NOTIFICATION_QUEUE:
        return own_environment() | _own_settings()
    if restricts_commands(config):
        return _minimal_environment()
    # a command gets exactly the environment it was sent with
    return {} if spec.env is not None else own_environment()


def limits_of(spec: JobSpec) -> Limits:
    """Return the limits of every attempt of a job."""
    return NO_LIMITS if _limits(spec) == _NONE else convert(spec, Limits, from_attributes=True)


_limits = attrgetter(*Limits.__struct_fields__)
_NONE = _limits(NO_LIMITS)


# Options that mean the same in a Launch as in a JobSpec
_PASSED_ON = [
    name
    for name in OPTIONS
    if name in Launch.__struct_fields__ and name not in {"env", "cwd", "umask", "stdin", "key"}
]


def missing_installation(python: PythonConfig) -> str | None:
    """Return what is missing of bgd's own installation for class jobs since the start; None: nothing.

    The launcher checks an interpreter that the configuration names, because its file system may hang.
    """
    needed = [str(WORKER), *([sys.executable] if python.interpreter == sys.executable else [])]
    missing = next((each for each in needed if not os.access(each, os.R_OK)), None)
    if missing is None:
        return None
    return (
        f"{missing} is gone: the virtual environment of bgd was moved or rebuilt while bgd ran; restart bgd"
    )


# --- What runs a job: the program, its environment, a warm worker.


class _Program(Struct):
    """What the launcher runs, and its stdin; `cwd` None: the job's own folder."""

    argv: list[str]
    stdin: bytes | None
    cwd: str | None = None
    usual_result: bytes = b""
    isolation: Isolation = Isolation.SPAWN


def _program_of(job: Job, spec: JobSpec, config: Config) -> _Program:
    if spec.target is None:
        return _Program(list(spec.argv or ()), spec.input)
    target = parse_target(spec.target)
    if isinstance(target, RunnerTarget):
        runner = config.runners[target.runner]
        document = class_jobs.runner_request(target, job.id, job.attempt, spec.arguments)
        return _Program(list(runner.argv), document, runner.cwd, class_jobs.NULL_RESULT)
    python = config.python
    document = class_jobs.worker_request(
        target,
        spec.arguments,
        python.path,
        config.security.allowed_classes,
        spec.stop_signal,
        python.around,
    )
    isolation = spec.isolation or python.isolation
    return _Program([python.interpreter, str(WORKER)], document, isolation=isolation)


def _warm(
    isolation: Isolation, own: dict[str, str], added: Iterable[str], python: PythonConfig
) -> WarmStart | None:
    """Return the kind of warm worker that a job needs, or None for a fresh interpreter.

    `own`: the environment of the worker. `added`: the variables that the job sets.
    """
    if isolation is Isolation.SPAWN:
        return None
    is_reused = isolation is Isolation.REUSE
    return WarmStart(
        isolation=isolation,
        path=list(python.path),
        preload=[*python.preload, *_module_of(python.around)],
        base={name: own.get(name) for name in added},
        recycle_jobs=python.recycle_jobs if is_reused else None,
        recycle_memory=python.recycle_memory if is_reused else None,
    )


def _module_of(function: str) -> list[str]:
    return [function.partition(":")[0]] if function else []


@cache
def own_environment() -> dict[str, str]:
    """Return the daemon's environment without what belongs to the daemon alone, or is not UTF-8.

    Cached: it never changes, and filtering it takes a tenth of a millisecond.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BGD_", "LISTEN_", "WATCHDOG_"))
        and name not in _DAEMON_ONLY
        and is_text(name + value)
    }


@cache
def _own_settings() -> dict[str, str]:
    """Return the variables that configure the daemon, for a program of bgd's own that reads them too."""
    return {
        name: value for name, value in os.environ.items() if name.startswith("BGD_") and is_text(name + value)
    }


@cache
def _class_job_environment() -> dict[str, str]:
    """Return the daemon's environment with absolute search paths.

    An empty entry, as in `PYTHONPATH=:/opt/app`, means the working directory. Otherwise the working directory
    of a class job would decide which code it runs.
    """
    found = own_environment()
    absolute = {name: _absolute(found[name]) for name in _SEARCH_PATHS if found.get(name)}
    return {**found, **absolute}


@cache
def _minimal_environment() -> dict[str, str]:
    """Return the part of the daemon's environment that commands get where only some programs are allowed."""
    found = _class_job_environment()
    return {"PATH": os.defpath, **{name: found[name] for name in _MINIMAL if name in found}}


def _absolute(paths: str) -> str:
    """Return a list of paths with relative ones resolved against the daemon's working directory."""
    folder = _own_folder()
    # $ORIGIN, which the dynamic linker expands, is not a relative path
    return ":".join(each if each.startswith("$") else str(Path(folder, each)) for each in paths.split(":"))


def _own_folder() -> str:
    """Return the daemon's working directory, or / if it was removed or is not UTF-8."""
    try:
        folder = os.getcwd()  # noqa: PTH109 - runs at every launch, and Path.cwd takes four times as long
    except FileNotFoundError:  # removed since the daemon started in it
        return "/"
    return folder if is_text(folder) else "/"


_MINIMAL = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
_SEARCH_PATHS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_DAEMON_ONLY = frozenset({"NOTIFY_SOCKET", "MAINPID", "INVOCATION_ID", "JOURNAL_STREAM", *_OF_TRACE})


# --- Executors: which one runs a job, whether it can, and what the launcher must know of it.


def check_executor(spec: JobSpec, queue: str | None, config: Config) -> None:
    """Check that there is an executor for a job in this queue (None: the default one) that can run it.

    Raises:
        Refused: there is none, or it cannot do what the job asks for.
    """
    name = _name_of(spec, queue, config)
    kind = ExecutorKind.LOCAL if name == LOCAL else config.executors[name].kind
    unusable, its_jobs, there = _NOT_ON_NODES, "local jobs", "on a cluster"
    if not kind.has_nodes:
        unusable, its_jobs, there = ON_NODES, "jobs on a cluster", "on this machine"
    for option in unusable:
        value = getattr(spec, option)
        if value is not None and value is not False:  # 0 sets a limit
            hint = f": use {_INSTEAD[option]}" if option in _INSTEAD else ""
            raise Refused(f"{option} is for {its_jobs}, and executor {name} runs them {there}{hint}")


def place_of(spec: JobSpec, queue: str, config: Config) -> Place | None:
    """Return the executor of a checked job; None: this machine, directly."""
    name = _name_of(spec, queue, config)
    if name == LOCAL or (kind := config.executors[name].kind) is ExecutorKind.LOCAL:
        return None
    return Place(executor=name, kind=kind)


def on_executor(launch: Launch, spec: JobSpec, executor: ExecutorConfig) -> Launch:
    """Return the launch as this executor needs it."""
    match executor.kind:
        case ExecutorKind.LOCAL:
            return launch
        case ExecutorKind.PREFIX:  # a process forked by a warm worker cannot have a prefix
            words = [shlex.join(launch.argv)] if executor.shell else launch.argv
            return replace(launch, argv=[*executor.argv, *words], warm=None)
        case ExecutorKind.SLURM:
            slurm = SlurmStart(
                folder=executor.folder,
                python=executor.python,
                conf=executor.conf,
                variables=slurm_variables(executor),
                requests_per_second=executor.requests_per_second,
                nodes=spec.nodes,
                pilot=_pilot(spec, executor, launch),
            )
            return replace(launch, slurm=slurm, own_group=False)


def slurm_variables(executor: ExecutorConfig) -> dict[str, str]:
    """Return the environment of Slurm's programs: what they need, and what the executor names."""
    names = ("PATH", "HOME", "SLURM_CONF", *executor.env)
    variables = {name: os.environ[name] for name in names if name in os.environ}
    return variables | ({"SLURM_CONF": executor.conf} if executor.conf else {})


def _site_options(executor: ExecutorConfig, spec: JobSpec | None = None) -> list[str]:
    named = {
        "partition": (spec and spec.partition) or executor.partition,
        "account": (spec and spec.account) or executor.account,
        "qos": executor.qos,
        "constraint": executor.constraint,
    }
    return [*executor.options, *(f"--{name}={value}" for name, value in named.items() if value)]


def _kilobytes(size: int) -> str:
    return f"{-(-size // 1024)}K"


def _pilot(spec: JobSpec, executor: ExecutorConfig, launch: Launch) -> PilotStart:
    """Return how a pilot runs a job: a shared one, if it is large enough."""
    cpus, memory = spec.cpus or 1, spec.memory or executor.memory
    size = ["--exclusive", "--mem=0"]
    is_larger = False
    if most := executor.node_cpus:
        size = [f"--cpus-per-task={most}", f"--mem={_kilobytes(most * executor.memory)}"]
        is_larger = cpus > most or memory > most * executor.memory
    return PilotStart(
        executor=launch.place.executor if launch.place else "",
        name=spec.name or spec.target or shlex.join(launch.argv)[:_MAX_NAME],
        nodes=executor.nodes or _ANY_NUMBER,
        options=[*_site_options(executor), *size],
        keep_idle=executor.keep_idle,
        cpus=cpus,
        memory=memory,
        own=own_options(spec, executor, launch),
        alone=is_larger or any(getattr(spec, each) for each in ON_NODES if each not in {"cpus", "memory"}),
    )


def own_options(spec: JobSpec, executor: ExecutorConfig, launch: Launch | None = None) -> list[str]:
    """Return the options for sbatch of a job with its own allocation."""
    seconds = launch.timeout + launch.grace + _START_AND_END if launch and launch.timeout else None
    size = {
        "cpus-per-task": spec.cpus or 1,
        "mem": _kilobytes(spec.memory or executor.memory),  # without it a job may take the whole node
        "gpus": spec.gpus,
        "gres": spec.gres,
        "time": spec.time or (None if seconds is None else math.ceil(seconds / 60)),  # minutes
    }
    sizes = [f"--{name}={value}" for name, value in size.items() if value]
    return [*_site_options(executor, spec), *sizes, *(spec.slurm_options or ())]


_MAX_NAME = 200  # characters of a command, for one that has no name
_ANY_NUMBER = 1000  # of pilots
_START_AND_END = 120.0  # seconds beyond the time limit of the job, for the pilot


def _name_of(spec: JobSpec, queue: str | None, config: Config) -> str:
    if spec.executor is None:
        bound = config.queues.get(queue or DEFAULT_QUEUE)
        return LOCAL if bound is None else bound.executor
    if spec.executor != LOCAL and spec.executor not in config.executors:
        known = nearest(spec.executor, [LOCAL, *config.executors])
        raise Refused(f"there is no [executors.{spec.executor}] in {config_file(config)}; {known}")
    return spec.executor


_NOT_ON_NODES = ("pty", "keep_leftovers", *Limits.__struct_fields__)
_INSTEAD = {
    "memory_max": "memory",
    "cpu_max": "cpus",
    "memory": "memory_max (--memory-max) to limit it",
    "cpus": "cpu_max (--cpu-max) to limit them",
    "gpus": "a resource (--resource gpu=1), which [resources] shares out",
}
