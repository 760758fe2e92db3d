"""Configuration: every key with its type, default and meaning, and how a daemon and its clients read them.

Clients that have a configuration import this module at every start, to learn where the socket is. So tomllib,
ipaddress and others are imported only where a value needs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from bgd.core import spec
from bgd.core.job import Rate, RetryPolicy
from bgd.core.schedule_spec import Missed, Overlap, PassedVariables, ScheduleName, ScheduleSpec
from bgd.core.target import (
    PAUSE_FOR,
    POLICY_KEYS,
    ClassPolicy,
    is_runner_name,
    problem_with_entry,
    problem_with_template,
)
from bgd.errors import ConfigError, nearest
from bgd.settings import values
from bgd.settings.paths import SYSTEM_PATHS, DaemonPaths, check_socket, home_folder, paths_in, user_paths
from bgd.settings.sources import (
    ANY,
    Key,
    Schema,
    Setting,
    from_environment,
    from_file,
    key,
    keys_of,
    names_in,
    or_word,
    read_section,
)
from bgd.settings.values import ANY_COMMAND, Address, TcpAddress
from bgd.text.units import DURATION, SIZE, requirement
from bgd.wire.requests import ShutdownMode

MIN_LOG = 1_000  # bytes; less would keep no line whole
MIN_REUSE_MEMORY = 10_000_000  # bytes; a bare interpreter takes more, and would never be used twice
MAX_TARGETS = 100  # of notifications
PORTS = 20  # that a user's daemon tries, from the one in http.listen on
DAY = 86_400.0  # seconds

S = TypeVar("S", bound=Struct)


class Config(Struct, frozen=True, kw_only=True):
    """Everything the configuration decides. Paths are absolute, durations seconds."""

    daemon: DaemonConfig
    http: HttpConfig
    retry: RetryPolicy  # of class jobs
    retry_commands: RetryPolicy
    security: SecurityConfig
    python: PythonConfig
    runners: dict[str, RunnerConfig]
    executors: dict[str, ExecutorConfig]  # besides "local"
    resources: dict[str, tuple[str, ...]]  # the tokens of each
    logs: LogsConfig
    retention: RetentionConfig
    backup: BackupConfig
    queues: dict[str, QueueConfig]
    classes: dict[str, ClassPolicy]  # by patterns, like those in allowed_classes
    schedules: dict[str, ScheduleSpec]
    notify: dict[str, NotifyTarget]
    log_dir: str
    source: str | None  # the file that was read; None: built-in defaults


def load(path: str | None = None, *, system: bool = False, environ: Mapping[str, str] = os.environ) -> Config:
    """Read `path`, else $BGD_CONFIG, else the usual file if there is one; the environment overrides it.

    `system` picks the machine's usual places instead of the caller's own.

    Raises:
        ConfigError: in one line, the file and key that are wrong, and what is allowed.
    """
    named = path or environ.get("BGD_CONFIG")
    places = SYSTEM_PATHS if system else user_paths(environ)
    source: str | None = str(Path(named or places.config).absolute())
    try:
        found = settings_of(source, environ)
    except FileNotFoundError:
        if named:
            raise ConfigError(f"there is no configuration file {source}") from None
        source, found = None, settings_of(None, environ)
    return _config(found, places, source)


def settings_of(source: str | None, environ: Mapping[str, str] = os.environ) -> dict[str, Setting]:
    """Return the settings of a file (None: no file) and of the environment, by dotted name.

    Raises:
        ConfigError: as from `load`.
        FileNotFoundError: there is no such file.
    """
    home = home_folder(environ)
    in_file = {} if source is None else from_file(source, SCHEMA, home)
    return in_file | from_environment(environ, SCHEMA, home)


def value_of(section: Struct, key: str) -> object:
    """Return the value of a key in a section of a Config."""
    if isinstance(section, ClassPolicy) and key in POLICY_KEYS:
        return section.options.get(POLICY_KEYS[key])
    if isinstance(section, ScheduleSpec):
        return _value_of_schedule(section, key)
    value: object = getattr(section, key)
    return value


def _value_of_schedule(schedule: ScheduleSpec, key: str) -> object:
    if key in ("args", "kwargs"):
        return None if schedule.job.arguments is None else msgspec.json.decode(schedule.job.arguments)[key]
    name = {"command": "argv", "except": "excluded"}.get(key, key)
    value: object = getattr(schedule if name in ScheduleSpec.__struct_fields__ else schedule.job, name)
    return value


def no_target(name: str, known: Collection[str]) -> str:
    """Return in one sentence that there is no [notify] target with this name."""
    hint = nearest(name, known, "configured:") if known else "no target is configured"
    return f"there is no [notify.{name}]; {hint}"


# --- the keys ---------------------------------------------------------------------------------------------

AUTO = "auto"
UNLIMITED = "unlimited"

LogBytes = Annotated[int, Meta(ge=MIN_LOG, le=2**62), SIZE]
ReuseMemory = Annotated[int, Meta(ge=MIN_REUSE_MEMORY, le=2**62), SIZE]
UpToThousand = Annotated[int, Meta(ge=1, le=1000)]
JobCount = Annotated[int, Meta(ge=1, le=1_000_000_000)]
KeptJobs = Annotated[int, Meta(ge=0, le=2**53)]
LoadAverage = Annotated[float, Meta(ge=0, le=1_000_000)]
RequestRate = Annotated[float, Meta(ge=0.1, le=10_000.0)]
PilotNodes = Annotated[int, Meta(ge=0, le=1000)]
NodeCpus = Annotated[int, Meta(ge=0, le=10_000)]
BackupInterval = Annotated[float, Meta(ge=60.0, le=spec.MAX_DURATION), DURATION]


_A_RUNNER = '["php", "artisan", "bgd:run"]'
_A_PREFIX = '["nice", "-n", "7"]'


def _processors() -> int:
    return len(os.sched_getaffinity(0))


class Auth(StrEnum):
    """How users of the pages identify themselves."""

    TOKEN = "token"  # noqa: S105 - a word of the configuration
    NONE = "none"


class DaemonConfig(Struct, frozen=True, kw_only=True):
    """[daemon]."""

    state_dir: str = key(values.absolute_path)
    socket: str = key(values.absolute_path)
    slots: int = key(or_word(AUTO, _processors, values.of(spec.SlotCount)), word=AUTO)
    grace: float = key(values.of(spec.Duration), 10.0)  # seconds between TERM and KILL
    min_free: int | None = key(values.of(spec.FileBytes), None, none=AUTO)
    """Bytes on its disk below which the daemon refuses new jobs; None: by the size of the disk."""
    max_load: float | None = key(values.of(LoadAverage), None, none="none")
    """Start no job while the load average of the last minute is this high or higher; None: no limit."""
    min_memory: int | None = key(values.of(spec.FileBytes), None, none="none")
    """Start no job while fewer bytes of memory are available; None: no limit."""
    on_stop: ShutdownMode = key(
        values.one_of(ShutdownMode.LEAVE, ShutdownMode.REQUEUE, ShutdownMode.WAIT), ShutdownMode.LEAVE
    )
    """What SIGTERM does to running jobs."""
    cgroups: Literal["limits", "all"] = key(values.one_of("limits", "all"), "limits")
    """Which attempts get a control group of their own, where the system allows that."""
    notify: str | None = key(values.of(spec.NotifyName), None, none="")
    """The [notify] target of every job and schedule that names none."""


class HttpConfig(Struct, frozen=True, kw_only=True):
    """[http]: `ports` is how many the daemon tries, from the one in `listen` on."""

    ports: int
    listen: Address | None = key(values.address, TcpAddress("127.0.0.1", 8643), none="")  # None: no pages
    auth: Auth = key(values.one_of(*Auth), Auth.TOKEN)
    base: str = key(values.page_base, "")
    """What stands before the paths of all pages, where a proxy serves other things beside them."""
    metrics_token: str = key(values.token, "")
    """The bearer token of /metrics; if it is empty, /metrics is not served."""
    user_header: str = key(values.header_name, "")
    """The header in which a proxy names its user; empty: no header names the user."""
    host: tuple[str, ...] = key(values.texts_without(values.problem_with_host), ())
    """The names by which browsers reach a proxy on a Unix socket."""

    @property
    def serves_any_host(self) -> bool:
        """Whether a Unix socket serves every name: a stranger's name has no cookie, so it shows nothing.

        Where there are no cookies, only names that are listed are safe from DNS rebinding.
        """
        return not self.host and not self.user_header and self.auth is Auth.TOKEN


class SecurityConfig(Struct, frozen=True, kw_only=True):
    """[security]."""

    allowed_classes: tuple[str, ...] = key(values.texts_without(problem_with_entry), ())
    allowed_commands: tuple[str, ...] = key(values.texts_without(values.problem_with_command), (ANY_COMMAND,))
    allowed_env: tuple[str, ...] = key(values.texts_without(values.problem_with_variable), ())
    """Variables that commands may bring where allowed_commands is not "*"."""


class PythonConfig(Struct, frozen=True, kw_only=True):
    """[python]: the interpreters that class jobs run in."""

    interpreter: str = key(values.python_interpreter, word="")
    path: tuple[str, ...] = key(values.absolute_paths, ())  # in front of sys.path of class jobs
    preload: tuple[str, ...] = key(values.texts_without(values.problem_with_module), ())
    around: str = key(values.function_name, "")  # returns the context manager that surrounds each job
    env: tuple[str, ...] = key(
        values.texts_without(values.problem_with_variable), ()
    )  # variables a class job may bring
    isolation: spec.Isolation = key(
        values.one_of(*spec.Isolation), spec.Isolation.FORK
    )  # where a job does not say
    recycle_jobs: int = key(values.of(JobCount), 10_000)
    """After this many jobs a reused worker gives way to a new one."""
    recycle_memory: int = key(values.of(ReuseMemory), 500_000_000)
    """Bytes; a reused worker that takes more gives way to a new one."""


class LogsConfig(Struct, frozen=True, kw_only=True):
    """[logs]."""

    max_bytes: int = key(values.of(LogBytes), 100_000_000)  # of one attempt
    on_limit: Literal["truncate", "kill"] = key(values.one_of("truncate", "kill"), "truncate")


class RetentionConfig(Struct, frozen=True, kw_only=True):
    """[retention]: how long finished jobs are kept; None: no limit."""

    succeeded_for: float | None = key(
        values.of(spec.Duration), 7 * DAY, none=UNLIMITED
    )  # seconds since they ended
    failed_for: float | None = key(
        values.of(spec.Duration), 30 * DAY, none=UNLIMITED
    )  # of failed and cancelled ones
    max_finished: int | None = key(values.of(KeptJobs), 100_000, none=UNLIMITED)  # in each state
    logs_total: int | None = key(
        values.of(spec.FileBytes), 5_000_000_000, none=UNLIMITED
    )  # bytes of all logs
    keep_unread: float | None = key(
        values.of(spec.Duration), 7 * DAY, none=UNLIMITED
    )  # seconds, of ends in inboxes


class BackupConfig(Struct, frozen=True, kw_only=True):
    """[backup]: copies of the database that the daemon writes by itself."""

    every: float | None = key(values.of(BackupInterval), DAY, none="never")  # seconds
    keep: int = key(values.of(UpToThousand), 3)
    folder: str = key(values.absolute_path)


class QueueConfig(Struct, frozen=True, kw_only=True):
    """[queues.NAME]."""

    slots: int | None = key(values.of(spec.SlotCount), None, none=UNLIMITED)
    """None: no limit except that of the daemon."""
    executor: str = key(values.of(spec.ExecutorName), spec.LOCAL)  # of jobs that name none themselves
    rate: Rate | None = key(values.start_rate, None, none=UNLIMITED)
    """Starts of its jobs within some time, retries included; None: any number."""
    weight: int | None = key(values.of(UpToThousand), None, none="none")
    """Share of the slots among queues with jobs of equal priority; if no queue has one, they do not share."""


class RunnerConfig(Struct, frozen=True, kw_only=True):
    """[runners.NAME]: a program that runs class jobs of another language."""

    argv: tuple[str, ...] = key(
        partial(values.program_with_arguments, example=_A_RUNNER)
    )  # the program, a path or a name on PATH, and its arguments
    cwd: str | None = key(values.absolute_path, None)  # the folder it starts in; None: the daemon's


class NotifyTarget(Struct, frozen=True, kw_only=True):
    """[notify.NAME]: a target of notifications. It has one of `program`, `mail` and `url`."""

    program: tuple[str, ...] | None = key(
        partial(values.program_with_arguments, example='["/usr/local/bin/tell", "--urgent"]'), None
    )
    mail: str | None = key(values.mail_address, None)
    url: str | None = key(values.secret_url, None)
    on: tuple[str, ...] = key(values.events, ("failed",))
    """Events that it gets, by their names in bgd.core.notifications."""
    failures: int = key(values.of(UpToThousand), 1)
    """Report a failure after this many in a row of the same job name or schedule."""
    per_minute: int = key(values.of(UpToThousand), 10)
    """The most messages in a minute; what happens beyond that goes into one summary."""


class ExecutorConfig(Struct, frozen=True, kw_only=True):
    """[executors.NAME]: what runs jobs."""

    kind: spec.ExecutorKind = key(values.one_of(*spec.ExecutorKind), spec.ExecutorKind.LOCAL)
    argv: tuple[str, ...] = key(partial(values.program_with_arguments, example=_A_PREFIX), ())
    """Of a prefix: the program in front of the job's, and its arguments."""
    shell: bool = key(values.of(bool), False)  # of a prefix: it passes what follows to a shell, as ssh does
    # of Slurm
    folder: str = key(values.absolute_path)  # which the nodes share
    python: str = key(values.node_python)  # on the nodes, with bgd; by default this one, by the same path
    conf: str = key(values.path_or_nothing, "")  # the slurm.conf to use; empty: as Slurm's programs find it
    partition: str = key(values.text, "")
    account: str = key(values.text, "")
    qos: str = key(values.text, "")
    constraint: str = key(values.text, "")
    memory: int = key(values.of(spec.MemoryBytes), 1_000_000_000)  # bytes of a job that does not say
    options: tuple[str, ...] = key(values.texts, ())  # further ones of sbatch
    env: tuple[str, ...] = key(values.texts_without(values.problem_with_variable), ())
    """Names of variables of bgd that Slurm's programs get, such as LD_LIBRARY_PATH."""
    requests_per_second: float = key(values.of(RequestRate), 2.0)  # to Slurm's controller
    nodes: int = key(values.of(PilotNodes), 0)  # the most that pilots take; 0: as many as jobs need
    node_cpus: int = key(values.of(NodeCpus), 0)  # that a pilot has on its node; 0: the whole node
    keep_idle: float = key(
        values.of(spec.Duration), 60.0
    )  # seconds until a pilot without a job gives its node back


