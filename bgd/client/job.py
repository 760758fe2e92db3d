"""A job as a program holds it: what was last heard of it, and what can be done with it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bgd.client.session import state_of
from bgd.core.job import Outcome, State
from bgd.errors import JobFailed
from bgd.wire.replies import LogPart
from bgd.wire.views import AttemptView, JobError, JobView

if TYPE_CHECKING:
    from bgd.client.client import Client


class Job:
    """One job. Its attributes are those of `JobView`, as they were when the job was last looked at.

    The first look is at the first attribute asked for; `refresh` and `wait` look again. Instants are epoch
    seconds, durations seconds, None where there is nothing.
    """

    kind: str
    argv: list[str] | None
    target: str | None
    arguments: str | None
    cwd: str | None
    user: str
    state: State
    outcome: Outcome | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    queue: str
    priority: int
    name: str | None
    tags: list[str]
    retries: int
    retry_delay: float
    backoff: float
    max_delay: float
    jitter: float
    rerun: bool | None
    timeout: float | None
    delay: float
    umask: int | None
    attempt: int
    created_at: float
    due_at: float | None
    started_at: float | None
    finished_at: float | None
    retry_on: list[int] | None
    no_retry_on: list[int] | None
    at: float | None
    expires: float | None
    expires_at: float | None
    after: list[int]
    after_any: list[int]
    waits_for: list[int]
    key: str | None
    slots: int
    stdin: str | None
    pty: bool
    suspended: bool

    def __init__(self, client: Client, job_id: int, view: JobView | None = None) -> None:
        self.id = job_id
        self._client = client
        self._view = view

    @property
    def view(self) -> JobView:
        """What was last heard of the job, as one value that does not change."""
        if self._view is None:
            self._view = self._client.view(self.id)
        return self._view

    if not TYPE_CHECKING:  # the annotations above say which there are

        def __getattr__(self, name):
            if name not in JobView.__struct_fields__:
                raise AttributeError(f"a job has no {name!r}")
            return getattr(self.view, name)

    def refresh(self) -> Job:
        """Look again; returns the job itself."""
        self._view = self._client.view(self.id)
        return self

    def wait(self, timeout: float | None = None) -> Job:
        """Wait until the job has finished; returns the job itself.

        Raises:
            TimeoutError: it has not within `timeout` seconds.
        """
        self._view = self._client.wait([self.id], timeout=timeout)[0].view
        return self

    def result(self, timeout: float | None = None) -> object:
        """Wait, then return what a class job returned, for a command 0.

        Raises:
            JobFailed: it did not succeed.
            TimeoutError: it has not finished within `timeout` seconds.
        """
        return self._client.result(self.id, timeout=timeout)

    def attempts(self) -> list[AttemptView]:
        return self._client.attempts(self.id)

    def logs(
        self,
        *,
        attempt: int | None = None,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> Generator[LogPart, None, None]:
        """Yield the job's output; see `Client.logs`."""
        return self._client.logs(self.id, attempt=attempt, follow=follow, tail=tail, timestamps=timestamps)

    def cancel(self) -> State:
        """Cancel the job; return its new state: cancelled, or stopping while it is made to end.

        Raises:
            Refused: it has finished already.
        """
        return state_of(self._client.cancel([self.id])[0])

    def retry(self) -> State:
        """Queue the finished job again, with its retries unused; return its new state.

        Raises:
            Refused: it has not finished.
        """
        return state_of(self._client.retry([self.id])[0])

    def __repr__(self) -> str:
        return f"<Job {self.id}>" if self._view is None else f"<Job {self.id} {self._view.state}>"


def failure_of(view: JobView, error: JobError | None) -> JobFailed:
    """Return what `result` raises for a job that did not succeed."""
    return JobFailed(
        f"job {view.id} {_words(view)}" + (f": {error.type}: {error.message}" if error else ""),
        outcome=view.outcome,
        exit_code=view.exit_code,
        error_type=None if error is None or error.type == Outcome.NOT_STARTED else error.type,
        error_message=error.message if error else None,
        traceback=error.traceback if error else None,
    )


def _words(view: JobView) -> str:
    if view.state is State.CANCELLED:
        return "was cancelled"
    if view.outcome is Outcome.EXIT:
        return f"failed with exit code {view.exit_code}"
    if view.outcome is Outcome.SIGNAL:
        return f"was killed by signal {view.signal}"
    return f"failed ({view.outcome})"
