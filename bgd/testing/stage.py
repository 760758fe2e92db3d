"""The stage: it answers clients in the daemon's place, and runs each job while it is being handed over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from msgspec.structs import replace

from bgd.client.transport import Pause
from bgd.config import Config
from bgd.core.job import FINAL, Move, Outcome, State
from bgd.core.spec import JobSpec, problem_with
from bgd.daemon.access import check_may_run
from bgd.errors import BgdError, DaemonUnreachable, NoSuchJob, Refused
from bgd.testing.recorded import InlineJob, attempt_of, view_of
from bgd.testing.running import run
from bgd.wire import requests
from bgd.wire.framing import FrameReader
from bgd.wire.messages import decode_request
from bgd.wire.replies import (
    Acted,
    ActResult,
    AttemptsPart,
    End,
    ErrorCode,
    EventsPart,
    Failed,
    JobsPart,
    Reply,
    Result,
    Shown,
    Submitted,
    code_of,
)
from bgd.wire.requests import Request
from bgd.wire.views import EventView, JobView

Answer = Iterator[Reply | Pause]

_ACTIONS = (
    requests.Cancel,
    requests.Retry,
    requests.Hold,
    requests.Release,
    requests.Suspend,
    requests.Continue,
    requests.SendSignal,
    requests.Remove,
    requests.Edit,
)


class Stage:
    """Jobs that run where they are submitted, and are finished when `submit` returns.

    Args:
        config: what a job is judged by, and its policy.
        allows_all: but not the list of what may be called.
    """

    def __init__(self, config: Config, *, allows_all: bool) -> None:
        self.jobs: list[InlineJob] = []  # by their ids, which begin with 1
        self.asked_for: set[int] = set()  # those whose result somebody wanted to know
        self.config = config
        self._allows_all = allows_all
        self._events: list[EventView] = []
        self._changed = threading.Condition()  # of all of these; not held while a job runs
        self._is_over = False

    def answer(self, frames: bytes) -> Answer:
        """Yield the replies to a request; see `bgd.client.transport`."""
        parts = [decode_request(payload) for payload in FrameReader().feed(frames)]
        try:
            yield from self._answer(parts)
        except BgdError as error:
            yield Failed(parts[0].id, code_of(error), str(error))

    def end(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _answer(self, parts: list[Request]) -> Answer:
        match parts[0]:
            case requests.Submit(id=number, spec=spec):
                yield self._submit(number, [spec])
            case requests.SubmitMany(id=number):
                batch = [part for part in parts if isinstance(part, requests.SubmitMany)]
                yield self._submit(number, [spec for part in batch for spec in part.specs])
            case requests.Show(id=number, job=job_id):
                job = self._job(job_id)
                yield Shown(number, self._view(job))
                yield AttemptsPart(number, [attempt_of(job)])
                yield End(number)
            case requests.Wait(id=number, jobs=job_ids, only_now=only_now):
                for job in map(self._job, job_ids):
                    if only_now and not _is_finished(job):
                        continue
                    yield self._until(partial(_is_finished, job))
                    yield JobsPart(number, [self._view(job)])
                yield End(number)
            case requests.GetResult(id=number, job=job_id):
                job = self._job(job_id)
                self.asked_for.add(job_id)
                yield Result(number, self._view(job), job.result_text, job.error)
            case requests.GetEvents() as request:
                yield from self._tell(request)
            case request if isinstance(request, _ACTIONS):
                results = [
                    ActResult(each, code=ErrorCode.REFUSED, message=_TOO_LATE) for each in request.jobs
                ]
                yield Acted(request.id, results)
            case request:
                raise Refused(_NOT_HERE.format(type(request).__name__))

    def _tell(self, request: requests.GetEvents) -> Answer:
        oldest = len(self._events) if request.follow else 0
        since = oldest if request.since is None else request.since
        yield EventsPart(request.id, [], since)
        while not self._is_over:
            events = self._events[since:]  # of which the id tells the place
            since += len(events)
            yield EventsPart(request.id, events, since)
            if not request.follow:
                yield End(request.id)
                return
            yield self._until(partial(self._has_events_since, since))
        raise DaemonUnreachable("jobs are no longer run inline")

    # --- jobs -------------------------------------------------------------------------------------------

    def _submit(self, number: int, specs: list[JobSpec]) -> Reply:
        for spec in specs:
            self._check(spec)
        jobs = [self._taken(spec) for spec in specs]
        for job in jobs:
            self._run(job)
        return Submitted(number, [job.id for job in jobs])

    def _check(self, spec: JobSpec) -> None:
        if spec.target is None:
            raise Refused("inline() runs class jobs alone: for commands, have a private_daemon()")
        if (problem := problem_with(spec)) is not None:
            raise Refused(problem)
        config = self.config
        if self._allows_all:
            module = spec.target.partition(":")[0]
            config = replace(config, security=replace(config.security, allowed_classes=(f"{module}.*",)))
        check_may_run(spec, config)

    def _taken(self, spec: JobSpec) -> InlineJob:
        with self._changed:
            job = InlineJob(id=len(self.jobs) + 1, spec=spec, created_at=time.time())
            self.jobs.append(job)
            self._note(job, "submit", State.QUEUED)
        return job

    def _run(self, job: InlineJob) -> None:
        with self._changed:
            job.started_at = time.time()
            self._note(job, Move.START, State.RUNNING)
        allowed = None if self._allows_all else self.config.security.allowed_classes
        account, exit_code = run(job.target, job.spec.arguments, allowed, job.hear)
        with self._changed:
            job.finished_at = time.time()
            job.outcome, job.result_text, job.error = account.outcome, account.value, account.error
            job.exit_code = exit_code if account.outcome is Outcome.EXIT else None
            has_succeeded = account.outcome is Outcome.SUCCEEDED
            move = Move.SUCCEED if has_succeeded else Move.GIVE_UP
            self._note(job, move, State.SUCCEEDED if has_succeeded else State.FAILED)

    def _note(self, job: InlineJob, what: str, state: State) -> None:
        job.state = state
        event = EventView(
            id=len(self._events) + 1,
            at=time.time(),
            job=job.id,
            what=what,
            state=state,
            attempt=int(job.started_at is not None),
            outcome=job.outcome,
        )
        self._events.append(event)
        self._changed.notify_all()

    # --- looking ----------------------------------------------------------------------------------------

    def _job(self, job_id: int | None) -> InlineJob:
        number = len(self.jobs) if job_id is None else job_id
        if not 0 < number <= len(self.jobs):
            raise NoSuchJob(f"no job {job_id}" if job_id else "there is no job yet")
        return self.jobs[number - 1]

    def _view(self, job: InlineJob) -> JobView:
        return view_of(job, self.config.retry)

    def _has_events_since(self, since: int) -> bool:
        return len(self._events) > since

    def _until(self, condition: Callable[[], bool]) -> Pause:
        return partial(self._wait, condition)

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._is_over)


def _is_finished(job: InlineJob) -> bool:
    return job.state in FINAL


_NOT_HERE = "{} is not for jobs that are run inline: have a private_daemon()"
_TOO_LATE = "the job has finished: inline() runs it while it is submitted"
