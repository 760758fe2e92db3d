"""Configuration: read once from a file and the environment into a frozen Config, or refused in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from bgd import policies, runners, values
from bgd.addresses import MAX_SOCKET_PATH, PORTS, HttpConfig, http_config
from bgd.core.classes import ClassPolicy
from bgd.core.job import RetryPolicy
from bgd.core.spec import QUEUE_NAME, Backoff, QueueName, Retries, Share
from bgd.core.target import problem_with_entry
from bgd.errors import ConfigError
from bgd.interpreters import PythonConfig, python_config
from bgd.keeping import BackupConfig, Bytes, RetentionConfig, backup_config, retention_config
from bgd.paths import SYSTEM_PATHS, DaemonPaths, home_folder, paths_in, user_paths
from bgd.runners import RunnerConfig
from bgd.settings import ANY, Schema, Setting, from_environment, from_file, read
from bgd.wire.steering import ShutdownMode

__all__ = [
    "BackupConfig",
    "ClientSocket",
    "Config",
    "DaemonConfig",
    "LogsConfig",
    "PythonConfig",
    "QueueConfig",
    "RetentionConfig",
    "SecurityConfig",
    "client_sockets",
    "load",
]

MAX_SLOTS = 10_000
MIN_LOG = 1_000  # bytes; less would keep no line whole
ANY_COMMAND = "*"

Slots = Annotated[int, Meta(ge=1, le=MAX_SLOTS)]
LogBytes = Annotated[int, Meta(ge=MIN_LOG, le=2**62)]


class DaemonConfig(Struct, frozen=True, kw_only=True):
    state_dir: str
    socket: str
    slots: int
    grace: float  # seconds between TERM and KILL
    min_free: int | None  # bytes on its disk below which new jobs are refused; None: by the disk's size
    on_stop: ShutdownMode  # what SIGTERM does to running jobs; never CANCEL
    cgroups: Literal["limits", "all"]  # which attempts get a control group, where that can be had


class SecurityConfig(Struct, frozen=True, kw_only=True):
    allowed_classes: tuple[str, ...]
    allowed_commands: tuple[str, ...]
    allowed_env: tuple[str, ...]  # variables that commands may bring where allowed_commands is not "*"


class LogsConfig(Struct, frozen=True, kw_only=True):
    max_bytes: int  # of one attempt
    on_limit: Literal["truncate", "kill"]


class QueueConfig(Struct, frozen=True, kw_only=True):
    slots: int | None  # None: no limit but the daemon's


class Config(Struct, frozen=True, kw_only=True):
    """Everything the configuration decides. Paths are absolute, durations seconds."""

    daemon: DaemonConfig
    http: HttpConfig
    retry: RetryPolicy  # of class jobs
    retry_commands: RetryPolicy
    security: SecurityConfig
    python: PythonConfig
    runners: dict[str, RunnerConfig]
    logs: LogsConfig
    retention: RetentionConfig
    backup: BackupConfig
    queues: dict[str, QueueConfig]
    classes: dict[str, ClassPolicy]  # by patterns, as in allowed_classes
    log_dir: str
    source: str | None  # the file read, None: built-in defaults


class ClientSocket(Struct, frozen=True):
    """A socket a client may try. `is_own`: it is the caller's own daemon's, who may start it.

    `is_explicit`: the caller named it, so whoever serves it is trusted.
    """

    path: str
    is_own: bool
    is_explicit: bool = False


def load(path: str | None = None, *, system: bool = False, environ: Mapping[str, str] = os.environ) -> Config:
    """Read `path`, else $BGD_CONFIG, else the usual file if there is one, and what the environment overrides.

    `system` picks the machine's usual places instead of the caller's own.

    Raises:
        ConfigError: in one line, which file and key, and what would do.
    """
    named = path or environ.get("BGD_CONFIG")
    places = SYSTEM_PATHS if system else user_paths(environ)
    file = str(Path(named or places.config).absolute())
    source: str | None = file
    try:
        found = from_file(file, SCHEMA)
    except FileNotFoundError:
        if named:
            raise ConfigError(f"there is no configuration file {file}") from None
        source, found = None, {}
    found |= from_environment(environ, SCHEMA)
    return _config(found, places, home_folder(environ), source)


def client_sockets(
    explicit: str | None = None,
    *,
    config: str | None = None,
    user: bool = False,
    system: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[ClientSocket]:
    """Yield the sockets a client tries, the first that answers wins.

    `explicit` (--socket), else $BGD_SOCKET, else the caller's own daemon's, then the system's; `user` and
    `system` leave only the one, as does a configuration that is named. Each is worked out only when it is
    asked for, so a system's configuration that is broken does not trouble who runs a daemon of their own.

    Raises:
        ConfigError: as `load`.
    """
    given = explicit or (None if user or system or config else environ.get("BGD_SOCKET"))
    if given:
        _check_socket(given, "give another --socket or BGD_SOCKET")
        yield ClientSocket(str(Path(given).absolute()), is_own=False, is_explicit=True)
        return
    own = None
    if not system:
        own = load(config, environ=environ).daemon.socket
        yield ClientSocket(own, is_own=True)
    if system or not (user or config or environ.get("BGD_CONFIG")):
        shared = load(config, system=True, environ=environ).daemon.socket
        if shared != own:  # the environment may have named one for both
            yield ClientSocket(shared, is_own=False)


# --- from settings to values ------------------------------------------------------------------------------

_RETRY_KEYS = dict.fromkeys(("retries", "delay", "backoff", "max_delay", "jitter"))  # the rest is a job's own

SCHEMA: Schema = {
    "daemon": dict.fromkeys(DaemonConfig.__struct_fields__),
    "http": {"listen": None, "auth": None},
    "retry": {**_RETRY_KEYS, "commands": _RETRY_KEYS},
    "security": dict.fromkeys(SecurityConfig.__struct_fields__),
    "python": dict.fromkeys(PythonConfig.__struct_fields__),
    "logs": dict.fromkeys(LogsConfig.__struct_fields__),
    "backup": dict.fromkeys(BackupConfig.__struct_fields__),
    "retention": dict.fromkeys(RetentionConfig.__struct_fields__),
    "queues": {ANY: dict.fromkeys(QueueConfig.__struct_fields__)},
    policies.SECTION: {ANY: dict.fromkeys(policies.KEYS)},
    runners.SECTION: {ANY: dict.fromkeys(runners.KEYS)},
}

_ON_STOP = {mode.value: mode for mode in ShutdownMode if mode is not ShutdownMode.CANCEL}
_CGROUPS: dict[str, Literal["limits", "all"]] = {"limits": "limits", "all": "all"}
_ON_LIMIT: dict[str, Literal["truncate", "kill"]] = {"truncate": "truncate", "kill": "kill"}


def _config(found: Mapping[str, Setting], places: DaemonPaths, home: str, source: str | None) -> Config:
    ports = 1 if places is SYSTEM_PATHS else PORTS  # who looks for the machine's pages, as a proxy, knows one
    state_dir = read(found, "daemon.state_dir", values.path(home), places.state_dir)
    if state_dir != places.state_dir:
        places = paths_in(state_dir, places)
    retry = _retry_policy(found, "retry", RetryPolicy(retries=3))
    return Config(
        daemon=_daemon_config(found, state_dir, places.socket, home),
        http=http_config(found, ports),
        retry=retry,
        retry_commands=_retry_policy(found, "retry.commands", replace(retry, retries=0)),
        security=SecurityConfig(
            allowed_classes=read(
                found, "security.allowed_classes", values.texts_without(problem_with_entry), ()
            ),
            allowed_commands=read(
                found,
                "security.allowed_commands",
                values.texts_without(_problem_with_command),
                (ANY_COMMAND,),
            ),
            allowed_env=read(
                found, "security.allowed_env", values.texts_without(values.problem_with_variable), ()
            ),
        ),
        python=python_config(found, home),
        runners=runners.runners(found, home),
        logs=LogsConfig(
            max_bytes=read(found, "logs.max_bytes", values.size(LogBytes), 100_000_000),
            on_limit=read(found, "logs.on_limit", values.one_of(_ON_LIMIT), "truncate"),
        ),
        retention=retention_config(found),
        backup=backup_config(found, state_dir, home),
        queues=dict(_queues(found)),
        classes=policies.class_policies(found),
        log_dir=places.log_dir,
        source=source,
    )


def _daemon_config(found: Mapping[str, Setting], state_dir: str, socket: str, home: str) -> DaemonConfig:
    socket = read(found, "daemon.socket", values.path(home), socket)
    _check_socket(socket, "set [daemon] socket to a shorter path")
    _check_socket(f"{state_dir}/launcher.sock", "set [daemon] state_dir to a shorter path")
    min_free: int | None = None
    processors = len(os.sched_getaffinity(0))
    return DaemonConfig(
        state_dir=state_dir,
        socket=socket,
        slots=read(found, "daemon.slots", values.number_or("auto", processors, Slots), processors),
        grace=read(found, "daemon.grace", values.seconds, 10.0),
        min_free=read(found, "daemon.min_free", values.unless("auto", values.size(Bytes)), min_free),
        on_stop=read(found, "daemon.on_stop", values.one_of(_ON_STOP), ShutdownMode.LEAVE),
        cgroups=read(found, "daemon.cgroups", values.one_of(_CGROUPS), "limits"),
    )


def _retry_policy(found: Mapping[str, Setting], section: str, default: RetryPolicy) -> RetryPolicy:
    return RetryPolicy(
        retries=read(found, f"{section}.retries", values.whole_number(Retries), default.retries),
        delay=read(found, f"{section}.delay", values.seconds, default.delay),
        backoff=read(found, f"{section}.backoff", values.number(Backoff), default.backoff),
        max_delay=read(found, f"{section}.max_delay", values.seconds, default.max_delay),
        jitter=read(found, f"{section}.jitter", values.number(Share), default.jitter),
    )


def _queues(found: Mapping[str, Setting]) -> Iterator[tuple[str, QueueConfig]]:
    for name, setting in found.items():
        if name.startswith("queues."):
            queue = name.removeprefix("queues.").removesuffix(".slots")
            try:
                msgspec.convert(queue, QueueName)
            except msgspec.ValidationError as error:
                raise ConfigError(f"{setting.origin}: no name for a queue, which is {QUEUE_NAME}") from error
            yield (
                queue,
                QueueConfig(slots=read(found, name, values.number_or("unlimited", None, Slots), None)),
            )


def _problem_with_command(entry: str) -> str | None:
    if entry == ANY_COMMAND or entry.startswith("/"):
        return None
    return f'{entry!r} must be "{ANY_COMMAND}" or the absolute path of a program'


def _check_socket(path: str, remedy: str) -> None:
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise ConfigError(
            f"the socket path {path} has {length} bytes, the kernel takes {MAX_SOCKET_PATH}: {remedy}"
        )
