"""Jobs that run in the test's own process, while they are submitted."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ContextDecorator
from functools import partial
from typing import Any

from msgspec import UNSET, Struct, convert
from msgspec.structs import asdict, fields, replace

from bgd.client.channel import Pause, install_backend
from bgd.client.functions import as_bound, in_words, target_of
from bgd.client.session import failure_of
from bgd.core.job import FINAL, Move, Outcome, RetryPolicy, State
from bgd.core.retry import policy_of, with_policy
from bgd.core.schedule_spec import ScheduleSpec
from bgd.core.schedules import problem_with_schedule
from bgd.core.spec import DEFAULT_QUEUE, JobSpec, problem_with
from bgd.core.target import is_allowed, parse_target, patterns_for
from bgd.daemon.access import check_may_run, user_name
from bgd.errors import BgdError, DaemonUnreachable, NoSuchJob, NotAllowed, Refused
from bgd.settings.config import Config, load
from bgd.testing.running import InlineRun, provide_bgd_job_once
from bgd.wire import requests
from bgd.wire.class_jobs import AttemptReport, after_previous, with_results
from bgd.wire.framing import FrameReader
from bgd.wire.messages import decode_request, tag_of
from bgd.wire.replies import (
    Acted,
    ActResult,
    AttemptsPart,
    BatchRuns,
    End,
    ErrorCode,
    EventsPart,
    Failed,
    JobsPart,
    Reply,
    Result,
    Shown,
    StepsPart,
    Submitted,
    code_of,
)
from bgd.wire.requests import Request
from bgd.wire.schedules import SchedulesSet, SetSchedules
from bgd.wire.views import AttemptView, EventView, JobError, JobView, Progress, StepState, StepView

logger = logging.getLogger(__name__)

_NO_HOME = "/nonexistent"  # a home without a configuration
_NOT_INLINE = "{} is not for jobs that run inline: use a private_daemon()"
_NO_LOG = "jobs that run inline have no log, their output goes where the test prints: use a private_daemon()"
_TOO_LATE = "the job has finished: inline() runs it while it is submitted"

Replies = Iterator[Reply | Pause]


def inline(*, allowed: Sequence[str] | None = None, may_fail: bool = False) -> _Block:
    """Run jobs in this process during a block, however they are submitted, and record them.

    A job has run, once, in the caller's thread when `submit` returns, whatever delay, time, dependency, hold
    or retries it has. It is found by its name, as a worker finds it; its arguments and its result go through
    JSON. In all threads, clients speak to this instead of a daemon. Commands are refused, and everything else
    that needs a daemon.

    Args:
        allowed: as `[security] allowed_classes` of a daemon; None: every function and method.
        may_fail: if false, the first job that failed is raised at the end of the block, unless its result was
            asked for.

    Raises:
        JobFailed: a job failed, and its result was never read.
    """
    return _Block(allowed, may_fail=may_fail)


class _Block(ContextDecorator):
    """The block of `inline`: a class, because pytest would show the frames of contextlib."""

    def __init__(self, allowed: Sequence[str] | None, *, may_fail: bool) -> None:
        self._allowed = allowed
        self._may_fail = may_fail
        self._entered: list[tuple[InlineBackend, AbstractContextManager[None]]] = []

    def __enter__(self) -> InlineJobs:
        provide_bgd_job_once()
        backend = InlineBackend(_config(self._allowed), allows_all=self._allowed is None)
        installed = install_backend(backend.answer)
        self._entered.append((backend, installed))
        installed.__enter__()
        return InlineJobs(backend)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        hide_frames()
        backend, installed = self._entered.pop()
        installed.__exit__(None, None, None)
        backend.end()
        if kind is None and not self._may_fail:
            InlineJobs(backend).check()


def hide_frames() -> None:
    """Let pytest show the line of a test and none of bgd's own frames below it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("bgd."):
            vars(module)["__tracebackhide__"] = True


