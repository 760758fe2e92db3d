"""The verbs watch and top: jobs, shown again when something changes, and what running ones use."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from functools import partial
from typing import Any

import click

from bgctl.common import client, global_options, is_screen, print_json
from bgctl.listing import (
    GROUPS,
    USAGE_KEYS,
    Query,
    listed,
    no_jobs,
    print_list,
    table_lines,
)
from bgctl.selecting import with_filters
from bgctl.terminal import fitted, screen_size, takes_more
from bgctl.verbs import verb
from bgd import BgdError, Client, Job, State
from bgd.text.escape import one_line
from bgd.text.formatting import job_as_json, usage_line
from bgd.text.units import counted
from bgd.wire.replies import JobUsages
from bgd.wire.views import JobUsage


@verb(
    "bgctl watch",
    "bgctl watch --queue mail",
    "bgctl watch --json | jq -c 'map(.id)'",
)
@with_filters
def watch_command(daemon: Client, *, filters: dict[str, Any]) -> None:
    """Show the list of jobs while it changes.

    The list fits the terminal, running jobs first. q or Ctrl-C ends it. With --json, print its first 50
    jobs as an array on one line, again whenever something changes.
    """
    watch_jobs(daemon, Query(filters=filters))


def watch_jobs(daemon: Client, query: Query) -> None:
    """Show the jobs of a query until the user presses q."""
    if query.needs_usage:
        raise click.UsageError("a watched list shows no usage: use `bgctl top`")
    is_json = global_options().json
    if not (is_json or is_screen()):
        raise click.UsageError("a list can be watched only on a terminal: use --json, or `bgctl events -f`")
    with client() as events, nullcontext() if is_json else _screen():
        changes = _Changes(events)
        while True:
            if is_json:
                jobs, _ = listed(daemon, query, None)
                print_json([job_as_json(job.view) for job in jobs])
                sys.stdout.flush()
            else:
                _draw(_picture(daemon, query))
            if not changes.wait():
                return


@verb(
    "bgctl top",
    "bgctl top --sort memory",
    "bgctl top --json | jq '.[0].usage'",
)
@click.option(
    "--sort",
    type=click.Choice(list(USAGE_KEYS)),
    default="cpu",
    metavar="KEY",
    help="Sort by cpu (default) or memory.",
)
def top_command(daemon: Client, *, sort: str) -> None:
    """Show CPU, memory and processes of running jobs, live.

    Jobs that use most come first. q or Ctrl-C ends it. With --json, or if stdout is not a terminal, it prints
    one snapshot and exits.

    100% CPU is one processor. It counts all processes of a job, over the seconds since the previous snapshot.
    """
    query = Query(filters={"states": GROUPS[0]}, shows_all=True, sort=sort)
    if global_options().json or not is_screen():
        print_list(daemon, query)
        return
    with _screen():
        changes = _Changes(None)
        while True:
            answer = daemon.usage()
            jobs, _ = listed(daemon, query, None, answer.jobs)
            _draw(_picture_of_usage(jobs, answer))
            if not changes.wait(_TOP_INTERVAL):
                return


_TOP_INTERVAL = 3.0  # seconds between two pictures


class _Changes:
    """Waits for events of jobs, for a new size of the terminal, and for the key q."""

    def __init__(self, events: Client | None) -> None:
        """Begin to wait; None: without events."""
        self._error: BgdError | None = None
        self._wakes, self._wake = os.pipe()
        for end in (self._wakes, self._wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGWINCH, lambda *_: None)  # only to wake
        self._keys = [0] if sys.stdin.isatty() else []
        if events is not None:
            follow = partial(self._follow, events, events.last_event())
            threading.Thread(target=follow, daemon=True).start()

    def wait(self, longest: float | None = None) -> bool:
        """Return True at the next change or after `longest` seconds, False if the user wants to end.

        Raises:
            BgdError: no daemon answers any more.
        """
        while not select.select([self._wakes, *self._keys], [], [], longest)[0] and longest is None:
            pass
        deadline = time.monotonic() + _PAUSE
        # what happens meanwhile is drawn at once, and does not keep the terminal busy
        while (left := deadline - time.monotonic()) > 0:
            if select.select(self._keys, [], [], left)[0] and os.read(0, 1) in _QUITS:
                return False
        with suppress(BlockingIOError):
            os.read(self._wakes, _MANY)
        if self._error is not None:
            raise self._error
        return True

    def _follow(self, events: Client, since: int) -> None:
        try:
            for _ in events.events(since=since, progress=True):
                self._report()
        except BgdError as error:
            self._error = error
            self._report()

    def _report(self) -> None:
        with suppress(BlockingIOError):  # full of reports that were not read yet
            os.write(self._wake, b".")


_PAUSE = 0.1  # seconds between two pictures
_MANY = 1 << 16  # bytes that a pipe holds
_QUITS = {b"q", b"Q", b""}  # the last: end of input


@contextmanager
def _screen() -> Iterator[None]:
    """Use the terminal's other screen and read single keys; restore both at the end."""
    before = termios.tcgetattr(0) if sys.stdin.isatty() else None

    def restore() -> None:
        if takes_more(1):
            os.write(1, _LEAVE)
        if before is not None:
            termios.tcsetattr(0, termios.TCSANOW, before)

    def end(signum: int, _: object) -> None:
        signal.signal(signum, signal.SIG_DFL)
        with suppress(OSError, termios.error):  # the terminal is gone
            restore()
        os.kill(os.getpid(), signum)

    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, end)
    if before is not None:
        tty.setcbreak(0)
    _write(_ENTER)
    try:
        yield
    finally:
        restore()


