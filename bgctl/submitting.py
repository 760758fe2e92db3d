"""submit, call and run: create jobs."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bgctl.common import client, global_options, print_json, say, verb
from bgctl.options import ARGUMENT, job_options, with_call_options, with_command_options
from bgd import Client, Job, Refused
from bgd.client.options import JobOptions
from bgd.client.specs import Caller, undecodable_names
from bgd.core.spec import MAX_INPUT
from bgd.paths import find_program

T = TypeVar("T")


_program = click.argument("argv", nargs=-1, required=True, metavar="PROGRAM [ARGS]...", type=ARGUMENT)


_no_check = click.option(
    "--no-check", is_flag=True, help="Queue it even if its program or folder is not there."
)


_shell = click.option("--shell", is_flag=True, help="PROGRAM is one text for sh: quote it.")


_wait = click.option("--wait", is_flag=True, help="Wait for the end, and exit with the job's code.")


_follow = click.option("-f", "--follow", is_flag=True, help="Show its output, and exit with the job's code.")


@verb(
    "submit",
    "bgctl submit make -j2",
    "bgctl submit -p 10 --timeout 5m -n nightly -- rsync -a /srv/ /backup/",
    "bgctl submit --retries 3 --retry-delay 30s --backoff 2 ./flaky.sh",
    "bgctl submit --after last --shell 'zcat /srv/*.gz | sort -u > all.txt'",
    ends_options=True,
)
@with_command_options
@_shell
@_no_check
@_wait
@_follow
@_program
def submit_command(
    argv: tuple[str, ...], *, shell: bool, no_check: bool, wait: bool, follow: bool, **given: Any
) -> int:
    """Queue a command and print its id.

    Without --stdin it reads nothing.
    """
    with client(autostart=True) as daemon:
        job = _submit(daemon, argv, given, shell=shell, no_check=no_check)
        _print_id(job)
        _say_if_found(job)
        return _see_it_through(daemon, job, wait=wait, follow=follow)


@verb(
    "call",
    "bgctl call app.services:ExampleService.example_method param1 param2",
    "bgctl call app.reports:build --kw month=2026-10 --retries 0",
    "bgctl call app.mail:send --args '[\"someone@example.org\", 3]' --kwargs '{\"urgent\": true}'",
)
@with_call_options
@_wait
@_follow
@click.option("--kw", "named", multiple=True, metavar="K=V", help="A named argument, a text.")
@click.option("--args", "args_text", metavar="JSON", help="Positional arguments as a JSON array.")
@click.option("--kwargs", "kwargs_text", metavar="JSON", help="Named arguments as a JSON object.")
@click.argument("target")
@click.argument("args", nargs=-1)
def call_command(
    target: str,
    args: tuple[str, ...],
    *,
    named: tuple[str, ...],
    args_text: str | None,
    kwargs_text: str | None,
    wait: bool,
    follow: bool,
    **given: Any,
) -> int:
    """Queue a class job and print its id.

    TARGET is package.module:Class.method or package.module:function, or in another language runner::name or
    runner::name@method. ARGS are texts.
    """
    positional = [*_json_option("--args", args_text, list), *args]
    keywords = _json_option("--kwargs", kwargs_text, dict) | _keywords(named)
    with client(autostart=True) as daemon:
        job = daemon.call(target, positional, keywords, **job_options(daemon, given))
        _print_id(job)
        _say_if_found(job)
        return _see_it_through(daemon, job, wait=wait, follow=follow)


@verb(
    "run",
    "bgctl run make test",
    "bgctl run --timeout 1h -- ./import.sh --all",
    ends_options=True,
)
@with_command_options
@_shell
@_no_check
@_program
def run_command(argv: tuple[str, ...], *, shell: bool, no_check: bool, **given: Any) -> int:
    """Queue a command, show its output, and exit with its code.

    Without --stdin it reads nothing. With --pty this terminal gets its output as it is.

    Ctrl-C leaves the job running; twice cancels it. The exit code is the job's own; 128+N after signal N,
    124 after its timeout, 127 or 126 if it could not be started, 143 if it was cancelled, 125 otherwise.
    """
    with client(autostart=True) as daemon:
        job = _submit(daemon, argv, given, shell=shell, no_check=no_check)
        if global_options().json:
            _print_id(job)
        _say_if_found(job)
        # a job's own terminal is of use only if this one obeys it, as if the program had been started here
        return _see_it_through(daemon, job, follow=True, raw=given["pty"])


def _submit(
    daemon: Client, argv: tuple[str, ...], given: dict[str, Any], *, shell: bool, no_check: bool
) -> Job:
    if not argv[0]:
        raise click.UsageError("the program's name is empty")
    if shell and len(argv) > 1:
        raise click.UsageError(
            f"--shell takes one text, not {len(argv)} words: put its options before it, and it in quotes"
        )
    if shell:
        argv = ("/bin/sh", "-c", *argv)
    options = job_options(daemon, given)
    caller = Caller()
    passed = options.get("env_pass", "all")
    if passed == "all" and (names := undecodable_names()):
        say(f"not passed on, because not UTF-8: {', '.join(names)}")
        warnings.simplefilter("ignore", UserWarning)  # which would say it again, as for a program
    if given["stdin"] == "-":
        options["input"] = _own_input()
        del options["stdin"]
    if not no_check and (problem := _problem_with(argv, options, caller)):
        raise Refused(f"{problem}; --no-check queues it all the same")
    return daemon.submit(argv, **options)


def _own_input() -> bytes:
    data = sys.stdin.buffer.read(MAX_INPUT + 1)
    if len(data) > MAX_INPUT:
        raise click.UsageError(
            f"more than {MAX_INPUT} bytes came: put them into a file, and name it with --stdin FILE"
        )
    return data


def _problem_with(argv: tuple[str, ...], options: JobOptions, caller: Caller) -> str | None:
    """Say why a command could not be run if it were its turn now; None if it could."""
    env = caller.chosen_environment(options.get("env_pass", "all")) | dict(options.get("env") or {})
    folder = Path(options.get("cwd") or ".")
    if not folder.is_absolute():
        folder = caller.folder / folder
    if problem := problem_with_command(argv, env, folder):
        return problem
    source = options.get("stdin")
    return problem_with_input(caller.folder / source) if source else None


def problem_with_command(argv: Sequence[str], env: Mapping[str, str], folder: Path) -> str | None:
    """Say why a command cannot be run with this environment in this folder; None if it can."""
    try:
        if not folder.is_dir():
            return f"there is no folder {folder}"
        problem = _problem_with_program(argv[0], env, folder)
    except OSError as error:  # as in a folder that may not be entered
        return f"{error.filename}: {error.strerror}"
    if problem and len(argv) == 1 and " " in argv[0].strip():
        return f"{problem}: write the words apart, or put --shell before them"
    return problem


def _problem_with_program(name: str, env: Mapping[str, str], folder: Path) -> str | None:
    """Say why a program cannot be run; None if it can."""
    try:
        find_program(name, env, str(folder))
    except FileNotFoundError:
        if "/" not in name:
            return f"no program {name!r} on its PATH"
        return f"{folder / name} is no program: there is no such file"
    except PermissionError as error:
        return _problem_with_file(Path(error.filename))
    return None


def _problem_with_file(path: Path) -> str:
    try:
        is_folder = path.is_dir()
    except PermissionError as error:
        return f"{path} may not be looked at: {error.strerror}"
    if is_folder:
        return f"{path} is no program: it is a folder"
    return f"{path} is not executable (chmod +x makes it so)"


def problem_with_input(path: Path) -> str | None:
    """Say why a command cannot read this file; None if it can."""
    if not path.exists():
        return f"there is no file {path}"
    if path.is_dir():
        return f"{path} is a folder: name a file to read"
    return None if os.access(path, os.R_OK) else f"{path} may not be read by you"


def _print_id(job: Job) -> None:
    if global_options().json:
        print_json({"id": job.id, "created": job.is_new})
    else:
        click.echo(job.id)


def _say_if_found(job: Job) -> None:
    if not job.is_new and not global_options().json:
        say(f"job {job.id} has this key already: nothing was queued")


def _see_it_through(
    daemon: Client, job: Job, *, wait: bool = False, follow: bool = False, raw: bool = False
) -> int:
    if job.obstacle is not None:
        say(f"job {job.id} is queued, and nothing starts: {job.obstacle}")
    if not (wait or follow):
        return 0
    from bgctl.logs import follow_job, wait_for_job  # noqa: PLC0415 - most who submit do not wait

    return follow_job(daemon, job, raw=raw) if follow else wait_for_job(job)


def _json_option(option: str, text: str | None, kind: type[T]) -> T:
    if text is None:
        return kind()
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{option} is no JSON: {error}") from error
    if not isinstance(value, kind):
        raise click.UsageError(f"{option} takes a JSON {'array' if kind is list else 'object'}, not {text}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number there")


def _keywords(words: tuple[str, ...]) -> dict[str, str]:
    keywords = {}
    for word in words:
        name, equals, keywords[name] = word.partition("=")
        if not (name and equals):
            raise click.UsageError(f"--kw takes NAME=VALUE, not {word!r}")
    return keywords
