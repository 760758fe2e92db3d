"""What has been told to stop, and the law at the launcher: once that was confirmed, nothing of it begins."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable

from bgd.core.job import Move, State
from bgd.wire import requests
from bgd.wire.launching import Launch
from bgd.wire.replies import Acted, Failed, Reply
from bgd.wire.requests import Request
from bgd.wire.views import EventView

FREES = (requests.Release, requests.Retry, requests.Continue)
RESUMES = (requests.Resume, requests.RemoveQueue)
STOPPED = {State.HELD, State.CANCELLED}

Begin = tuple[int, str, tuple[int, int]]
"""The number of the supervisor's life, the instance of the launcher, and the attempt that began."""


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
        self.begun: list[Begin] = []

    def asked(self, request: Request) -> None:
        """Note a request as it is sent."""
        if isinstance(request, FREES):
            self._frees.update(request.jobs)
            for job in request.jobs:
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

    def begins(self, life: int, instance: str, launch: Launch) -> None:
        """Check that an attempt may begin."""
        attempt, queue = (launch.key.job, launch.key.attempt), launch.env["BGD_QUEUE"]
        stopped = self._jobs.get(launch.key.job)
        assert stopped is None, f"attempt {attempt} begins after its job was {stopped}"
        assert queue not in self._queues, f"attempt {attempt} begins in the paused {queue}"
        if self._draining is not None and self._draining[0] == life:
            assert attempt in self._draining[1], f"attempt {attempt} begins although bgd is about to exit"
        self.begun.append((life, instance, attempt))


def check_order(begun: Collection[Begin], events: Iterable[EventView], first_events: list[int]) -> None:
    """Check that attempts begin in the order in which their starts were decided.

    `first_events`: the newest event at the start of each supervisor; what was started before is left out.
    """
    starts = {(event.job, event.attempt): event.id for event in events if event.what == Move.START}
    latest: dict[tuple[int, str], int] = {}
    for life, instance, attempt in begun:
        if attempt in starts and starts[attempt] > first_events[life]:
            before = latest.get((life, instance), 0)
            assert before < starts[attempt], f"attempt {attempt} begins before one that started earlier"
            latest[life, instance] = starts[attempt]
