"""Access control for both sockets and the pages: which users may connect, and which jobs may run."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
import struct
import sys
from collections.abc import Iterable
from functools import lru_cache

from bgd.core.conditions import expires_first
from bgd.core.job import Conditions, Now
from bgd.core.spec import MAX_ALL_WAITS, NOTIFICATION_QUEUE, JobSpec
from bgd.core.target import (
    PythonTarget,
    RunnerTarget,
    Target,
    is_allowed,
    key_from,
    parse_target,
    patterns_for,
)
from bgd.daemon.storage.records import UNREADABLE
from bgd.errors import Full, NotAllowed, Refused, nearest
from bgd.settings.config import Config, no_target
from bgd.settings.values import ANY_COMMAND
from bgd.system.mounts import own_mounts
from bgd.wire.class_jobs import problem_with_arguments, with_results

logger = logging.getLogger(__name__)

MAX_KEPT_KEYS = 1_000_000  # of jobs that have ended, some 300 bytes of memory each

_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


@lru_cache(1024)
def user_name(uid: int) -> str:
    """Return the name of a user, or the number if there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def peer_of(transport: asyncio.BaseTransport) -> tuple[int, int]:
    """Return the pid and the uid of the process that has connected; -1 if the kernel does not know them."""
    peer = transport.get_extra_info("socket")
    try:
        pid, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError:
        logger.exception("the kernel does not name the user at the other end of a connection")
        return -1, -1
    return int(pid), int(uid)


def may_connect(uid: int, daemon_uid: int) -> bool:
    """Return whether a user may use the daemon; a user who may use it may do everything to every job.

    The daemon serves only its own user, and root, which could read its files anyway.
    """
    return uid in {daemon_uid, 0}


def check_may_run(spec: JobSpec, config: Config) -> None:
    """Check a job's spec against the configuration, before any of its code is imported or started.

    Only bgd itself makes jobs of the queue of notifications, so no list has to allow these.

    Raises:
        Refused: the target or its arguments are malformed.
        NotAllowed: the job is not on the list; the message names the key and the file.
    """
    if spec.argv == UNREADABLE.argv:
        raise Refused("what it was to run cannot be read in the database: submit it again")
    if spec.target is not None:
        _check_call(spec.target, spec, config)
    elif spec.argv is not None and restricts_commands(config) and spec.queue != NOTIFICATION_QUEUE:
        if spec.argv[0] not in config.security.allowed_commands:
            raise NotAllowed(
                f"{spec.argv[0]!r} is not in [security] allowed_commands of {config_file(config)}: "
                "list programs there by absolute path, and submit them by that path"
            )
        if spec.slurm_options:
            raise NotAllowed(
                f"[security] allowed_commands of {config_file(config)} lists programs, and slurm_options"
                " could change what they run: set them in `options` of the executor"
            )


def check_keys(spec: JobSpec, kept: int) -> None:
    """Check the key of a limit, and that there is room for a key that stays after the end of its job.

    `kept`: how many such keys there are.

    Raises:
        Refused: a class job lacks an argument of the key of its limit.
        Full: there are too many keys.
    """
    if spec.key_for is not None and kept >= MAX_KEPT_KEYS:
        raise Full(
            f"{MAX_KEPT_KEYS} finished jobs still have their keys (key_for): try again when some have expired"
        )
    if spec.limit is not None and spec.target is not None:
        try:
            key_from(spec.limit[0], spec.arguments)
        except ValueError as error:
            raise Refused(f"limit {error}") from error


def check_dependencies(specs: Iterable[JobSpec], waits: int) -> None:
    """Check that there is room for the dependencies of new jobs; `waits`: how many there are.

    Raises:
        Full: all jobs together would have too many.
    """
    wanted = sum(len({*spec.after, *spec.after_any}) for spec in specs if spec.after or spec.after_any)
    if wanted and waits + wanted > MAX_ALL_WAITS:
        raise Full(
            f"all jobs together may have {MAX_ALL_WAITS} dependencies, and have {waits}: "
            "try again when some jobs have ended"
        )


def check_expiry(due: float | None, wanted: Conditions, at: Now) -> None:
    """Refuse a job that expires before it may start; `due` as in Job.

    Raises:
        Refused: it does.
    """
    if expires_first(due, wanted, at):
        raise Refused("it would expire before it may start: expires counts from now, too")


def check_resources(spec: JobSpec, config: Config) -> None:
    """Refuse a job that asks for more tokens of a resource than the configuration has.

    Raises:
        Refused: there is no such resource, or there are fewer tokens.
    """
    for name, wanted in (spec.resources or {}).items():
        if name not in config.resources:
            known = nearest(name, config.resources) if config.resources else "no resource is configured"
            raise Refused(f"there is no resource {name} in [resources] of {config_file(config)}; {known}")
        if wanted > (total := len(config.resources[name])):
            raise Refused(
                f"the job asks for {wanted} {name}: [resources] of {config_file(config)} has {total}"
            )