# xterm's ctlseqs: the alternate screen, a hidden cursor, and lines that are cut instead of wrapped
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = b"\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"


def _picture(daemon: Client, query: Query) -> list[str]:
    columns, lines = screen_size()
    info = daemon.info()
    running, waiting, finished = (sum(info.counts.get(state, 0) for state in group) for group in GROUPS)
    failed = f" ({count} failed)" if (count := info.counts.get(State.FAILED, 0)) else ""
    head = f"{running} running, {waiting} waiting, {finished} finished{failed}; {counted(info.slots, 'slot')}"
    jobs, notes = listed(daemon, query, lines - 1)  # the last line is that of the prompt
    table = table_lines([job.view for job in jobs], columns, None) if jobs else [no_jobs(query)]
    return [_first_line(head, columns), "", *table, *(fitted(one_line(each), columns) for each in notes)]


def _picture_of_usage(jobs: list[Job], answer: JobUsages) -> list[str]:
    columns, lines = screen_size()
    usages = answer.jobs.values()
    total = JobUsage(
        cpu_percent=sum(each.cpu_percent or 0.0 for each in usages),
        memory_bytes=sum(each.memory_bytes for each in usages),
        processes=sum(each.processes for each in usages),
    )
    head = f"{len(jobs)} running: {usage_line(total)}" if usages else f"{len(jobs)} running"
    most = max(lines - _OTHER_LINES, 1)
    table = (
        table_lines([job.view for job in jobs[:most]], columns, time.time(), answer.jobs)
        if jobs
        else ["no job is running"]
    )
    notes = [f"{len(jobs) - most} more"] if len(jobs) > most else []
    if answer.problem is not None:
        notes.append(f"what jobs use is not known: {answer.problem}")
    return [_first_line(head, columns), "", *table, *(fitted(one_line(each), columns) for each in notes)]


_OTHER_LINES = 5  # head, gap, headings, and two notes


def _first_line(head: str, columns: int) -> str:
    note = f"{datetime.now().astimezone():%H:%M:%S}, q quits"
    gap = columns - len(head) - len(note)
    return f"{head}{' ' * gap}{note}" if gap > 1 else fitted(head, columns)


def _draw(lines: list[str]) -> None:
    # clear first: after a full line the cursor still stands on its last cell
    *above, last = lines
    _write(_HOME + "".join(f"{_CLEAR_LINE}{line}\n" for line in above) + _CLEAR_REST + last)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
