"""The verb batch: many jobs from lines, JSON documents or a template."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import takewhile
from shutil import which
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from bgctl.batch_ends import HALT, Ends, Halt
from bgctl.batch_lines import (
    Source,
    SpecOfLine,
    argument_lines,
    document_lines,
    documents,
    portions_of_lines,
    program_check,
    shell_lines,
    template_words,
    word_lines,
)
from bgctl.batch_resume import JobLog, Standing, key_of_batch, look_up, runs_again, runs_where
from bgctl.batches import BatchVerb, check_is_not_kept, misspelled
from bgctl.commands import (
    program_of,
    say_if_it_is_too_wide,
    say_once_what_a_reboot_does,
    say_what_is_not_passed_on,
)
from bgctl.common import answer, global_options, say, wants_bar, writing_to_stdout
from bgctl.exit_codes import FAILED, INTERRUPTED
from bgctl.options import FILE, TYPES, job_options, whole_number, with_command_options
from bgctl.verbs import quiet_option, verb
from bgd import Client, Job
from bgd.client.batch import Taken, new_batch_of
from bgd.client.blocking.concurrency import iterate, run
from bgd.client.portions import Portion, SpecMaker, lines_and_jobs, new_batch
from bgd.client.programs import CannotStart
from bgd.client.specs import Caller
from bgd.core.spec import MAX_SLOTS, FollowUp, JobSpec
from bgd.errors import BgdError, Refused
from bgd.text.brief import quoted
from bgd.text.units import counted
from bgd.wire.requests import MAX_IDS, ROUND, NewBatch

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressDisplay

    from bgd.client.options import JobOptions


STDIN = "-"
_VERBS_ELSEWHERE = {"delete", "info", "logs", "progress", "remove", "status"}
MAX_LINES = 2**53
_UNSUCCESSFUL = {  # what became of one line and of several, besides failures
    Standing.CANCELLED: ("was cancelled while it ran", "were cancelled while they ran"),
    Standing.UNSTARTED: ("was cancelled before it started", "were cancelled before they started"),
    Standing.LOST: ("was deleted, outcome unknown", "were deleted, outcome unknown"),
}
_FOLLOW_UP, _WORDS = TYPES[FollowUp], "'CMD ARGS'"


@verb(
    "bgctl batch -j 4 -- gzip -9 {} ::: *.log",
    "bgctl batch --shell -q nightly --retries 2 < commands.txt",
    "bgctl list --json --state failed | bgctl batch --ndjson",
    autostart=True,
    cls=BatchVerb,
)
@with_command_options
@click.option("--ndjson", is_flag=True, help="Read a JSON object from each line.")
@click.option("--template", metavar="TEXT", help="Replace {} in this command with each line.")
@click.option("--shell", is_flag=True, help="Run each line, or the template, with /bin/sh.")
@click.option("-0", "--null", is_flag=True, help="Lines end with NUL, as from find -print0.")
@click.option("--no-check", is_flag=True, help="Queue commands whose programs are missing.")
@click.option("--skip", type=whole_number(0, MAX_LINES), metavar="N", help="Skip the first N lines.")
@click.option("--wait", is_flag=True, help="Wait for the jobs; exit with 1 if any failed.")
@click.option("--halt", type=HALT, metavar="WHEN", help="Wait; stop after failures: soon,fail=N or N%.")
@click.option("--joblog", type=FILE, metavar="FILE", help="Wait; log results in GNU parallel's format.")
@click.option("--resume", is_flag=True, help="Run only lines that have not run yet.")
@click.option("--retry-failed", is_flag=True, help="Resume, and rerun failed lines.")
@click.option("--then", type=_FOLLOW_UP, metavar=_WORDS, help="Run this once all jobs have succeeded.")
@click.option("--catch", type=_FOLLOW_UP, metavar=_WORDS, help="Run this once the first job has failed.")
@click.option("--finally", "finally_", type=_FOLLOW_UP, metavar=_WORDS, help="Run this once all have ended.")
@quiet_option
@click.option("-j", "--jobs", type=whole_number(1, MAX_SLOTS), metavar="N", help="Run N of them at once.")
@click.argument("paths", nargs=-1, type=FILE, metavar="[FILE|-]")
def batch_command(
    daemon: Client,
    paths: tuple[str, ...],
    *,
    argv: tuple[str, ...],
    arguments: tuple[str, ...] | None,
    **given: Any,
) -> int:
    """Queue a job for each line of stdin or of a file, or each ARG.

    \b
      find . -name '*.tif' | bgctl batch -- convert {} {.}.png
      bgctl batch -- gzip ::: *.txt
      bgctl batch commands.txt

    With PROGRAM a line is an argument: {} is the line, {.} the line without its extension, {/} its last part,
    {//} its folder, {/.} its last part without extension, and {#} its number. Without any of them it becomes
    the last argument. Empty lines are skipped, an empty ARG is not. One word without -- or ::: is a FILE.

    Without PROGRAM a line is a command, split into words as by a shell. Blank lines and commands that begin
    with # are skipped. With --ndjson a line is a JSON object with argv, or target and args, and the options
    of the job, which override those of the command line.

    Lines are queued in order while they are read, and the ids printed as ranges, such as 3-9. The first
    invalid line ends the batch: the message says what is queued, and --skip continues from there.

    With --joblog, the same command with --resume continues a batch of the same lines wherever it stopped:
    each line runs once. --retry-failed also reruns lines that failed. --halt soon,fail=1 queues and starts
    nothing more after the first failure, --halt now,fail=10% also cancels running jobs. -j is a limit by key,
    as --limit KEY=N is: it stays when bgctl or bgd is killed.

    `bgctl batch list` counts the jobs by state; `bgctl batch show`, wait, cancel and retry take the --name or
    the id of the batch. --then, --catch and --finally each start one job: when all have succeeded, when the
    first has failed, and when all have ended. An interrupted batch stays open: --resume continues it.
    """  # noqa: D301 - click leaves lines after a backspace as they are
    settings = Settings.taken_from(given, argv)
    path = _only(paths, has_arguments=arguments is not None)
    end = b"\0" if settings.null else b"\n"
    with _opened(path, end) if arguments is None else _lines_of(arguments) as source:
        return _queue(daemon, source, settings, given, takes_empty=arguments is not None)


def _only(paths: tuple[str, ...], *, has_arguments: bool) -> str:
    """Return the path of the lines; refuse a program without --, and a file beside arguments."""
    for path in paths[:1]:
        check_is_not_kept(path)
        if not os.path.lexists(path) and (verb := misspelled(path)):
            raise click.UsageError(f"no verb 'batch {path}': did you mean {verb}?")
    if len(paths) > 1:
        raise click.UsageError(f"-- comes before a program: `bgctl batch -- {' '.join(map(quoted, paths))}`")
    if paths and has_arguments:
        raise click.UsageError(f"the arguments come from FILE {paths[0]} or from :::, not from both")
    return paths[0] if paths else STDIN


def _queue(
    daemon: Client, source: Source, settings: Settings, given: dict[str, Any], *, takes_empty: bool
) -> int:
    """Queue the lines and return the exit code.

    `given`: the options of all jobs; `takes_empty`: an empty line is an argument, too.
    """
    options, caller = job_options(daemon, given), Caller()
    say_if_it_is_too_wide(daemon, options, settings.jobs or 1)
    if settings.jobs is not None:
        options["limit"] = key_of_batch(settings.joblog), settings.jobs
        options["on_limit"] = "wait"  # a class may say otherwise about the limit of its own
    say_what_is_not_passed_on(options)
    maker = SpecMaker(options, caller)
    spec_of = settings.spec_of(maker, takes_empty=takes_empty)
    check = None if settings.no_check else program_check(options, caller, maker.folder)
    new = settings.new_batch(options, caller)
    # after all refusals, because a started log must be resumed
    log = None
    if settings.joblog is not None:
        log = JobLog(settings.joblog, resume=settings.resume, store=daemon.info().store_id)
    batch = Batch(daemon, source, log, check, settings.skip or 0, new)
    groups = documents(source.groups()) if settings.ndjson else source.groups()
    portions = portions_of_lines(groups, maker, spec_of, batch.place_of, settings.skip or 0)
    with writing_to_stdout(batch.how_far):
        if settings.wait or settings.halt is not None or log is not None:
            batch.follow(daemon, settings.halt, retry_failed=settings.retry_failed)
        code = batch.run(portions)
    say_once_what_a_reboot_does(daemon, options)
    return code


class Settings(Struct, frozen=True, kw_only=True):
    """The options of a batch itself, by their names, and its PROGRAM as `argv`."""

    argv: tuple[str, ...]
    jobs: int | None
    null: bool
    skip: int | None
    ndjson: bool
    template: str | None
    shell: bool
    no_check: bool
    wait: bool
    halt: Halt | None
    joblog: str | None
    resume: bool
    retry_failed: bool
    then: FollowUp | None
    catch: FollowUp | None
    finally_: FollowUp | None

    @classmethod
    def taken_from(cls, given: dict[str, Any], argv: tuple[str, ...]) -> Settings:
        """Take them from all options; refuse contradictions and options that only one job can have."""
        given["resume"] |= given["retry_failed"]
        settings = cls(argv=argv, **{name: given.pop(name) for name in cls.__struct_fields__[1:]})
        if settings.resume and settings.joblog is None:
            raise click.UsageError("--resume and --retry-failed need --joblog FILE, which says what has run")
        if settings.ndjson and (argv or settings.template is not None or settings.shell):
            raise click.UsageError(
                "--ndjson cannot be combined with --template and --shell, or with a program: each document"
                " has its own command"
            )
        if argv and settings.template is not None:
            raise click.UsageError("the command is --template TEXT or follows --, not both")
        if settings.jobs is not None and (given.get("limit") or given.get("on_limit")):
            raise click.UsageError("-j is a limit by key: leave out either it, or --limit and --on-limit")
        if given.get("stdin") == STDIN:
            raise click.UsageError("--stdin takes a file here: the lines may come from stdin")
        if given.get("key") is not None:
            raise click.UsageError(
                "--key would make one job of all lines: with --ndjson each can have its own"
            )
        return settings

    def new_batch(self, options: JobOptions, caller: Caller) -> NewBatch:
        """Return the batch to make; raise Refused if a program that is to follow it is missing.

        `options`: those of its jobs; the batch takes their name and session.
        """
        follow_ups = {"then": self.then, "catch": self.catch, "finally_": self.finally_}
        try:  # targets are not of this process
            return new_batch_of(
                options.get("name"),
                follow_ups,
                caller,
                session=options.get("session"),
                check_programs=not self.no_check,
                check_targets=False,
            )
        except CannotStart as error:
            raise Refused(f"{error.problem}; --no-check queues the batch anyway") from None

    def spec_of(self, maker: SpecMaker, *, takes_empty: bool) -> SpecOfLine:
        """Return the function that makes a job from a line."""
        arguments_of = partial(argument_lines, maker, shell=self.shell, takes_empty=takes_empty)
        if self.ndjson:
            return document_lines(maker, takes_limit=self.jobs is None)
        if self.template is not None:
            return arguments_of(template_words(self.template, shell=self.shell))
        if self.argv:
            with program_of(self.argv, shell=self.shell, verb="batch") as words:
                if " " in words[0] and which(words[0]) is None and not self.no_check:
                    raise CannotStart(f"no program {words[0]!r}")
                return arguments_of(words)
        return shell_lines(maker) if self.shell else word_lines(maker)


@contextmanager
def _lines_of(arguments: tuple[str, ...]) -> Iterator[Source]:
    with os.fdopen(os.memfd_create("arguments"), "w+b") as file:
        file.writelines(os.fsencode(each) + b"\0" for each in arguments)
        file.seek(0)
        yield Source(file.fileno(), b"\0")


@contextmanager
def _opened(path: str, end: bytes) -> Iterator[Source]:
    if path == STDIN:
        if sys.stdin.isatty():
            say("reading lines from this terminal; Ctrl-D ends them")
        yield Source(sys.stdin.fileno(), end)
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        source = Source(descriptor, end)
        os.read(descriptor, 0)  # a folder can be opened, and not read
    except OSError as error:
        hint = f": `bgctl batch -- {path}` runs it for each line of stdin" if which(path) else ""
        if not hint and path in _VERBS_ELSEWHERE:
            hint = ": verbs of batches are list, show, wait, cancel and retry"
        raise click.UsageError(f"cannot read {path}: {error.strerror}{hint}") from error
    try:
        yield source
    finally:
        os.close(descriptor)


class Batch:
    """Queues lines, prints ids, and reports its position if it ends early.

    `check`: refuses lines to queue. `skipped`: how many lines at the beginning are left out.
    """

    def __init__(
        self,
        daemon: Client,
        source: Source,
        log: JobLog | None,
        check: Callable[[JobSpec], None] | None,
        skipped: int,
        new: NewBatch,
    ) -> None:
        self._source = source
        self._check = check
        self._sender = daemon.batch_sender(new_batch() if log is None else log.batch, new=new)
        self._log = log
        self._skipped = skipped
        self._ids = IdPrinter()
        self._bar = Bar(source)
        self._jobs = self._found = 0
        self._obstacle: str | None = None
        self._ends: Ends | None = None
        self._retry_failed = self._has_other_command = False
        self._is_read = False  # all lines
        self._placed = self._resumed_after = 0

    def follow(self, daemon: Client, halt: Halt | None, *, retry_failed: bool) -> None:
        """Make `run` wait for the jobs as well, and halt them if requested."""
        self._retry_failed = retry_failed
        reopen = partial(self._close, reopen=True)
        self._ends = ends = Ends(daemon, self._log, halt, self._source.stop, reopen, self._report_end)
        if self._log is not None:
            self._resume(daemon, self._log, ends)
        ends.start()

    def _resume(self, daemon: Client, log: JobLog, ends: Ends) -> None:
        """Find the standing of each line that this batch had before, from the daemon or else the log."""
        known = log.known

        def note_end(line: int, job: Job) -> None:
            log.add(line, job)
            self._report_end(line, job)

        def is_kept(line: int, _: int) -> bool:
            return not runs_again(known[line], retry_failed=self._retry_failed)

        runs = [run for taken in iterate(self._sender.known()) for run in _without_rounds(taken).runs]
        self._placed = self._resumed_after = self._sender.last
        kept = list(runs_where(look_up(daemon, runs, known, note_end), is_kept))
        self._ids.add(Taken(kept))
        for line, standing in known:
            ends.count(line, standing)
        ends.add(Taken(list(runs_where(kept, lambda line, _: known[line] is Standing.UNFINISHED))))

    def place_of(self, line: int, spec: JobSpec) -> int | None:
        """Return the number with which to queue a line; None: do not queue it.

        Raises:
            Refused: the line had another command when it was queued, or fails the check.
        """
        if self._log is not None:
            if self._log.known.has_changed(line, spec):
                self._has_other_command = True
                raise Refused(
                    "this line was queued with another command: --resume needs the same lines, with new"
                    " ones only at the end; use another --joblog for a new batch"
                )
            if not runs_again(self._log.known[line], retry_failed=self._retry_failed):
                return None
        if self._check is not None:
            self._check(spec)
        if self._placed % ROUND >= line:  # the daemon takes lines in ascending order
            self._placed += ROUND - self._placed % ROUND
        self._placed += line - self._placed % ROUND
        return self._placed

    def run(self, portions: Iterator[Portion | None]) -> int:
        """Queue and follow all; return the exit code."""
        portions = takewhile(lambda _: not self._is_halted, self._to_the_end(portions))
        try:
            with self._bar:
                for taken in iterate(self._sender.send(portions)):
                    self._take(taken)
                    self._bar.queued(self._jobs)
                self._ids.end()
                if not self._is_halted:
                    self._close()
                self._say_what_is_odd()
                if self._ends is not None:
                    self._bar.wait()
                    self._ends.add_no_more()
                    self._ends.is_done.wait()
                    if self._ends.is_halted and not self._waits_to_be_resumed(self._ends):
                        self._close()
        except KeyboardInterrupt:
            with suppress(BgdError):  # then it is unknown, and the message says less
                for taken in iterate(self._sender.known(close=True)):
                    self._take(taken)
            self._ids.end()
            say(f"interrupted: {self.how_far()}{self._what_runs()}")
            return INTERRUPTED
        except BgdError as error:
            self._ids.end()
            took_none = 0 < self._sender.last == self._resumed_after
            if self._has_other_command or (took_none and isinstance(error, Refused)):
                raise  # --resume would meet it again
            raise type(error)(f"{error}; {self.how_far()}") from error
        return 0 if self._ends is None else self._code_of(self._ends)

    def _to_the_end(self, portions: Iterator[Portion | None]) -> Iterator[Portion | None]:
        yield from portions
        self._is_read = not self._source.is_cut

    def _close(self, *, reopen: bool = False) -> None:
        run(self._sender.close(reopen=reopen))

    def _waits_to_be_resumed(self, ends: Ends) -> bool:
        """Return whether a line of a halted batch has not run: then the batch stays open."""
        return not self._is_read or ends.counts[Standing.UNSTARTED] > 0 or ends.error is not None

    @property
    def _is_halted(self) -> bool:
        return self._ends is not None and (self._ends.is_halted or self._ends.error is not None)

    def _take(self, taken: Taken) -> None:
        taken = _without_rounds(taken)
        if self._ends is not None:
            self._ends.add(taken)
        self._ids.add(taken)
        self._jobs += sum(count for _, _, count in taken.runs) - len(taken.found)
        self._found += len(taken.found)
        self._obstacle = taken.obstacle

    def _report_end(self, line: int, job: Job) -> None:
        """Report an end; called by the thread that finds the ends."""
        ends = self._ends
        if global_options().json:
            view = job.view
            end = {"state": view.state, "outcome": view.outcome, "exit_code": view.exit_code}
            self._ids.print_json({"line": line, "id": job.id, **end, "signal": view.signal})
        if ends is not None:
            self._bar.ended(ends.ended, ends.jobs, ends.counts[Standing.FAILED])

    def _say_what_is_odd(self) -> None:
        if self._found and not global_options().json:
            say(f"lines that queued nothing, because an unfinished job has their key: {self._found}")
        if self._obstacle is not None:
            say(f"{counted(self._jobs, 'job')} queued, but nothing starts: {self._obstacle}")

    def _code_of(self, ends: Ends) -> int:
        """Say what failed; return the exit code."""
        if ends.error is not None:
            raise type(ends.error)(f"{ends.error}; {self.how_far()}")
        if ends.is_halted:
            say(f"halted: no line after {self._sender.last % ROUND} was queued{self._what_waits(ends)}")
        jobs = counted(ends.jobs, "job")
        again = "" if self._log is None else "; --retry-failed reruns them"
        if failed := ends.counts[Standing.FAILED]:
            named = ends.first_failed()
            word, lines = "lines" if failed > 1 else "line", ", ".join(map(str, named))
            more = ", ..." if failed > len(named) else ""
            say(f"{failed} of {jobs} failed: {word} {lines}{more}{again}")
        for standing, (one, several) in _UNSUCCESSFUL.items():
            if count := ends.counts[standing]:
                rerun = "" if standing is Standing.UNSTARTED else again
                say(f"{count} of {jobs} {one if count == 1 else several}{rerun}")
        has_problem = self._log is not None and self._log.finish() is not None
        return FAILED if has_problem or ends.counts[Standing.SUCCEEDED] < ends.jobs else 0

    def _what_waits(self, ends: Ends) -> str:
        """Say how to continue or close a halted batch that stays open."""
        if not self._waits_to_be_resumed(ends):
            return ""
        how = f"`bgctl batch cancel {self._sender.object}` closes the batch"
        return f"; {how if self._log is None else '--resume runs what has not'}"

    def how_far(self) -> str:
        """Say which lines are queued, and how to continue."""
        last = max(self._sender.last % ROUND, self._skipped)
        if not self._sender.last:
            return f"nothing after line {last} is queued" if last else "nothing is queued"
        option = f"--skip {last}" if self._log is None else "--resume"
        return f"the lines up to {last} are queued: {option} continues after them"

    def _what_runs(self) -> str:
        ends = self._ends
        return "" if ends is None else f"; {ends.jobs - ends.ended} of their jobs have not ended, and go on"


def _without_rounds(taken: Taken) -> Taken:
    """Return lines that were taken by their numbers in the input."""
    return Taken(
        [(line % ROUND, job, count) for line, job, count in taken.runs],
        frozenset(line % ROUND for line in taken.found),
        taken.obstacle,
    )


class IdPrinter:
    """Prints ids as ranges that other verbs take, or as JSON documents; threads may share it."""

    def __init__(self) -> None:
        self._first = self._count = 0
        self._is_json = global_options().json
        self._printing = threading.Lock()

    def add(self, taken: Taken) -> None:
        """Print the jobs of some lines, as far as their range is complete."""
        if global_options().quiet:
            return
        if self._is_json:
            documents = []
            for line, job in lines_and_jobs(taken.runs):
                created = "false" if line in taken.found else "true"
                documents.append(f'{{"line": {line}, "id": {job}, "created": {created}}}\n')
            with self._printing:
                sys.stdout.write("".join(documents))
                sys.stdout.flush()
            return
        for _, job in lines_and_jobs(taken.runs):
            if job != self._first + self._count or self._count == MAX_IDS:
                self.end()
                self._first = job
            self._count += 1

    def end(self) -> None:
        """Print the range that may be incomplete."""
        if self._count:
            last = self._first + self._count - 1
            print(self._first if self._count == 1 else f"{self._first}-{last}", flush=True)
        self._first = self._count = 0

    def print_json(self, document: dict[str, object]) -> None:
        with self._printing:
            answer(document)


class Bar:
    """A bar on the terminal with the time left: first how much of the input is queued, then what has run.

    Short batches get none: to import what draws it takes longer than they do.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._since = time.monotonic()
        self._display: ProgressDisplay | None = None
        self._is_wanted = wants_bar(sys.stderr)
        self._is_waiting = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._is_wanted = False
        if self._display is not None:
            self._display.stop()

    def queued(self, jobs: int) -> None:
        """Show how many jobs there are."""
        if self._is_wanted and (jobs > _BAR_JOBS or time.monotonic() > self._since + _BAR_SECONDS):
            self._update(total=self._source.size, completed=self._source.read, text=f"{jobs} queued")

    def wait(self) -> None:
        """From now on show how many have ended."""
        self._is_waiting = True
        if self._is_wanted and self._display is not None:
            self._display.reset(self._task)

    def ended(self, ended: int, jobs: int, failed: int) -> None:
        """Show how many of the jobs have ended, and how many of these failed."""
        if self._is_wanted and self._is_waiting:
            text = f"{ended} of {jobs}" + (f", {failed} failed" if failed else "")
            self._update(total=jobs, completed=ended, text=text)

    def _update(self, *, total: int | None, completed: int, text: str) -> None:
        if self._display is None:
            self._display = self._drawn()
        self._display.update(self._task, total=total, completed=completed, text=text)

    def _drawn(self) -> ProgressDisplay:
        from rich.console import Console  # noqa: PLC0415 - short batches need none of this
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415
        from rich.progress import Progress as ProgressDisplay  # noqa: PLC0415

        has_end = self._source.size is not None or self._is_waiting
        display = ProgressDisplay(
            *([BarColumn(), TextColumn("{task.percentage:>3.0f}%")] if has_end else []),
            TextColumn("{task.fields[text]}"),
            *([TimeRemainingColumn(), TextColumn("left")] if has_end else [TimeElapsedColumn()]),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # ids are printed above it, unless they go to a file
        )
        self._task = display.add_task("", total=None, text="")
        display.start()
        return display


_BAR_SECONDS = 0.5  # after which a bar is useful
_BAR_JOBS = 5_000
