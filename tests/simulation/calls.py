"""Follow-ups and breakers in the simulation, and the laws that they keep."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from msgspec.structs import replace

from bgd.core.job import FINAL, Move, Outcome, Rate, RetryPolicy, State
from bgd.core.scheduler import REASONS_OF_CANCEL
from bgd.core.spec import JobSpec
from bgd.core.target import ClassPolicy
from bgd.daemon.job_actions import JobActions
from bgd.daemon.storage import records
from bgd.settings.config import Config
from bgd.wire.views import EventView
from tests.end_to_end.history import History

PATTERN = "app.calls"
FAILURES, WITHIN, PAUSE = 2, 30.0, 8.0
RULE = ClassPolicy(pause_after=Rate(FAILURES, WITHIN, "2 failures/30s"), pause_for=PAUSE)
FOLLOWED = {"on_failure": ("/job", "0.5", "0", "0"), "on_success": ("/job", "0.01", "3", "3")}
SLACK = 0.001  # seconds: as for rates
FAILED = {Outcome.EXIT, Outcome.SIGNAL, Outcome.TIMEOUT, Outcome.NOT_STARTED}


def with_breaker(config: Config) -> Config:
    return replace(config, classes={PATTERN: RULE})


def with_follow_ups(spec: JobSpec) -> JobSpec:
    return replace(spec, **FOLLOWED) if spec.retries == 0 else spec


def is_call(spec: JobSpec) -> bool:
    """Return whether commands of the simulation count as calls of the class that pauses."""
    return spec.retries in {1, 3}


@contextmanager
def calls() -> Iterator[None]:
    """Let some commands be calls."""
    policies = JobActions._with_policies

    def with_policies(self: JobActions, spec: JobSpec) -> tuple[JobSpec, RetryPolicy]:
        spec, policy = policies(self, spec)
        return spec, replace(policy, breaker=PATTERN) if is_call(spec) else policy

    with mock.patch.object(JobActions, "_with_policies", with_policies):
        yield


def followers(disk: sqlite3.Connection) -> dict[int, JobSpec]:
    """Return the jobs that follow others."""
    rows = disk.execute("SELECT job, spec FROM specs").fetchall()
    specs = {job: records.unpack_spec(packed) for job, packed in rows}
    return {job: spec for job, spec in specs.items() if spec.cause is not None}


def check_follow_ups(history: History, following: dict[int, JobSpec]) -> Counter[str]:
    """Check that one job follows each end for which a job names one, and no other."""
    ends: Counter[tuple[int, str, int]] = Counter()
    for event in history.events:
        spec = history.specs.get(event.job)
        is_asked = event.state is State.CANCELLED and event.reason in REASONS_OF_CANCEL
        if event.state in FINAL and event.what != "remove" and not is_asked and spec and spec.on_failure:
            name = "on_success" if event.state is State.SUCCEEDED else "on_failure"
            ends[event.job, name, event.attempt] += 1
    causes = [spec.cause for spec in following.values() if spec.cause is not None]
    followed = Counter((cause.id, cause.event, cause.attempt) for cause in causes)
    assert followed == ends, f"{followed - ends} followed without an end, nothing followed {ends - followed}"
    return Counter({"followed": followed.total()})


def check_breaker(history: History) -> Counter[str]:
    """Check that no call starts while calls are paused, except one that tries when the pause is over."""
    found: Counter[str] = Counter()
    failures: list[float] = []
    paused_until: float | None = None
    trial: int | None = None
    for event in history.events:
        spec = history.specs.get(event.job)
        if spec is None or not is_call(spec):
            continue
        if event.what == Move.START and paused_until is not None:
            assert trial is None, f"job {event.job} started while job {trial} tried"
            assert event.at >= paused_until - SLACK, f"job {event.job} started while calls were paused"
            trial = event.job
            found["tried"] += 1
        elif event.outcome is not None and paused_until is None:
            failures = _after(failures, event)
            if len(failures) >= FAILURES:
                failures, paused_until = [], event.at + PAUSE
                found["paused"] += 1
        elif event.outcome is not None and event.job == trial:
            trial = None
            if event.outcome is Outcome.SUCCEEDED:
                paused_until = None
            elif event.outcome in FAILED:
                paused_until = event.at + PAUSE
    return found


def _after(failures: list[float], event: EventView) -> list[float]:
    """Return the failures that count after the end of an attempt."""
    if event.outcome not in FAILED:
        return failures
    return [*(at for at in failures if at > event.at - WITHIN), event.at]
