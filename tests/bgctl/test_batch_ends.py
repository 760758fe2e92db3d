"""The ends of a batch's jobs, with a daemon that forgets events and jobs."""

from __future__ import annotations

import threading
from typing import Any, cast

from msgspec.structs import replace

from bgctl.batch_ends import Ends
from bgctl.batch_resume import Standing
from bgd import Client, Job, NoSuchJob, State
from bgd.client.batch import Taken
from bgd.errors import DaemonUnreachable, Refused
from bgd.wire.views import EventView
from tests.client.scripted import view_of
from tests.support import DEADLINE


class FakeDaemon:
    """Has jobs in some states, and events that come when the test says so."""

    def __init__(self, **states: State | None) -> None:
        self.states = {int(name.removeprefix("job")): state for name, state in states.items()}
        self.go_on = threading.Event()
        self.is_gone = False
        self.then: BaseException | list[int] = []
        self._calls = 0

    def last_event(self) -> int:
        return 7

    def reconnect(self) -> None:
        if self.is_gone:
            raise DaemonUnreachable("no daemon answers")

    def events(self, since: int) -> Any:
        assert since == 7
        self._calls += 1
        if self._calls > 1:
            threading.Event().wait()  # nothing more happens, until the process ends
        self.go_on.wait(DEADLINE)
        if isinstance(self.then, BaseException):
            raise self.then
        for job in self.then:
            yield EventView(id=8, at=0.0, job=job, what="succeed", state=State.SUCCEEDED, attempt=1)
        threading.Event().wait()

    def as_finished(self, job_ids: list[int], *, timeout: float) -> Any:
        assert timeout == 0
        if any(self.states.get(job_id) is None for job_id in job_ids):
            raise NoSuchJob("no job")
        yield from (self.job(job_id) for job_id in job_ids if self.states[job_id] is not State.QUEUED)
        if State.QUEUED in map(self.states.get, job_ids):
            raise TimeoutError

    def job(self, job_id: int) -> Job:
        state = self.states.get(job_id)
        if state is None:
            raise NoSuchJob(f"no job {job_id}")
        attempt = 0 if state is State.CANCELLED else 1
        return Job(cast("Client", None), job_id, replace(view_of(job_id, state), attempt=attempt))


def ends_of(daemon, *runs):
    told: list[int] = []
    nothing = (lambda: None,) * 2
    ends = Ends(cast("Client", daemon), None, None, *nothing, lambda line, _: told.append(line))
    ends.start()
    ends.add(Taken(list(runs)))
    return ends, told


def wait_for(ends):
    assert ends.is_done.wait(DEADLINE)
    counts = (ends.counts[each] for each in (Standing.FAILED, Standing.UNSTARTED, Standing.LOST))
    return (ends.jobs, ends.ended, *counts)


def test_jobs_are_looked_at_when_events_are_no_longer_kept():
    daemon = FakeDaemon(job1=State.SUCCEEDED, job2=State.FAILED)
    ends, told = ends_of(daemon, (1, 1, 2))
    ends.add_no_more()
    daemon.then = Refused("events after 7 are no longer kept")
    daemon.go_on.set()

    assert wait_for(ends) == (2, 2, 1, 0, 0)
    assert told == [1, 2]


def test_an_end_that_is_heard_of_before_the_line_is_taken_counts():
    daemon = FakeDaemon(job1=State.SUCCEEDED, job5=State.SUCCEEDED, job9=State.SUCCEEDED)
    daemon.then = [9, 5, 1]
    ends, _ = ends_of(daemon, (1, 1, 1))
    daemon.go_on.set()
    ends.add(Taken([(2, 5, 1)]))
    ends.add_no_more()

    assert wait_for(ends) == (2, 2, 0, 0, 0)


def test_jobs_that_were_deleted_are_counted_apart():
    daemon = FakeDaemon(job1=State.SUCCEEDED, job2=None)
    daemon.then = [1, 2]
    ends, told = ends_of(daemon, (1, 1, 2))
    ends.add_no_more()
    daemon.go_on.set()

    assert wait_for(ends) == (2, 2, 0, 0, 1)
    assert told == [1]


def test_a_daemon_that_stays_away_ends_the_waiting():
    daemon = FakeDaemon(job1=State.QUEUED)
    ends, _ = ends_of(daemon, (1, 1, 1))
    daemon.is_gone = True
    daemon.then = DaemonUnreachable("no daemon answers")
    daemon.go_on.set()

    assert wait_for(ends) == (1, 0, 0, 0, 0)
    assert isinstance(ends.error, DaemonUnreachable)
