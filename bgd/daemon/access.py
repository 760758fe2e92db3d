"""Who may do what, and which jobs may run at all: every door asks here."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct

from msgspec import Struct

from bgd.config import Config
from bgd.core.spec import JobSpec
from bgd.core.target import RunnerTarget, is_allowed, parse_target, patterns_for
from bgd.errors import NotAllowed, Refused
from bgd.settings import nearest
from bgd.wire.calls import problem_with_arguments

logger = logging.getLogger(__name__)

_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)

ANY_COMMAND = "*"


class Actor(Struct, frozen=True):
    """Who asks: the uid that the kernel told of the other end of a socket, never what a message says."""

    uid: int


def peer_of(transport: asyncio.BaseTransport) -> Actor:
    """Return who the kernel says connected; a user that nobody is if it will not say."""
    peer = transport.get_extra_info("socket")
    try:
        _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError:
        logger.exception("the kernel does not name the other end of a connection")
        return Actor(uid=-1)
    return Actor(uid)


def may_connect(actor: Actor, daemon_uid: int) -> bool:
    """Tell whether `actor` is let in; who is let in may do everything to every job.

    The daemon serves its own user, and root, who could take its files anyway; nobody else.
    """
    return actor.uid in (daemon_uid, 0)


def check_may_run(spec: JobSpec, config: Config) -> None:
    """Judge a job's text against the configuration, before anything of it is imported or started.

    Raises:
        Refused: the target is none, or its arguments are.
        NotAllowed: it is not on the list; the message names the key and the file.
    """
    if spec.target is not None:
        _check_call(spec.target, spec, config)
    elif spec.argv is not None:
        allowed = config.security.allowed_commands
        if restricts_commands(config) and spec.argv[0] not in allowed:
            raise NotAllowed(
                f"{spec.argv[0]!r} is not in [security] allowed_commands of {_file(config)}: "
                "programs stand there by their absolute path, and are submitted by it"
            )


def check_variables(spec: JobSpec, config: Config) -> None:
    """Refuse a variable that the job may not bring, if somebody chose it.

    That is every variable of a class job. A command may have brought its caller's whole environment: of this,
    what does not pass is dropped when an attempt starts.

    Raises:
        NotAllowed: the message names the variable and the key.
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
            f"name it in {key} of {_file(config)}, then `bgctl reload`"
        )


def allowed_environment(spec: JobSpec, config: Config) -> dict[str, str]:
    """Return the variables that a job brings and may bring; any can steer the code of a program."""
    given = spec.env or {}
    if spec.target is not None:
        allowed = config.python.env
    elif restricts_commands(config):
        allowed = config.security.allowed_env
    else:
        return given
    return {name: value for name, value in given.items() if name in allowed}


def restricts_commands(config: Config) -> bool:
    return ANY_COMMAND not in config.security.allowed_commands


def _check_call(text: str, spec: JobSpec, config: Config) -> None:
    try:
        target = parse_target(text)
    except ValueError as error:
        raise Refused(str(error)) from error
    if isinstance(target, RunnerTarget):
        _check_runner(target, spec, config)
    if not is_allowed(target, config.security.allowed_classes):
        narrowest, *_, widest = map(_in_toml, patterns_for(target))
        raise NotAllowed(
            f"{text} is not in [security] allowed_classes of {_file(config)}: "
            f"add {narrowest} there, or {widest}, then `bgctl reload`"
        )
    problem = None if spec.arguments is None else problem_with_arguments(spec.arguments)
    if problem is not None:
        raise Refused(problem)


def _check_runner(target: RunnerTarget, spec: JobSpec, config: Config) -> None:
    if target.runner not in config.runners:
        known = nearest(target.runner, config.runners) if config.runners else "it names no runner"
        raise NotAllowed(f"{target}: there is no [runners.{target.runner}] in {_file(config)}; {known}")
    if spec.isolation is not None:
        raise Refused(f"{target}: isolation is for class jobs of Python, and this is one of a runner")
    given = "cwd" if spec.cwd is not None else next(iter(spec.env or ()), None)
    if given is not None:  # in each language others of them decide what is loaded
        raise NotAllowed(
            f"a job of a runner takes no {given} from outside: it may decide what code is run, "
            f"which is for [runners.{target.runner}] of the configuration to say"
        )


def _in_toml(entry: str) -> str:
    """Return a text of TOML in which a backslash is one."""
    return f"'{entry}'" if "\\" in entry else f'"{entry}"'


def _file(config: Config) -> str:
    return config.source or "the configuration (no file yet: make ~/.config/bgd/bgd.toml)"
