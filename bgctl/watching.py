"""The verb watch: the list of jobs, shown again whenever something changes."""

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
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import click

from bgctl.common import client, global_options, is_terminal, print_json
from bgctl.listing import GROUPS, Query, listed, no_jobs, table_lines
from bgctl.selecting import with_filters
from bgctl.terminal import fitted, screen_size
from bgctl.verbs import verb
from bgd import BgdError, Client, State
from bgd.escape import one_line
from bgd.formatting import job_as_json
from bgd.units import counted


@verb(
    "watch",
    "bgctl watch",
    "bgctl watch --queue mail",
    "bgctl watch --json | jq -c 'map(.id)'",
)
@with_filters
def watch_command(*, filters: dict[str, Any]) -> int:
    """Show the list of jobs while it changes.

    The list fits the terminal, running jobs first. q or Ctrl-C ends it. With --json, print the list as an
    array on one line, again whenever something changes.
    """
    return watch_jobs(Query(filters=filters))


def watch_jobs(query: Query) -> int:
    """Show the jobs of a query until the user presses q."""
    is_json = global_options().json
    if not (is_json or is_terminal()):
        raise click.UsageError("a list can be watched only on a terminal: use --json, or `bgctl events -f`")
    with client() as daemon, client() as events, _screen(is_used=not is_json):
        changes = _Changes(events)
        while True:
            if is_json:
                jobs, _ = listed(daemon, query, None)
                print_json([job_as_json(job.view) for job in jobs])
                sys.stdout.flush()
            else:
                _draw(_picture(daemon, query))
            if not changes.wait():
                return 0


class _Changes:
    """Waits for events of jobs, for a new size of the terminal, and for the key q."""

    def __init__(self, events: Client) -> None:
        self._events = events
        self._error: BgdError | None = None
        self._wakes, self._wake = os.pipe()
        for end in (self._wakes, self._wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGWINCH, lambda *_: None)  # only to wake
        self._keys = [0] if sys.stdin.isatty() else []
        threading.Thread(target=self._follow, args=[events.last_event()], daemon=True).start()

    def wait(self) -> bool:
        """Return True at the next change, False if the user wants to end.

        Raises:
            BgdError: no daemon answers any more.
        """
        while not select.select([self._wakes, *self._keys], [], [], None)[0]:
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

    def _follow(self, since: int) -> None:
        try:
            for _ in self._events.events(since=since, progress=True):
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
def _screen(*, is_used: bool) -> Iterator[None]:
    """Use the terminal's other screen and read single keys; restore both at the end."""
    if not is_used:
        yield
        return
    before = termios.tcgetattr(0) if sys.stdin.isatty() else None
    if before is not None:
        tty.setcbreak(0)
    _write(_ENTER)
    try:
        yield
    finally:
        _write(_LEAVE)
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


# xterm's ctlseqs: the alternate screen, a hidden cursor, and lines that are cut instead of wrapped
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"


def _picture(daemon: Client, query: Query) -> list[str]:
    columns, lines = screen_size()
    info = daemon.info()
    running, waiting, finished = (sum(info.counts.get(state, 0) for state in group) for group in GROUPS)
    failed = f" ({count} failed)" if (count := info.counts.get(State.FAILED, 0)) else ""
    head = f"{running} running, {waiting} waiting, {finished} finished{failed}; {counted(info.slots, 'slot')}"
    note = f"{datetime.now().astimezone():%H:%M:%S}, q quits"
    jobs, notes = listed(daemon, query, lines - 1)  # the last line is that of the prompt
    table = table_lines(jobs, columns, None) if jobs else [no_jobs(query)]
    gap = columns - len(head) - len(note)
    first = f"{head}{' ' * gap}{note}" if gap > 1 else fitted(head, columns)
    return [first, "", *table, *(fitted(one_line(each), columns) for each in notes)]


def _draw(lines: list[str]) -> None:
    # clear first: after a full line the cursor still stands on its last cell
    _write(_HOME + "\n".join(_CLEAR_LINE + line for line in lines) + _CLEAR_REST)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
