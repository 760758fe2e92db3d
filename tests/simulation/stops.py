"""What has been told to stop, and the law at the launcher: once that was confirmed, nothing of it begins."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable

from msgspec import Struct

from bgd.core.job import JobId, Move, State
from bgd.daemon.storage import read
from bgd.daemon.storage.records import Permit
from bgd.wire import requests
from bgd.wire.launching import Launch
from bgd.wire.replies import Acted, Failed, Reply
from bgd.wire.requests import Request
from bgd.wire.views import EventView

FREES = (requests.Release, requests.Retry, requests.Continue)
RESUMES = (requests.Resume, requests.RemoveQueue)
STOPPED = {State.HELD, State.CANCELLED}


class Begin(Struct):
    """An attempt that began: in which life of the supervisor it was launched, and at which launcher.

    `permit_at`: when it was launched, by the wall clock, if its start was not saved then. `is_again`: it was
    launched before, by another supervisor or for another launcher.
    """

    attempt: tuple[int, int]
    life: int
    instance: str
    permit_at: float | None
    is_again: bool


class StopLaws:
    """Watches requests and replies; the launcher asks before an attempt begins.

    `begun`: all attempts that began, in order. `unstopped`: jobs that were said to be suspended, and run.
    `runs_since`: returns whether an attempt of a job has run all the time since an instant.
    """

    def __init__(self, runs_since: Callable[[int, float], bool]) -> None:
        self._runs_since = runs_since
        self.unstopped: list[str] = []
        self._jobs: dict[int, str] = {}  # that are held, cancelled or suspended, as their clients know
        self._queues: set[str] = set()  # that are paused, as their clients know
        self._frees: Counter[int] = Counter()  # requests that free a job and have no answer yet
        self._freed_at: defaultdict[int, float] = defaultdict(lambda: -1.0)
        self._draining: tuple[int, set[tuple[int, int]]] | None = None
        self._launched: dict[tuple[int, int], tuple[int, float | None, bool]] = {}  # as in Begin
        self.begun: list[Begin] = []

    def asked(self, request: Request) -> None:
        """Note a request as it is sent."""
        if isinstance(request, FREES):
            self._frees.update(request.jobs)
            for job in request.jobs or list(self._jobs):  # no names: it selects jobs by their state
                self._jobs.pop(job, None)
        elif isinstance(request, RESUMES):
            self._queues -= self._queues if request.queue is None else {request.queue}

    def answered(self, request: Request, asked_at: float, reply: Reply | None, now: float) -> None:
        """Note a reply, None: there will be none; times are those of the event queue."""
        if isinstance(request, FREES):
            self._frees.subtract(request.jobs)
            self._freed_at.update(dict.fromkeys(request.jobs, now))
        elif isinstance(request, requests.Pause) and not isinstance(reply, Failed | None):
            assert request.queue is not None
            self._queues.add(request.queue)
        elif isinstance(request, requests.Hold | requests.Cancel | requests.Suspend) and isinstance(
            reply, Acted
        ):
            for result in reply.results:
                is_free = self._frees[result.job] > 0 or self._freed_at[result.job] >= asked_at
                is_suspended = isinstance(request, requests.Suspend) and result.state is not None
                if (result.state in STOPPED or is_suspended) and not is_free:
                    self._jobs[result.job] = "suspended" if is_suspended else str(result.state)
                if is_suspended and not is_free and self._runs_since(result.job, asked_at):
                    self.unstopped.append(f"job {result.job} was said to be suspended, and runs")

    def drains(self, life: int, active: Iterable[tuple[int, int]]) -> None:
        """Note that a supervisor starts nothing but these attempts any more, which it has started."""
        self._draining = life, set(active)

    def launches(self, disk: sqlite3.Connection, life: int, launch: Launch, at: float) -> None:
        """Note that a supervisor sends a launch."""
        attempt = launch.key.job, launch.key.attempt
        is_again = attempt in self._launched
        self._launched[attempt] = life, None if _is_saved(disk, attempt) else at, is_again

    def begins(self, disk: sqlite3.Connection, instance: str, launch: Launch) -> None:
        """Check that an attempt may begin."""
        attempt, queue = (launch.key.job, launch.key.attempt), launch.env["BGD_QUEUE"]
        life, permit_at, is_again = self._launched[attempt]
        stopped = self._jobs.get(launch.key.job)
        assert stopped is None, f"attempt {attempt} begins after its job was {stopped}"
        assert queue not in self._queues, f"attempt {attempt} begins in the paused {queue}"
        if self._draining is not None and self._draining[0] == life:
            assert attempt in self._draining[1], f"attempt {attempt} begins although bgd is about to exit"
        if not _is_saved(disk, attempt):
            permit = Permit(JobId(attempt[0]), attempt[1], instance)
            assert permit in read.permits(disk), f"attempt {attempt} begins without a start or permit on disk"
        self.begun.append(Begin(attempt, life, instance, permit_at, is_again))


def _is_saved(disk: sqlite3.Connection, attempt: tuple[int, int]) -> bool:
    (count,) = disk.execute("SELECT count(*) FROM attempts WHERE job = ? AND attempt = ?", attempt).fetchone()
    return bool(count)


def check_order(begun: Collection[Begin], events: Iterable[EventView], first_events: list[int]) -> None:
    """Check that attempts begin in the order in which their starts were decided.

    One with a permit does not wait for the commits of others, but none overtakes it either, except one whose
    permit was on disk earlier. After the death of a launcher, what it did not begin comes first.

    `first_events`: the newest event at the start of each supervisor; what was started before is left out.
    """
    starts = _starts(events)
    latest: dict[tuple[int, str], int] = {}
    for begin in begun:
        start, place = starts.get(begin.attempt, 0), (begin.life, begin.instance)
        is_late = begin.is_again or _is_adopted(begin, start, first_events)
        if start > first_events[begin.life] and not is_late:
            before = latest.get(place, 0)
            assert before < start, f"attempt {begin.attempt} begins before one that started earlier"
            latest[place] = start if begin.permit_at is None else before


def adopted_among(
    begun: Collection[Begin], events: Iterable[EventView], first_events: list[int]
) -> dict[tuple[int, int], float]:
    """Return the attempts whose start a later supervisor saved, and when they were launched."""
    starts = _starts(events)
    return {
        begin.attempt: begin.permit_at
        for begin in begun
        if begin.permit_at is not None and _is_adopted(begin, starts.get(begin.attempt, 0), first_events)
    }


def _starts(events: Iterable[EventView]) -> dict[tuple[int, int], int]:
    return {(event.job, event.attempt): event.id for event in events if event.what == Move.START}


def _is_adopted(begin: Begin, start: int, first_events: list[int]) -> bool:
    """Return whether the start of an attempt was saved after the life in which it began."""
    after = first_events[begin.life + 1 : begin.life + 2]
    return bool(after) and start > after[0]