_RETRY: dict[str, Key[object]] = {  # a RetryPolicy; its other fields come from a job
    "retries": Key(values.of(spec.Retries), 3),
    "delay": Key(values.of(spec.RetryDelay), 5.0),
    "backoff": Key(values.of(spec.Backoff), 1.0),
    "max_delay": Key(values.of(spec.Duration), 3600.0),
    "jitter": Key(values.of(spec.Share), 0.1),
}

_CLASSES: dict[str, Key[object]] = {  # a ClassPolicy; None: the policy does not say
    **{key: Key(values.job_option(name), None) for key, name in POLICY_KEYS.items()},
    "on_exceptions": Key(values.exception_rules, None),
    "pause_after": Key(values.failure_rate, None),
    "pause_for": Key(values.of(spec.Timeout), PAUSE_FOR),
}

_NOT_SCHEDULED = spec.NOT_SCHEDULED | {"jitter", "input"}  # in a schedule jitter is about its own time

_SCHEDULES: dict[str, Key[object]] = {  # a ScheduleSpec with its JobSpec; None: it is not given
    **{name: Key(values.job_option(name), None) for name in spec.OPTIONS if name not in _NOT_SCHEDULED},
    "cwd": Key(values.absolute_path, None),
    "stdin": Key(values.absolute_path, None),
    "command": Key(values.texts, None),
    "target": Key(values.text, None),
    "args": Key(values.table_or_list(list, '["one", 2]'), None),
    "kwargs": Key(values.table_or_list(dict, "{ copies = 2 }"), None),
    "cron": Key(values.text, None),
    "calendar": Key(values.text, None),
    "every": Key(values.text, None),
    "timezone": Key(values.time_zone, None),
    "overlap": Key(values.one_of(*Overlap), Overlap.SKIP),
    "missed": Key(values.one_of(*Missed), Missed.CRON),
    "missed_within": Key(values.of(spec.Timeout), DAY),
    "jitter": Key(values.of(spec.Duration), 0.0),
    "late_after": Key(values.of(spec.Timeout), None),
    "except": Key(values.texts, ()),
    "env_pass": Key(values.of(PassedVariables), None),
    "paused": Key(values.of(bool), False),
}

