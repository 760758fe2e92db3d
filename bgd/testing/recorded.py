"""What was handed over and run inline: one job, as tests look at it and as the daemon would show it."""

from __future__ import annotations

import json
import os
import pwd
from typing import Any

from msgspec import Struct, convert
from msgspec.structs import asdict, fields

from bgd.core.job import Outcome, RetryPolicy, State
from bgd.core.retry import policy_of, with_policy
from bgd.core.spec import DEFAULT_QUEUE, JobSpec
from bgd.wire.views import AttemptView, JobError, JobView, Progress


class InlineJob(Struct, kw_only=True):
    """A job that ran inline, or runs.

    Attributes:
        spec: what was asked for, with all options.
        result: what it returned, as JSON brings it back; None if it did not succeed.
        error: what it raised, with type, message and traceback; None if it succeeded.
        said: how far it said it was, each time.
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

    def hear(self, fraction: float | None, message: str | None) -> None:
        """Take what the job says of how far it is."""
        self.said.append(Progress(fraction, message))

    @property
    def progress(self) -> Progress | None:
        """What it said last; None if it said nothing, or took it back."""
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
        words = [repr(value) for value in self.args]
        words += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.target}({', '.join(words)})"

    def _arguments(self) -> Any:
        return json.loads(self.spec.arguments or "{}")


def view_of(job: InlineJob, defaults: RetryPolicy) -> JobView:
    """Return a job as a daemon would show it, with this policy where it asks for none."""
    asked = asdict(with_policy(job.spec, policy_of(job.spec, defaults)))
    known = {
        "id": job.id,
        "kind": "class",
        "queue": job.spec.queue or DEFAULT_QUEUE,
        "priority": job.spec.priority or 0,
        "user": _user(),
        "state": job.state,
        "outcome": job.outcome,
        "exit_code": job.exit_code,
        "attempt": int(job.started_at is not None),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "progress": job.progress,
    }
    return convert({**dict.fromkeys(_REQUIRED), **asked, **known}, JobView)


def attempt_of(job: InlineJob) -> AttemptView:
    """Return its one attempt as a daemon would show it; there is no log, and no figures."""
    return AttemptView(
        attempt=1,
        outcome=job.outcome,
        exit_code=job.exit_code,
        signal=None,
        started_at=job.started_at,
        finished_at=job.finished_at,
        user_seconds=None,
        system_seconds=None,
        max_rss_bytes=None,
        error=job.error,
        log_bytes=None,
        log_path="",
        pid=os.getpid(),
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


_REQUIRED = [field.name for field in fields(JobView) if field.required]