def check_variables(spec: JobSpec, config: Config) -> None:
    """Refuse environment variables that were set for the job but are not allowed.

    All variables of a class job are set on purpose. A command may come with its caller's whole environment:
    variables of that which are not allowed are dropped when an attempt starts.

    Raises:
        NotAllowed: a variable is not allowed; the message names it and the key.
    """
    if spec.target is not None:
        foreign, kind, key = set(spec.env or ()) - set(config.python.env), "class job", "[python] env"
    elif restricts_commands(config):
        foreign = set(spec.explicit_env) - set(config.security.allowed_env)
        kind, key = "command", "[security] allowed_env"
    else:
        return
    if foreign:
        raise NotAllowed(
            f"a {kind} takes no {min(foreign)} from outside: "
            f"name it in {key} of {config_file(config)}, then `bgctl reload`"
        )


def check_target(name: str, config: Config) -> None:
    """Refuse a job with a notify target that is not configured.

    Raises:
        Refused: there is no such target.
    """
    if not config.notify:
        raise Refused(
            f"there is no [notify.{name}] in {config_file(config)}: add the lines `[notify.{name}]` and "
            '`mail = "root"` there, then `bgctl reload`'
        )
    if name not in config.notify:
        raise Refused(no_target(name, config.notify))


def allowed_environment(spec: JobSpec, config: Config) -> dict[str, str]:
    """Return the job's variables that are allowed, as any variable may change what code a program runs."""
    given = spec.env or {}
    if spec.target is not None:
        allowed = config.python.env
    elif restricts_commands(config):
        allowed = config.security.allowed_env
    else:
        return given
    return {name: value for name, value in given.items() if name in allowed}


def restricts_commands(config: Config) -> bool:
    """Return whether only listed commands may run."""
    return ANY_COMMAND not in config.security.allowed_commands


def _check_call(text: str, spec: JobSpec, config: Config) -> None:
    try:
        target = parse_target(text)
    except ValueError as error:
        raise Refused(str(error)) from error
    if isinstance(target, RunnerTarget):
        _check_runner(target, spec, config)
    if not is_allowed(target, config.security.allowed_classes):
        entry = _in_toml(patterns_for(target)[0])
        raise NotAllowed(
            f"{text} is not in [security] allowed_classes of {config_file(config)}: "
            f"add {entry} there, then `bgctl reload`{_where_is(target, config)}"
        )
    problem = None if spec.arguments is None else problem_with_arguments(spec.arguments)
    if problem is not None:
        raise Refused(problem)
    if spec.references:
        try:
            with_results(spec.arguments, spec.references)
        except ValueError as error:
            raise Refused(str(error)) from error


def _where_is(target: Target, config: Config) -> str:
    """Say whether a module is on [python] path, by its files: the entry alone does not make it importable."""
    module = target.module if isinstance(target, PythonTarget) else "sys"
    if module.partition(".")[0] in sys.stdlib_module_names:
        return ""
    name = module.replace(".", "/")
    for folder in config.python.path:
        places = [os.path.join(folder, name), os.path.join(folder, f"{name}.py")]  # noqa: PTH118
        if not own_mounts().folder_that_may_hang(folder) and any(map(os.path.exists, places)):
            return f"; {module} is on [python] path, in {folder}"
    return (
        f"; {module} is not on [python] path: add its folder there, unless the interpreter has it installed"
    )


def _check_runner(target: RunnerTarget, spec: JobSpec, config: Config) -> None:
    if target.runner not in config.runners:
        known = nearest(target.runner, config.runners) if config.runners else "it names no runner"
        raise NotAllowed(f"{target}: there is no [runners.{target.runner}] in {config_file(config)}; {known}")
    if spec.isolation is not None:
        raise Refused(f"{target}: isolation is for Python class jobs, and this is a runner's job")
    given = "cwd" if spec.cwd is not None else next(iter(spec.env or ()), None)
    if given is not None:  # which of these decide what is loaded depends on the language
        raise NotAllowed(
            f"a runner's job takes no {given} from outside, because it may decide what code runs: "
            f"set it in [runners.{target.runner}] of the configuration"
        )


def _in_toml(entry: str) -> str:
    """Return a TOML string in which a backslash stands for itself."""
    return f"'{entry}'" if "\\" in entry else f'"{entry}"'


def config_file(config: Config) -> str:
    """Return the name of the configuration for messages."""
    return config.source or "the configuration (no file yet: make ~/.config/bgd/bgd.toml)"