SCHEMA: Schema = {
    "daemon": keys_of(DaemonConfig),
    "http": keys_of(HttpConfig),
    "retry": {**_RETRY, "commands": _RETRY},
    "security": keys_of(SecurityConfig),
    "python": keys_of(PythonConfig),
    "logs": keys_of(LogsConfig),
    "backup": keys_of(BackupConfig),
    "retention": keys_of(RetentionConfig),
    "queues": {ANY: keys_of(QueueConfig)},
    "classes": {ANY: _CLASSES},
    "runners": {ANY: keys_of(RunnerConfig)},
    "executors": {ANY: keys_of(ExecutorConfig)},
    "resources": {ANY: Key(values.resource_tokens)},
    "schedules": {ANY: _SCHEDULES},
    "notify": {ANY: keys_of(NotifyTarget)},
}


# --- from settings to a Config ----------------------------------------------------------------------------


def _config(found: Mapping[str, Setting], places: DaemonPaths, source: str | None) -> Config:
    ports = 1 if places is SYSTEM_PATHS else PORTS  # a proxy in front of the machine's pages knows one port
    daemon, places = _daemon(found, places)
    http = _section(found, "http", HttpConfig, ports=ports)
    for name in ("user_header", "host"):
        if getattr(http, name) and isinstance(http.listen, TcpAddress):
            raise found[f"http.{name}"].problem(
                'needs [http] listen = "unix:/path": a port has a name of its own, and every program of this'
                " machine can send headers to it"
            )
    executors = dict(_executors(found, daemon.state_dir))
    retry = RetryPolicy(**read_section(found, "retry", _RETRY))
    of_commands = read_section(found, "retry.commands", _RETRY, **{**asdict(retry), "retries": 0})
    notify = dict(_notify_targets(found))
    sections = [f"{kind}.{each}" for kind in ("schedules", "classes") for each in names_in(found, kind)]
    for name in (f"{section}.notify" for section in ("daemon", *sections)):
        if (setting := found.get(name)) is not None and setting.value and setting.value not in notify:
            raise setting.problem(no_target(str(setting.value), notify))
    return Config(
        daemon=daemon,
        http=http,
        retry=retry,
        retry_commands=RetryPolicy(**of_commands),
        security=_section(found, "security", SecurityConfig),
        python=_section(found, "python", PythonConfig, interpreter=sys.executable),
        runners=dict(_runners(found)),
        logs=_section(found, "logs", LogsConfig),
        retention=_section(found, "retention", RetentionConfig),
        backup=_section(found, "backup", BackupConfig, folder=f"{daemon.state_dir}/backups"),
        executors=executors,
        resources=dict(_resources(found)),
        queues=dict(_queues(found, executors)),
        classes=dict(_class_policies(found)),
        schedules=dict(_schedules(found)),
        notify=notify,
        log_dir=places.log_dir,
        source=source,
    )


