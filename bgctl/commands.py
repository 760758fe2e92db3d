"""Submit a command: check it, queue it, print the id of its job, and show its output."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bgctl.common import WrongUsage, answer, begun, global_options, say, say_deadlock, writing_to_stdout
from bgctl.plain import OPERATORS
from bgd import Client, Job, Refused
from bgd.client.programs import CannotStart, checked_command
from bgd.client.specs import undecodable_names
from bgd.core.spec import DEFAULT_QUEUE, MAX_INPUT
from bgd.text.units import counted

if TYPE_CHECKING:
    from bgd.client.options import JobOptions


def queue_command_of(
    daemon: Client, argv: Sequence[str], options: JobOptions, *, shell: bool, no_check: bool, verb: str
) -> Job:
    """Queue the words of a command line; `verb` is what was typed before the options."""
    already = begun()
    if already.job is not None:
        return Job(daemon, already.job, is_new=True)
    with program_of(argv, shell=shell, verb=verb) as words:
        say_what_is_not_passed_on(options)
        if options.get("stdin") == "-":
            options["input"] = _read_stdin()
            del options["stdin"]
        options["check"] = not no_check
        job = daemon._submit(checked_command(words, options), already.sent)  # noqa: SLF001 - others do not go on
    say_if_it_is_too_wide(daemon, options)
    say_once_what_a_reboot_does(daemon, options)
    return job


@contextmanager
def program_of(
    argv: Sequence[str], *, shell: bool, verb: str = "submit", does: str = "queues"
) -> Iterator[Sequence[str]]:
    """Yield the argv for the words of a command line; explain why its program cannot start.

    Args:
        argv: the words.
        shell: they are one text for a shell.
        verb: what was typed before the options.
        does: what --no-check does with such a program.
    """
    words = _words_of_command(argv, shell=shell)
    try:
        yield words
    except CannotStart as error:
        problem = _problem_in_words(error, words, verb)
        raise Refused(f"{problem}; --no-check {does} it anyway") from None
    _say_if_it_has_operators(words, verb)


def _words_of_command(argv: Sequence[str], *, shell: bool) -> Sequence[str]:
    if not argv:  # a schedule may have none
        if shell:
            raise WrongUsage("--shell takes one text, at the end, after --")
        return argv
    if not argv[0]:
        raise WrongUsage("the name of the program is empty")
    if shell and len(argv) > 1:
        raise WrongUsage(
            f"--shell takes one text, not {len(argv)} words: quote the text, and put options before it"
        )
    return ("/bin/sh", "-c", *argv) if shell else argv


def _problem_in_words(error: CannotStart, argv: Sequence[str], verb: str) -> str:
    """Return why a command cannot start, and what to type instead."""
    import shutil  # noqa: PLC0415 - only for an error

    from bgctl.hints import AFTER_USER, for_missing_program  # noqa: PLC0415 - likewise

    hint = AFTER_USER if global_options().user else for_missing_program(argv, verb)
    if shutil.which(argv[0]) is None and hint:
        return f"no program named {argv[0]!r}: {hint}"
    return error.problem


def _say_if_it_has_operators(argv: Sequence[str], verb: str) -> None:
    """Warn if a program gets words of a shell, such as |, as arguments."""
    if OPERATORS & set(argv[1:]):
        from bgctl.hints import for_operators  # noqa: PLC0415 - few commands have such a word

        if note := for_operators(argv, verb):
            say(note)


def say_what_is_not_passed_on(options: JobOptions) -> None:
    if options.get("env_pass", "all") == "all" and (names := undecodable_names()):
        say(f"not passed on, because not UTF-8: {', '.join(names)}")
        warnings.simplefilter("ignore", UserWarning)  # the client would warn again


def _read_stdin() -> bytes:
    if sys.stdin.isatty():
        say("reading your terminal, Ctrl-D ends it")
    data = sys.stdin.buffer.read(MAX_INPUT + 1)
    if len(data) > MAX_INPUT:
        raise WrongUsage(f"more than {MAX_INPUT} bytes arrived: write them to a file and use --stdin FILE")
    return data


def print_id(job: Job) -> None:
    with writing_to_stdout(lambda: f"job {job.id} is queued"):
        answer({"id": job.id, "created": job.is_new}, job.id)


def say_if_exists(job: Job, options: JobOptions) -> None:
    if job.is_new or global_options().json:
        return
    if "debounce" in options:
        say(f"job {job.id} already has this key: if it has not started, it will run this command instead")
    else:
        say(f"job {job.id} already has this key: nothing was queued")


def say_if_it_is_too_wide(daemon: Client, options: JobOptions, jobs: int = 1) -> None:
    """Warn if a job needs more slots than there are, or if this number of jobs cannot run at once."""
    slots = options.get("slots") or 1
    if slots * jobs == 1:
        return
    queues, name = daemon.queues(), options.get("queue") or DEFAULT_QUEUE
    has = next((each.slots for each in queues.queues if each.name == name), None)
    owner, remedy = f"queue {name}", f"queue set {name} --slots"
    if has is None:
        has, owner, remedy = queues.slots, "the daemon", "slots"
    if slots * jobs > has:
        does = f"only {max(has // slots, 1)} at once"
        if jobs == 1:
            does = f"a job that takes {slots} runs only while no other one does"
        say(f"{owner} has {counted(has, 'slot')}: {does}; `bgctl {remedy} {slots * jobs}` changes that")


def say_once_what_a_reboot_does(daemon: Client, options: JobOptions | None = None) -> None:
    """Warn for a job far in the future that a daemon started by bgctl does not start by itself.

    `options`: those of a job; None: a schedule is planned.
    """
    if options is not None and options.get("at") is None:
        delay = options.get("delay") or 0
        if not (isinstance(delay, float) and delay > _LONG_DELAY):
            return
    info = daemon.info()
    if not info.autostarted:
        return
    try:
        os.close(os.open(f"{info.state_dir}/{_TOLD}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError:  # it exists, or it cannot be made and the warning would repeat every time
        return
    what = "schedules stop" if options is None else "the job waits"
    say(
        f"this daemon does not start with the machine: after a reboot {what} until the next `bgctl submit`"
        " starts it; `bgctl service install` makes it start by itself"
    )


_LONG_DELAY = 3600.0  # seconds
_TOLD = "reboot.told"  # a file that marks the warning as given


def wait_or_follow(daemon: Client, job: Job, *, wait: bool, follow: bool) -> int:
    """Wait for a job or follow its output if asked to; return the exit code."""
    say_obstacle(job)
    if not (wait or follow):
        return 0
    from bgctl.output import follow_job, report_end  # noqa: PLC0415 - most submits do not wait

    if not follow:
        say_deadlock(daemon, [job.id])
    return follow_job(daemon, job) if follow else report_end(daemon, job.wait())


def say_obstacle(job: Job) -> None:
    if job.obstacle is not None:
        say(f"job {job.id} is queued, but nothing starts: {job.obstacle}")
