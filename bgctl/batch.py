"""The verb batch: many jobs from lines, JSON documents or a template."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from bgctl.batch_lines import (
    DocumentLines,
    ProgramCheck,
    ShellLines,
    Source,
    SpecOfLine,
    TemplateLines,
    WordLines,
    documents,
    portions_of_lines,
)
from bgctl.commands import say_once_what_a_reboot_does
from bgctl.common import client, global_options, say
from bgctl.exit_codes import INTERRUPTED
from bgctl.options import FILE, job_options, whole_number, with_command_options
from bgctl.submitting import JobVerb
from bgctl.verbs import verb
from bgd.client.portions import SpecMaker, lines_and_jobs, new_batch
from bgd.client.specs import Caller
from bgd.errors import BgdError
from bgd.wire.requests import MAX_IDS

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressDisplay

    from bgd.client.blocking.batch import BatchSender, Taken

STDIN = "-"
MAX_LINES = 2**53


@verb(
    "batch",
    "bgctl batch jobs.txt",
    "find . -name '*.tif' | bgctl batch --template 'convert {} {.}.png'",
    "bgctl batch --shell -q nightly --retries 2 < jobs.txt",
    "bgctl list --json --state failed | bgctl batch --ndjson",
    cls=JobVerb,
)
@with_command_options
@click.option("--ndjson", is_flag=True, help="Read a JSON object from each line.")
@click.option("--template", metavar="TEXT", help="Put each line in place of {} in this command.")
@click.option("--shell", is_flag=True, help="Run each line, or the template, with /bin/sh.")
@click.option("--no-check", is_flag=True, help="Queue commands even if their programs are missing.")
@click.option("--skip", type=whole_number(0, MAX_LINES), metavar="N", help="Leave out the first N lines.")
@click.argument("path", type=FILE, default=STDIN, metavar="[FILE|-]")
def batch_command(
    path: str,
    *,
    ndjson: bool,
    template: str | None,
    shell: bool,
    no_check: bool,
    skip: int | None,
    **given: Any,
) -> int:
    """Queue a job for each line of a file or of stdin.

    A line is a command, in words as a shell splits them. Blank lines and those that begin with # are left
    out. With --template a line is an argument: {} is the line, {.} the line without its extension, {/} its
    last part, {//} its folder, {/.} its last part without extension, and {#} its number. With --ndjson a line
    is a JSON object with argv, or target and args, and the options of the job, which count more than those of
    the command line.

    The ids are printed as ranges, such as 3-9, which other verbs take.

    Lines are queued in their order while they are read. The first one that cannot be a job ends the batch:
    the message says what is queued, and --skip continues from there.
    """
    _check_usage(ndjson=ndjson, template=template, shell=shell, given=given)
    with client(autostart=True) as daemon, _opened(path) as source:
        options, caller = job_options(daemon, given), Caller()
        maker = SpecMaker(options, caller)
        check = None if no_check else ProgramCheck(options, caller)
        spec_of = _spec_maker(maker, check, ndjson=ndjson, template=template, shell=shell)
        first = skip or 0
        groups = documents(source.groups()) if ndjson else source.groups()
        portions = portions_of_lines(groups, maker, spec_of, lambda number: number <= first)
        queueing = Queueing(daemon.batch_sender(new_batch()), source)
        code = queueing.run(portions, first)
        say_once_what_a_reboot_does(daemon, options)
        return code


def _check_usage(*, ndjson: bool, template: str | None, shell: bool, given: dict[str, Any]) -> None:
    if ndjson and (template is not None or shell):
        raise click.UsageError("--ndjson excludes --template and --shell: a document says it all")
    if given.get("stdin") == STDIN:
        raise click.UsageError("--stdin takes a file here: the lines may come from stdin")
    if given.get("key") is not None:
        raise click.UsageError("--key would make one job of all lines: with --ndjson each can have its own")


@contextmanager
def _opened(path: str) -> Iterator[Source]:
    if path == STDIN:
        if sys.stdin.isatty():
            say("reading lines from this terminal; Ctrl-D ends them")
        yield Source(sys.stdin.fileno())
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        source = Source(descriptor)
        os.read(descriptor, 0)  # a folder can be opened, and not read
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error
    try:
        yield source
    finally:
        os.close(descriptor)


def _spec_maker(
    maker: SpecMaker,
    check: Callable[[str], None] | None,
    *,
    ndjson: bool,
    template: str | None,
    shell: bool,
) -> SpecOfLine:
    if ndjson:
        return DocumentLines(maker, check)
    if template is not None:
        return TemplateLines(maker, template, check, shell=shell)
    return ShellLines(maker) if shell else WordLines(maker, check)


class Queueing:
    """Queues the lines of a batch, prints the ids, and says how far it came if something ends it early."""

    def __init__(self, sender: BatchSender, source: Source) -> None:
        self._sender = sender
        self._source = source
        self._ids = IdPrinter()
        self._jobs = 0
        self._found = 0
        self._obstacle: str | None = None

    def run(self, portions: Iterator[Any], skipped: int) -> int:
        """Queue all; return the exit code."""
        try:
            with batch_bar(self._source) as advance:
                for taken in self._sender.send(portions):
                    self._take(taken)
                    advance(self._jobs)
        except KeyboardInterrupt:
            with suppress(BgdError):  # then it is not known, and the message says less
                for taken in self._sender.known(close=True):
                    self._take(taken)
            self._ids.end()
            say(f"interrupted: {self._how_far(skipped)}")
            return INTERRUPTED
        except BgdError as error:
            self._ids.end()
            raise type(error)(f"{error}; {self._how_far(skipped)}") from error
        self._ids.end()
        if self._found and not global_options().json:
            say(f"lines that queued nothing, because an unfinished job has their key: {self._found}")
        if self._obstacle is not None:
            say(f"{self._jobs} jobs are queued, but nothing starts: {self._obstacle}")
        return 0

    def _take(self, taken: Taken) -> None:
        self._ids.add(taken)
        self._jobs += sum(count for _, _, count in taken.runs) - len(taken.found)
        self._found += len(taken.found)
        self._obstacle = taken.obstacle

    def _how_far(self, skipped: int) -> str:
        last = self._sender.last
        if not last:
            return f"nothing after line {skipped} is queued" if skipped else "nothing is queued"
        return f"the lines up to {last} are queued: --skip {last} continues after them"


class IdPrinter:
    """Prints ids as ranges that other verbs take, or as JSON documents."""

    def __init__(self) -> None:
        self._first = self._count = 0
        self._is_json = global_options().json

    def add(self, taken: Taken) -> None:
        """Print the jobs of some lines, as far as their range is complete."""
        if self._is_json:
            for line, job in lines_and_jobs(taken.runs):
                created = "false" if line in taken.found else "true"
                sys.stdout.write(f'{{"line": {line}, "id": {job}, "created": {created}}}\n')
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


@contextmanager
def batch_bar(source: Source) -> Iterator[Callable[[int], None]]:
    """Draw a bar on the terminal until the block ends, and give the function that tells it the jobs so far.

    Short batches need none, and to import what draws it takes longer than they do.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    bar = _Bar(source)
    try:
        yield bar.advance
    finally:
        bar.close()


class _Bar:
    """Shows how much of the input is queued, and when the rest will be."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._since = time.monotonic()
        self._display: ProgressDisplay | None = None

    def advance(self, jobs: int) -> None:
        """Show how many jobs there are."""
        is_long = jobs > _BAR_JOBS or time.monotonic() > self._since + _BAR_SECONDS
        if self._display is None and is_long:
            self._display = self._drawn()
        if self._display is not None:
            self._display.update(self._task, completed=self._source.read, jobs=f"{jobs} queued")

    def close(self) -> None:
        """Remove it."""
        if self._display is not None:
            self._display.stop()

    def _drawn(self) -> ProgressDisplay:
        from rich.console import Console  # noqa: PLC0415 - short batches need none of this
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415
        from rich.progress import Progress as ProgressDisplay  # noqa: PLC0415

        size = self._source.size
        columns = [BarColumn(), TextColumn("{task.percentage:>3.0f}%")] if size else []
        left = [TimeRemainingColumn(), TextColumn("left")] if size else [TimeElapsedColumn()]
        display = ProgressDisplay(
            *columns,
            TextColumn("{task.fields[jobs]}"),
            *left,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # ids are printed above it, unless they go to a file
        )
        self._task = display.add_task("", total=size, jobs="")
        display.start()
        return display


_BAR_SECONDS = 0.5  # after which people wonder
_BAR_JOBS = 5_000
