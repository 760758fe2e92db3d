"""Jobs and attempts as people see them."""

from __future__ import annotations

from msgspec import Struct

from bgd.core.job import Outcome, State


class JobView(Struct, frozen=True, kw_only=True):
    """A job as people see it. Instants are epoch seconds, durations seconds, None where there is nothing."""

    id: int
    kind: str  # command | class
    argv: list[str] | None
    target: str | None
    arguments: str | None  # JSON text {"args": [...], "kwargs": {...}}
    cwd: str | None
    user: str  # name, or uid where it has none
    state: State
    outcome: Outcome | None  # of the latest attempt that ended
    exit_code: int | None
    signal: int | None
    reason: str | None  # why, where state and outcome do not say it
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
    started_at: float | None  # of the latest attempt
    finished_at: float | None


class AttemptView(Struct, frozen=True, kw_only=True):
    attempt: int
    outcome: Outcome | None  # None while it runs
    exit_code: int | None
    signal: int | None
    started_at: float | None
    finished_at: float | None
    user_seconds: float | None
    system_seconds: float | None
    max_rss_bytes: int | None
    error: JobError | None
    log_bytes: int | None
    log_path: str
    pid: int | None


class JobError(Struct, frozen=True):
    """What a class job raised, or why an attempt was not started (then `type` is "not_started")."""

    type: str
    message: str
    traceback: str | None = None
