# Made from bgd/client/asynchronous/asking.py by `make client`: change that.
"""Asking: what has become of jobs, once or as it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from typing import Any, TypeVar, overload

from bgd.client.blocking.acting import Acting
from bgd.client.blocking.job import Job
from bgd.client.failure import failure_of
from bgd.client.resume import EventRemainder, LogRemainder, WaitRemainder
from bgd.client.session import UNNUMBERED, expected
from bgd.client.specs import JobReference, checked, ids_of, portions, states_of
from bgd.core.job import State
from bgd.wire import replies, requests
from bgd.wire.replies import LogPart
from bgd.wire.views import AttemptView, EventView, JobProgress, JobView

R = TypeVar("R")


class Asking(Acting):
    """The part of a client that looks at jobs and waits for them; with acting all that a job needs of one."""

    def job(self, job_id: int | None = None) -> Job:
        """Look a job up; None: the caller's latest.

        Raises:
            NoSuchJob: there is none.
        """
        view = self.view(job_id)
        return Job(self, view.id, view)

    def jobs(
        self,
        *,
        states: Iterable[State | str] | None = None,
        queue: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        before: int | None = None,
        limit: int = requests.DEFAULT_LIST,
    ) -> list[Job]:
        """List at most `limit` jobs, newest first.

        Without `states` these are the unfinished and the latest finished ones. `name` is a shell pattern;
        `since`, in epoch seconds, leaves out what was submitted before. `before` leaves out that id and
        those above it. With `states` or `before` the last job of a list leads to the next one; without both
        a list begins with what runs and waits, however old, and its oldest finished job leads on.
        """
        request = requests.List(
            id=UNNUMBERED,
            states=states_of(states) if states else None,
            queue=queue,
            name=name,
            tag=tag,
            since=since,
            before=before,
            limit=limit,
        )
        parts = self._channel.collect(checked(request))
        views = [view for part in parts for view in expected(part, replies.JobsPart).jobs]
        return [Job(self, view.id, view) for view in views]

    def wait(self, jobs: Iterable[JobReference], *, timeout: float | None = None) -> list[Job]:
        """Wait until all of these jobs have finished; return them in this order.

        Raises:
            TimeoutError, NoSuchJob, DaemonUnreachable: as `as_finished`.
        """
        wanted = ids_of(jobs)
        finished = {job.id: job for job in self.as_finished(wanted, timeout=timeout)}
        return [finished[job_id] for job_id in wanted]

    def as_finished(
        self,
        jobs: Iterable[JobReference],
        *,
        timeout: float | None = None,
        on_progress: Callable[[JobProgress], object] | None = None,
    ) -> Generator[Job, None, None]:
        """Yield jobs as they finish, those at once that have; it goes on when the daemon was restarted.

        `on_progress` is called meanwhile with what those that run say of themselves, first with what they
        said last, then once a second at most.

        Raises:
            TimeoutError: not all have within `timeout` seconds from the first step; 0: by now.
            NoSuchJob: one of them does not exist.
            DaemonUnreachable: there is no daemon, or none came back within the client's timeout.
        """
        only_now = timeout is not None and timeout <= 0
        patience = self._channel.timeout if only_now else timeout  # an answer takes its time even so
        deadline = None if patience is None else time.monotonic() + patience
        wanted = list(dict.fromkeys(ids_of(jobs)))
        count, late = len(wanted), None
        try:
            for portion in portions(wanted):
                rest = WaitRemainder(portion, on_progress, only_now=only_now)
                with closing(self._channel.follow(rest.request, deadline)) as parts:
                    for part in parts:
                        for view in rest.take(part):
                            count -= 1
                            yield Job(self, view.id, view)
                late = rest.first if late is None else late
        except TimeoutError:
            raise _unfinished(rest.first, count, timeout) from None
        if late is not None:  # the daemon was not to wait for it
            raise _unfinished(late, count, timeout)

    @overload
    def result(self, job: Job[R], *, timeout: float | None = None) -> R: ...
    @overload
    def result(self, job: JobReference, *, timeout: float | None = None) -> object: ...
    def result(self, job: JobReference, *, timeout: float | None = None) -> object:
        """Wait for a job, then return what a class job returned, for a command 0.

        Raises:
            JobFailed: it did not succeed.
            TimeoutError, NoSuchJob, DaemonUnreachable: as `as_finished`.
        """
        [finished] = self.wait([job], timeout=timeout)
        return self.returned(finished.id)

    def logs(
        self,
        job: JobReference,
        *,
        attempt: int | None = None,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> Generator[LogPart, None, None]:
        """Yield a job's output in pieces; it goes on when the daemon was restarted, every byte once.

        `attempt` None is the latest one, 0 all of them, oldest first. With `follow` it goes on until the job
        has finished, across attempts. `tail`: only so many last lines of what there is. `timestamps` tells,
        in `LogPart.times`, when the bytes came.
        """
        [job_id] = ids_of([job])
        request = requests.Logs(
            id=UNNUMBERED, job=job_id, attempt=attempt, follow=follow, tail=tail, timestamps=timestamps
        )
        rest = LogRemainder(checked(request))
        with closing(self._channel.follow(rest.request, alone=True)) as parts:
            for part in parts:
                if (piece := rest.take(part)) is not None:
                    yield piece

    def events(
        self, since: int | None = None, *, follow: bool = True, progress: bool = False
    ) -> Generator[EventView, None, None]:
        """Yield what happens to jobs; it goes on when the daemon was restarted, every event once.

        `since` is the id of the last event that is known, 0: begin with the oldest that is kept. None: from
        the first step on, without `follow` from the oldest. With `follow` it does not end.

        With `progress`, and `follow`, what jobs say of themselves comes too, as it is said and once a second
        at most: as events whose `what` is "progress". They are not kept, and bear the id of the one before.

        Raises:
            Refused: events after `since` are no longer kept.
        """
        request = requests.GetEvents(id=UNNUMBERED, since=since, follow=follow, progress=progress)
        rest = EventRemainder(checked(request))
        with closing(self._channel.follow(rest.request, alone=True)) as parts:
            for part in parts:
                for event in rest.take(part):
                    yield event

    def last_event(self) -> int:
        """Return the id of the latest event: `events` since it tells all that happens from now on."""
        request = requests.GetEvents(id=UNNUMBERED, follow=True)
        with closing(self._channel.follow(lambda: request)) as parts:
            return expected(next(parts), replies.EventsPart).last

    # --- what jobs ask for ----------------------------------------------------------------------------

    def view(self, job_id: int | None = None) -> JobView:
        """Return a job as the daemon shows it; None: the caller's latest."""
        [shown, *_] = self._channel.collect(checked(requests.Show(UNNUMBERED, job_id)))
        return expected(shown, replies.Shown).job

    def attempts(self, job_id: int) -> list[AttemptView]:
        """Return all attempts of a job, oldest first."""
        [_, *parts] = self._channel.collect(checked(requests.Show(UNNUMBERED, job_id)))
        return [attempt for part in parts for attempt in expected(part, replies.AttemptsPart).attempts]

    def returned(self, job_id: int) -> Any:
        """Return what a finished job returned, even if the daemon is just away; see `result`."""
        request = requests.GetResult(UNNUMBERED, job_id)
        ask = partial(self._channel.ask, request, replies.Result, repeatable=True)
        reply = self._channel.persist(ask)
        if reply.job.state is not State.SUCCEEDED:
            raise failure_of(reply.job, reply.error)
        if reply.job.target is None:
            return 0
        return None if reply.value is None else json.loads(reply.value)


def _unfinished(first: int | None, count: int, timeout: float | None) -> TimeoutError:
    jobs = f"job {first} has" if count == 1 else f"{count} jobs have"
    return TimeoutError(f"{jobs} not finished within {timeout or 0:g} s")