def _daemon(found: Mapping[str, Setting], places: DaemonPaths) -> tuple[DaemonConfig, DaemonPaths]:
    """Return [daemon], and the places of everything below its state folder."""
    daemon = _section(
        found, "daemon", DaemonConfig, state_dir=places.state_dir, socket="", slots=_processors()
    )
    if daemon.state_dir != places.state_dir:
        places = paths_in(daemon.state_dir, places)
    if not daemon.socket:
        daemon = replace(daemon, socket=places.socket)
    check_socket(daemon.socket, "set [daemon] socket to a shorter path")
    check_socket(f"{daemon.state_dir}/launcher.sock", "set [daemon] state_dir to a shorter path")
    return daemon, places


def _section(found: Mapping[str, Setting], name: str, kind: type[S], **given: object) -> S:
    """Return a section; `given` are its defaults that depend on something, and fields that are not keys."""
    return kind(**{**given, **read_section(found, name, keys_of(kind), **given)})


def _check_name(name: str, setting: Setting, kind: object, what: str) -> None:
    """Check the name of a table against its annotated type; `setting` is the first one in the table."""
    try:
        msgspec.convert(name, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{setting.origin}: not the name of {what}, which is {requirement(kind)}"
        ) from error


def _queues(
    found: Mapping[str, Setting], executors: Mapping[str, ExecutorConfig]
) -> Iterator[tuple[str, QueueConfig]]:
    for name, setting in names_in(found, "queues").items():
        _check_name(name, setting, spec.QueueName, "a queue")
        if name == spec.NOTIFICATION_QUEUE:
            raise ConfigError(
                f"{setting.origin}: queue {name} is for bgd's own notifications: choose another name"
            )
        queue = _section(found, f"queues.{name}", QueueConfig)
        if queue.executor not in {spec.LOCAL, *executors}:
            origin = found[f"queues.{name}.executor"].origin
            known = nearest(queue.executor, [spec.LOCAL, *executors])
            raise ConfigError(f"{origin}: there is no [executors.{queue.executor}]; {known}")
        yield name, queue