def _config(allowed: Sequence[str] | None) -> Config:
    """Return the configuration of a daemon for which only `allowed` is configured."""
    defaults = load(environ={"HOME": _NO_HOME})
    security = replace(defaults.security, allowed_classes=tuple(allowed or ()))
    return replace(defaults, security=security, source=f"inline(allowed={list(allowed or ())})")


class InlineJobs:
    """The jobs that were submitted, oldest first."""

    def __init__(self, backend: InlineBackend) -> None:
        self._backend = backend

    @property
    def submitted(self) -> list[InlineJob]:
        """All jobs."""
        return list(self._backend.jobs)

    def of(self, what: Callable[..., Any] | str) -> list[InlineJob]:
        """Return the jobs of a function or target."""
        target = what if isinstance(what, str) else target_of(what)
        return [job for job in self._backend.jobs if job.target == target]

    def assert_submitted(self, what: Callable[..., Any] | str, *args: object, **kwargs: object) -> InlineJob:
        """Return the latest job of a function or target: with exactly these arguments, if any are given.

        For a function it does not matter which arguments have names, nor which defaults are written out.

        Raises:
            AssertionError: there is none. The message lists all jobs.
        """
        if found := self._matching(what, args, kwargs):
            return found[-1]
        others = "".join(f"\n  {job}" for job in self._backend.jobs) or " nothing"
        raise AssertionError(f"{_call_in_words(what, args, kwargs)} was not submitted; what was:{others}")

    def assert_not_submitted(self, what: Callable[..., Any] | str, *args: object, **kwargs: object) -> None:
        """Fail if there is a job of a function or target: with exactly these arguments, if any are given.

        Raises:
            AssertionError: there is one. The message shows it.
        """
        if found := self._matching(what, args, kwargs):
            raise AssertionError(f"{_call_in_words(what, args, kwargs)} was submitted: {found[-1]}")

    def check(self) -> None:
        """Raise the first failure of a job whose result was never read.

        Raises:
            JobFailed: that of the job.
        """
        backend = self._backend
        for job in backend.jobs:
            if job.state is State.FAILED and job.id not in backend.jobs_with_known_result:
                raise failure_of(_view_of(job, backend.config.retry), job.error)

    def _matching(
        self, what: Callable[..., Any] | str, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> list[InlineJob]:
        jobs = self.of(what)
        if not (args or kwargs):
            return jobs
        wanted = _comparable(what, args, kwargs)
        return [job for job in jobs if _comparable(what, job.args, job.kwargs) == wanted]


def _comparable(
    what: Callable[..., Any] | str, args: Sequence[object], kwargs: Mapping[str, object]
) -> object:
    """Return the arguments of a call as JSON would; it does not matter which of them have names."""
    bound = (args, kwargs) if isinstance(what, str) else as_bound(what, args, kwargs)
    return json.loads(json.dumps(bound, default=repr))  # a default may be anything


def _call_in_words(
    what: Callable[..., Any] | str, args: tuple[object, ...], kwargs: dict[str, object]
) -> str:
    target = what if isinstance(what, str) else target_of(what)
    return in_words(target, args, kwargs) if args or kwargs else target


class InlineJob(Struct, kw_only=True):
    """A job that ran inline or is running.

    Attributes:
        spec: what was submitted, with all options.
        result: what it returned, after JSON; None if it did not succeed.
        error: what it raised, with type, message and traceback; None if it succeeded.
        said: all progress that it reported.
        recorded: its steps, by position.
    """

    id: int
    spec: JobSpec
    state: State = State.QUEUED
    outcome: Outcome | None = None
    exit_code: int | None = None
    result_text: str | None = None
    error: JobError | None = None
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    said: list[Progress] = []
    recorded: dict[int, StepView] = {}

    def set_progress(self, fraction: float | None, message: str | None) -> None:
        """Record the progress that the job reports."""
        self.said.append(Progress(fraction, message))

    def save_step(self, step: dict[str, Any], _interrupted: object) -> None:
        """Record a step of the job, as a StepLog gives it."""
        state = StepState.DONE if step.pop("done") else StepState.OPEN
        self.recorded[step["position"]] = StepView(**step, state=state, at=time.time())

    @property
    def steps(self) -> list[StepView]:
        """What it recorded of its steps, in their order."""
        return [replace(self.recorded[position], value=UNSET) for position in sorted(self.recorded)]

    @property
    def progress(self) -> Progress | None:
        """The latest progress; None if the job reported none, or took it back."""
        return self.said[-1] if self.said and self.said[-1] != Progress() else None

    @property
    def target(self) -> str:
        return self.spec.target or ""

    @property
    def args(self) -> list[Any]:
        return list(self._arguments().get("args", ()))

    @property
    def kwargs(self) -> dict[str, Any]:
        return dict(self._arguments().get("kwargs", {}))

    @property
    def result(self) -> Any:
        return None if self.result_text is None else json.loads(self.result_text)

    def __str__(self) -> str:
        return in_words(self.target, self.args, self.kwargs)

    def _arguments(self) -> Any:
        return json.loads(self.spec.arguments or "{}")


class InlineBackend:
    """Answers clients in place of the daemon, and runs each job while it is submitted.

    Args:
        config: the configuration that jobs are checked against and that has their defaults.
        allows_all: allow every function and method, whatever `config` allows.
    """

    def __init__(self, config: Config, *, allows_all: bool) -> None:
        self.jobs: list[InlineJob] = []  # job 1 is the first
        self.jobs_with_known_result: set[int] = set()  # whose result was asked for
        self.config = config
        self._allows_all = allows_all
        self._events: list[EventView] = []
        self._schedules: dict[str, ScheduleSpec] = {}
        self._changed = threading.Condition()  # guards all of these; not held while a job runs
        self._running: dict[int, InlineRun] = {}
        self._is_over = False

    def answer(self, frames: bytes) -> Replies:
        """Yield the replies to a request; see `bgd.client.channel.Backend`."""
        parts = [decode_request(payload) for payload in FrameReader().feed(frames)]
        try:
            yield from self._answer(parts)
        except BgdError as error:
            yield Failed(parts[0].id, code_of(error), str(error))

    def end(self) -> None:
        """Wake all waiters, for the last time."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _answer(self, parts: list[Request]) -> Replies:
        match parts[0]:
            case requests.Submit(id=number, spec=spec):
                yield self._submit(number, [spec])
            case requests.SubmitMany() | requests.GetBatch():
                yield from self._answer_batch(parts)
            case requests.Show(id=number, job=job_id):
                job = self._job(job_id)
                yield Shown(number, self._view(job))
                yield AttemptsPart(number, [_attempt_of(job)])
                yield End(number)
            case requests.GetSteps(id=number, job=job_id, attempt=None):
                yield StepsPart(number, self._job(job_id).steps)
                yield End(number)
            case requests.Wait() as request:
                yield from self._stream_finished(request)
            case requests.GetResult(id=number, job=job_id):
                job = self._job(job_id)
                self.jobs_with_known_result.add(job_id)
                yield Result(number, self._view(job), job.result_text, job.error)
            case requests.GetEvents() as request:
                yield from self._stream_events(request)
            case SetSchedules() as request:
                yield self._set_schedules(request)
            case request if isinstance(request, requests.Action):
                act = self._cancel if tag_of(request) == "cancel" else _too_late
                yield Acted(request.id, [act(job_id) for job_id in request.jobs])
            case request:
                no_log = isinstance(request, requests.Logs)
                raise Refused(_NO_LOG if no_log else _NOT_INLINE.format(type(request).__name__))

    def _answer_batch(self, parts: list[Request]) -> Replies:
        number = parts[0].id
        if isinstance(parts[0], requests.GetBatch):
            yield BatchRuns(number, [], 0)  # no connection breaks, so there is never a rest
            yield End(number)
        else:
            batch = [part for part in parts if isinstance(part, requests.SubmitMany)]
            if batch[0].batch is not UNSET:
                raise Refused(_NOT_INLINE.format("Client.batch"))
            specs = [spec for part in batch for spec in part.specs]
            yield self._submit(number, specs, chain=batch[0].chain)

    def _stream_finished(self, request: requests.Wait) -> Replies:
        for job in map(self._job, request.jobs):
            if request.only_now and not _is_finished(job):
                continue
            yield partial(self._wait, partial(_is_finished, job))
            yield JobsPart(request.id, [self._view(job)])
        yield End(request.id)

    def _stream_events(self, request: requests.GetEvents) -> Replies:
        latest = len(self._events) if request.follow else 0
        since = latest if request.since is None else request.since
        yield EventsPart(request.id, [], since)
        while not self._is_over:
            events = self._events[since:]  # event 1 is at index 0
            since += len(events)
            yield EventsPart(request.id, events, since)
            if not request.follow:
                yield End(request.id)
                return
            yield partial(self._wait, lambda: len(self._events) > since)  # noqa: B023 - before the next turn
        raise DaemonUnreachable("jobs are no longer run inline")

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._is_over)

    def _job(self, job_id: int | None) -> InlineJob:
        number = len(self.jobs) if job_id is None else job_id
        if not 0 < number <= len(self.jobs):
            raise NoSuchJob(f"no job {job_id}" if job_id else "there is no job yet")
        return self.jobs[number - 1]

    def _view(self, job: InlineJob) -> JobView:
        return _view_of(job, self.config.retry)

    # --- submitting and running jobs ------------------------------------------------------------------

    def _submit(self, number: int, specs: list[JobSpec], *, chain: bool = False) -> Reply:
        if chain:
            first = len(self.jobs)
            specs[1:] = [after_previous(spec, first + place) for place, spec in enumerate(specs[1:], start=1)]
        for place, spec in enumerate(specs):
            self._check(spec)
            for each in spec.references:
                if each.job > len(self.jobs) + place:
                    self._job(each.job)
        jobs = [self._add(spec) for spec in specs]
        has_failed = False
        for job in jobs:
            if chain and has_failed:
                with self._changed:
                    job.finished_at = time.time()
                    self._set_state(job, Move.CANCEL, State.CANCELLED)
            else:
                self._run(job)
                has_failed = job.state is not State.SUCCEEDED
        return Submitted(number, [job.id for job in jobs])

    def _set_schedules(self, request: SetSchedules) -> Reply:
        """Answer as a daemon would; no schedule is ever due here."""
        for name, spec in request.schedules.items():
            self._check(spec.job)
            if (problem := problem_with_schedule(spec)) is not None:
                raise Refused(problem)
            if name in self._schedules and not request.replaces:
                raise Refused(f"there is a schedule {name} already")
        logger.info("inline() checks schedules and never runs them: %s", ", ".join(request.schedules))
        with self._changed:
            known, self._schedules = self._schedules, {**self._schedules, **request.schedules}
        added = [name for name in request.schedules if name not in known]
        unchanged = [name for name, spec in request.schedules.items() if known.get(name) == spec]
        changed = [name for name in request.schedules if name not in added and name not in unchanged]
        return SchedulesSet(request.id, added, changed, unchanged)

    def _check(self, spec: JobSpec) -> None:
        if spec.target is None:
            raise Refused("inline() runs only class jobs: for commands, use a private_daemon()")
        if (problem := problem_with(spec)) is not None:
            raise Refused(problem)
        config = self.config
        if self._allows_all:
            module = spec.target.partition(":")[0]
            config = replace(config, security=replace(config.security, allowed_classes=(f"{module}.*",)))
        else:
            _check_listed(spec.target, config)
        check_may_run(spec, config)

    def _add(self, spec: JobSpec) -> InlineJob:
        with self._changed:
            job = InlineJob(id=len(self.jobs) + 1, spec=spec, created_at=time.time())
            self.jobs.append(job)
            self._set_state(job, "submit", State.QUEUED)
        return job

    def _run(self, job: InlineJob) -> None:
        allowed = None if self._allows_all else self.config.security.allowed_classes
        run = InlineRun()
        with self._changed:
            job.started_at = time.time()
            self._running[job.id] = run
            self._set_state(job, Move.START, State.RUNNING)
        limit = threading.Timer(job.spec.timeout or 0, run.stop, [Outcome.TIMEOUT])
        if job.spec.timeout:
            limit.start()
        try:
            spec = self._filled(job.spec)
            if isinstance(spec, AttemptReport):
                report, exit_code = spec, 0
            else:
                report, exit_code = run.carry_out(spec, allowed, job.set_progress, job.save_step)
        finally:
            limit.cancel()
            with self._changed:
                del self._running[job.id]
        with self._changed:
            job.finished_at = time.time()
            job.outcome, job.result_text, job.error = report.outcome, report.value, report.error
            job.exit_code = exit_code if report.outcome is Outcome.EXIT else None
            self._set_state(job, *_MOVES.get(report.outcome, (Move.GIVE_UP, State.FAILED)))

    def _filled(self, spec: JobSpec) -> JobSpec | AttemptReport:
        """Return a spec with the results of other jobs in its arguments, or how the job ends without them."""
        if not spec.references:
            return spec
        results = dict[int, str]()
        for other in (self._job(each.job) for each in spec.references):
            if other.result_text is None:
                return _ended(Outcome.CANCELLED, f"job {other.id}, which had to succeed first, {other.state}")
            results[other.id] = other.result_text
        try:
            return replace(spec, arguments=with_results(spec.arguments, spec.references, results))
        except ValueError as error:
            return _ended(Outcome.REFUSED, str(error))

    def _cancel(self, job_id: int) -> ActResult:
        """Cancel a job that runs in another thread, or that cancels itself."""
        with self._changed:
            running = self._running.get(job_id)
        if running is None:
            return _too_late(job_id)
        running.stop(Outcome.CANCELLED)
        return ActResult(job_id)

    def _set_state(self, job: InlineJob, what: str, state: State) -> None:
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


def _check_listed(text: str, config: Config) -> None:
    """Refuse a target that is not allowed, with what to write in the test."""
    try:
        target = parse_target(text)
    except ValueError:  # check_may_run says what is wrong
        return
    if not is_allowed(target, config.security.allowed_classes):
        raise NotAllowed(f"{text} is not in {config.source}: add {patterns_for(target)[0]!r} there")


def _ended(outcome: Outcome, why: str) -> AttemptReport:
    return AttemptReport(outcome, error=JobError(outcome.value, why))


def _too_late(job_id: int) -> ActResult:
    return ActResult(job_id, code=ErrorCode.REFUSED, message=_TOO_LATE)


_MOVES = {
    Outcome.SUCCEEDED: (Move.SUCCEED, State.SUCCEEDED),
    Outcome.CANCELLED: (Move.CANCEL, State.CANCELLED),
}


def _is_finished(job: InlineJob) -> bool:
    return job.state in FINAL


# --- a job as the daemon would show it --------------------------------------------------------------------


def _view_of(job: InlineJob, defaults: RetryPolicy) -> JobView:
    """Return a job's view, with the default policy where its spec has none."""
    asked = asdict(with_policy(job.spec, policy_of(job.spec, defaults)))
    known = {
        "kind": "class",
        "queue": job.spec.queue or DEFAULT_QUEUE,
        "priority": job.spec.priority or 0,
        "user": user_name(os.getuid()),
        "attempt": int(job.started_at is not None),
    }
    return convert({**_alike(job, JobView), **asked, **known}, JobView)


def _attempt_of(job: InlineJob) -> AttemptView:
    """Return the view of a job's only attempt, which has no log and no figures."""
    known = {"attempt": 1, "log_path": "", "pid": os.getpid()}
    return convert({**_alike(job, AttemptView), **known}, AttemptView)


def _alike(job: InlineJob, kind: type[JobView | AttemptView]) -> dict[str, Any]:
    """Return the fields of a view that a job has by the same names; None for others without a default."""
    return {
        field.name: getattr(job, field.name, None)
        for field in fields(kind)
        if field.required or hasattr(job, field.name)
    }
