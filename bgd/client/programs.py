"""Checks that a command could start, before it is queued."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from bgd.client.specs import Caller, changes_of, command_spec
from bgd.core.spec import FOLLOW_UPS, LOCAL, JobSpec, is_target
from bgd.errors import Refused
from bgd.settings.paths import find_program
from bgd.wire.requests import Changes

if TYPE_CHECKING:
    from pathlib import Path

    from bgd.client.options import EditOptions, JobOptions


class CannotStart(Refused):
    """A command that could not start. `problem` says why, the message also what to do."""

    def __init__(self, message: str, problem: str = "") -> None:
        super().__init__(message)
        self.problem = problem


def checked_command(argv: Sequence[str | os.PathLike[str]], options: JobOptions) -> JobSpec:
    """Return the spec of a command with the caller's environment, unless the options name another.

    Raises:
        Refused: a value is out of range, or the program, its folder or its input is missing.
    """
    caller = Caller()
    spec = command_spec(argv, options, caller)
    if options.get("check", True):
        check_command(list(spec.argv or ()), options, caller)
    return spec if spec.env is not None else replace(spec, env=caller.environment)


def check_command(argv: list[str], options: JobOptions, caller: Caller) -> None:
    """Refuse a command whose program, folder or input is missing, for the caller with these options."""
    if not (argv and argv[0]):
        raise Refused("argv is empty: it is a program and its arguments, such as ['ls', '-l']")
    folder, extra = options.get("cwd"), options.get("env") or {}
    path = extra.get("PATH", caller.chosen_environment(options.get("env_pass") or "all").get("PATH"))
    problem, advice = _problem_with_places(options, caller) if options else None, ""
    is_elsewhere = options.get("executor") not in {None, LOCAL}  # where the program may be another one
    if problem is None and not is_elsewhere:
        where = caller.folder if folder is None else str(caller.absolute(folder))
        problem = problem_with_program(argv[0], path, where)
        if problem is not None and len(argv) == 1 and " " in argv[0].strip():
            advice = ": make each word an item of the list, or use shell=True"
        if options and problem is None:  # most submits have no options
            problem = problem_with_follow_ups(follow_ups_of(options), path, where)
    if problem is not None:
        raise CannotStart(f"{problem}{advice}; check=False queues it anyway", problem)


def is_relative(changes: EditOptions) -> bool:
    """Return whether changes name a program by a path that starts where the job runs."""
    argv = changes.get("argv") or ("",)
    program = os.fspath(argv[0])
    return "/" in program and not program.startswith("/") and changes.get("cwd") is None


def checked_changes(changes: EditOptions, folder: str | None, *, check: bool = True) -> Changes:
    """Return changes to a job; with `check`, refuse them if a new program, folder or input is missing.

    The program is looked up on the caller's PATH, because that of the job is unknown.

    Args:
        changes: what becomes of the job.
        folder: where the job runs, for a program `is_relative`; None: not known, so it is not looked for.
        check: whether to look for program, folder and input.
    """
    caller = Caller()
    given = changes_of(changes, caller)
    problem = _problem_with_places(changes, caller) if check else None
    argv = changes.get("argv") if check else None
    if problem is None and argv and not (is_relative(changes) and folder is None):
        path = (changes.get("env") or {}).get("PATH", caller.environment.get("PATH"))
        where = changes.get("cwd") or folder or "/"
        problem = problem_with_program(os.fspath(argv[0]), path, str(caller.absolute(where)))
    if problem is None and check:
        there = str(caller.absolute(changes["cwd"])) if changes.get("cwd") else folder
        problem = problem_with_follow_ups(follow_ups_of(changes), caller.environment.get("PATH"), there)
    if problem is not None:
        raise CannotStart(f"{problem}; check=False changes it anyway", problem)
    return given


def problem_with_follow_ups(
    commands: Mapping[str, Sequence[str | os.PathLike[str]] | Callable[..., object] | None],
    path: str | None,
    folder: str | None,
) -> str | None:
    """Return which follow-up command cannot run with this $PATH in this folder, and why; None if all can.

    Args:
        commands: words by the names of their options; targets and functions are not looked for.
        path: a $PATH.
        folder: None: not known, so that relative paths are not looked for.
    """
    for name, words in commands.items():
        if not isinstance(words, list | tuple) or not words or is_target(tuple(words)):
            continue
        program = os.fspath(words[0])
        if folder is None and "/" in program and not program.startswith("/"):
            continue
        if problem := problem_with_program(program, path, folder or "/"):
            return f"{name}: {problem}"
    return None


def follow_ups_of(options: JobOptions | EditOptions) -> dict[str, Any]:
    """Return the value of each follow-up option; None for those that are not given."""
    return {name: options.get(name) for name in FOLLOW_UPS}


def _problem_with_places(options: JobOptions | EditOptions, caller: Caller) -> str | None:
    """Return what is wrong with the folder or the input that are given; None if nothing is."""
    folder, source = options.get("cwd"), options.get("stdin")
    try:
        if folder is not None and not (path := caller.absolute(folder)).is_dir():
            return f"{path} is not a folder" if path.exists() else f"folder {path} does not exist"
        return _problem_with_input(caller.absolute(source)) if source else None
    except OSError as error:  # for example a folder without search permission
        return f"{error.filename}: {error.strerror}"


def problem_with_program(name: str, path: str | None, folder: str) -> str | None:
    """Return why a program cannot be run with this $PATH in this folder; None if it can."""
    try:
        _find(name, path, folder)
    except OSError as error:
        return _problem_with_found(error, name, folder)
    return None


@lru_cache(maxsize=100)
def _find(name: str, path: str | None, folder: str) -> None:
    """Find a program; only successes are cached, and a program that disappears fails at its start."""
    find_program(name, {} if path is None else {"PATH": path}, folder)


def _problem_with_found(error: OSError, name: str, folder: str) -> str:
    from pathlib import Path  # noqa: PLC0415 - most programs are there, and bgctl starts often

    if isinstance(error, PermissionError):
        return _problem_with_file(Path(error.filename))
    return f"{Path(folder, name)} does not exist" if "/" in name else f"no program {name!r} on its PATH"


def _problem_with_file(path: Path) -> str:
    try:
        is_folder = path.is_dir()
    except PermissionError as error:
        return f"{path} cannot be inspected: {error.strerror}"
    if is_folder:
        return f"{path} is a folder, not a program"
    return f"{path} is not executable (try chmod +x)"


def _problem_with_input(path: Path) -> str | None:
    """Return why a command cannot read this file; None if it can."""
    if not path.exists():
        return f"file {path} does not exist"
    if path.is_dir():
        return f"{path} is a folder, not a file"
    return None if os.access(path, os.R_OK) else f"you may not read {path}"