def _executors(found: Mapping[str, Setting], state_dir: str) -> Iterator[tuple[str, ExecutorConfig]]:
    for name, setting in names_in(found, "executors").items():
        section = f"executors.{name}"
        _check_name(name, setting, spec.ExecutorName, "an executor")
        if name == spec.LOCAL:
            raise ConfigError(
                f"{setting.origin}: the executor {spec.LOCAL} is always there and cannot be changed"
            )
        folder = f"{state_dir}/executors/{name}"
        executor = _section(found, section, ExecutorConfig, folder=folder, python=sys.executable)
        own = {"kind", *_KEYS_OF_EXECUTORS[executor.kind]}
        for other in keys_of(ExecutorConfig).keys() - own:
            if f"{section}.{other}" in found:
                origin = found[f"{section}.{other}"].origin
                raise ConfigError(f"{origin}: {other} is not for an executor of kind {executor.kind}")
        if executor.kind is spec.ExecutorKind.PREFIX and not executor.argv:
            raise ConfigError(f"{setting.origin}: [{section}] has no argv: write one such as {_A_PREFIX}")
        if f"{section}.shell" not in found:  # ssh may stand behind another program, such as nice
            executor = replace(
                executor, shell=any(word.rpartition("/")[2] == "ssh" for word in executor.argv)
            )
        yield name, executor


_KEYS_OF_EXECUTORS: dict[spec.ExecutorKind, set[str]] = {
    spec.ExecutorKind.LOCAL: set(),
    spec.ExecutorKind.PREFIX: {"argv", "shell"},
    spec.ExecutorKind.SLURM: keys_of(ExecutorConfig).keys() - {"kind", "argv", "shell"},
}


def _resources(found: Mapping[str, Setting]) -> Iterator[tuple[str, tuple[str, ...]]]:
    section = "resources."
    for path in [path for path in found if path.startswith(section)]:
        name, setting = path.removeprefix(section), found[path]
        _check_name(name, setting, spec.ResourceName, "a resource")
        yield name, read_section(found, "resources", {name: Key(values.resource_tokens)})[name]


def _class_policies(found: Mapping[str, Setting]) -> Iterator[tuple[str, ClassPolicy]]:
    for pattern, setting in names_in(found, "classes").items():
        problem = problem_with_entry(pattern)
        if problem is not None:
            raise ConfigError(f"{setting.origin}: {problem}")
        read = read_section(found, f"classes.{pattern}", _CLASSES)
        options = {name: read[key] for key, name in POLICY_KEYS.items() if read[key] is not None}
        if "limit" in options and (problem := problem_with_template(options["limit"][0])):
            raise ConfigError(f"{found[f'classes.{pattern}.limit'].origin}: {problem}")
        yield pattern, ClassPolicy(options, read["on_exceptions"], read["pause_after"], read["pause_for"])


def _runners(found: Mapping[str, Setting]) -> Iterator[tuple[str, RunnerConfig]]:
    for name, setting in names_in(found, "runners").items():
        if not is_runner_name(name):
            raise ConfigError(
                f"{setting.origin}: {name!r} is not the name of a runner: "
                "a small letter, then small letters, digits, _ and -, at most 32"
            )
        runner = _section(found, f"runners.{name}", RunnerConfig, argv=())
        if not runner.argv:
            raise ConfigError(
                f"{setting.origin}: [runners.{name}] has no argv: "
                f"name a program and its arguments, for example {_A_RUNNER}"
            )
        yield name, runner


def _notify_targets(found: Mapping[str, Setting]) -> Iterator[tuple[str, NotifyTarget]]:
    targets = names_in(found, "notify")
    for name, setting in targets.items():
        _check_name(name, setting, spec.NotifyName, "a target of notifications")
        if len(targets) > MAX_TARGETS:
            raise ConfigError(f"{setting.origin}: {len(targets)} targets are over the limit of {MAX_TARGETS}")
        target = _section(found, f"notify.{name}", NotifyTarget)
        if sum(each is not None for each in (target.program, target.mail, target.url)) != 1:
            raise ConfigError(
                f"{setting.origin.rpartition('.')[0]}: a target has either program, mail or url"
            )
        yield name, target


def _schedules(found: Mapping[str, Setting]) -> Iterator[tuple[str, ScheduleSpec]]:
    for name, setting in names_in(found, "schedules").items():
        _check_name(name, setting, ScheduleName, "a schedule")
        read = read_section(found, f"schedules.{name}", _SCHEDULES)
        try:
            yield name, _schedule(read)
        except ValueError as error:
            raise ConfigError(f"{setting.origin.rpartition('.')[0]}: {error}") from error


def _schedule(read: dict[str, Any]) -> ScheduleSpec:
    """Return a schedule; raise ValueError if its keys do not fit each other."""
    if (read["command"] is None) == (read["target"] is None):
        raise ValueError("a schedule has either command or target")
    given = {name: value for name, value in read.items() if value is not None}
    arguments = {name: given.pop(name) for name in ("args", "kwargs") if name in given}
    options = {name: given.pop(name) for name in spec.OPTIONS if name in given and name not in _NOT_SCHEDULED}
    job = spec.JobSpec(
        argv=given.pop("command", None),
        target=given.pop("target", None),
        arguments=msgspec.json.encode({"args": [], "kwargs": {}} | arguments).decode() if arguments else None,
        explicit_env=tuple(options.get("env", ())),
        **options,
    )
    schedule = ScheduleSpec(job=job, excluded=given.pop("except", ()), **given)
    from bgd.core.schedules import problem_with_schedule  # noqa: PLC0415 - most configurations have no schedule

    problem = problem_with_schedule(schedule)
    if problem is not None:
        raise ValueError(problem)
    try:  # a Struct does not check what it is given; the next start would refuse to read it
        return msgspec.convert(msgspec.to_builtins(schedule), ScheduleSpec)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        raise ValueError(f"{path.rstrip('`').removeprefix('job.')}: {problem}") from error
