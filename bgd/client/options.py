"""The keywords and attributes of a job, for type checkers and editors."""

# Made by tests/client/options.py from the fields of JobSpec and JobView: `make client` writes it.

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

if TYPE_CHECKING:  # a job's module that uses bgd.job imports this one in each worker
    from datetime import datetime

    from bgd.core.explain import Reason
    from bgd.core.job import Outcome, State
    from bgd.core.spec import Isolation, JobCause, KeyUntil, OnLimit, StopSignal
    from bgd.wire.views import Progress

Duration = float | str | timedelta
"""Seconds, a text such as "10s" or "1h30m", or a timedelta."""


class HasId(Protocol):
    """Anything with a job's id: a Job, an AsyncJob, a JobView."""

    @property
    def id(self) -> int: ...


JobReference = int | HasId
"""A job's id, or an object that has one."""


class EditableOptions(TypedDict, total=False):
    """Options that mean the same in JobOptions and in EditOptions."""

    name: str | None
    tags: Sequence[str]
    retries: int | None
    retry_delay: Duration | Sequence[Duration] | None
    retry_until: Duration | None
    backoff: float | None
    max_delay: Duration | None
    jitter: float | None
    retry_on: Sequence[int] | str | None
    no_retry_on: Sequence[int] | str | None
    rerun: bool | None
    stop_signal: Literal["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "WINCH", "KILL"] | None
    at: float | str | datetime | None
    expires: Duration | None
    after: Sequence[JobReference]
    after_any: Sequence[JobReference]
    slots: int
    resources: Mapping[str, int] | None
    limit: str | tuple[str, int] | None
    on_limit: Literal["wait", "skip"] | None
    stdin: str | os.PathLike[str] | None
    pty: bool
    isolation: Literal["fork", "spawn", "reuse"] | None
    executor: str | None
    cpus: int | None
    memory: int | str | None
    nodes: int | None
    gpus: int | None
    gres: str | None
    partition: str | None
    account: str | None
    time: str | None
    slurm_options: Sequence[str] | None
    keep_leftovers: bool
    nice: int | None
    memory_max: int | str | None
    cpu_max: int | str | None
    pids_max: int | None
    open_files: int | None
    core_max: int | str | None
    notify: str | None
    on_failure: str | Sequence[str | os.PathLike[str]] | Callable[..., object] | None
    on_success: str | Sequence[str | os.PathLike[str]] | Callable[..., object] | None


class FurtherOptions(EditableOptions, total=False):
    """Options of any job. The daemon's configuration decides what is left out.

    Sizes are bytes or texts such as "2GB". Times are texts such as "tomorrow 9:00", datetimes, or epoch
    seconds; without a time zone they are local.

    * `env_pass`: variables of the caller to pass on: "all" (default for commands), "none" (default for class
      jobs) or a list of names. `env` adds to them.
    * `shell`: argv is one string for /bin/sh.
    * `check`: refuse a command whose program, folder or input is missing here, and a call that cannot
      succeed. `submit_many` does not check programs.
    * `queue`: queue to submit to.
    * `priority`: higher starts first: -1000 to 1000, usually 0.
    * `name`: name of the job.
    * `tags`: tag to filter by; may be repeated.
    * `retries`: retry up to this many times after a failure.
    * `retry_delay`: pause before a retry.
    * `retry_until`: retry until this long after the submit.
    * `backoff`: multiply the pause by F after each retry.
    * `max_delay`: longest pause before a retry.
    * `jitter`: vary pauses randomly by this fraction.
    * `retry_on`: retry only after these codes; 124 is the time limit.
    * `no_retry_on`: retry after all exit codes except these.
    * `rerun`: rerun an attempt whose outcome was lost.
    * `timeout`: time limit for each attempt.
    * `stop_signal`: stop signal (default TERM).
    * `delay`: wait at least this long before starting.
    * `at`: start at this time.
    * `expires`: cancel the job unless it starts within this time.
    * `after`: start after these jobs have succeeded.
    * `after_any`: start after these jobs finish, even if they fail.
    * `key`: queue only one unfinished job with this key.
    * `key_until`: free the key at the job's start or end.
    * `key_for`: keep the key for this long after the end.
    * `debounce`: start this long after the latest submit with its key.
    * `slots`: slots to occupy while running.
    * `resources`: tokens of a resource to hold while running: gpu=1.
    * `limit`: run at most N jobs with this key at once.
    * `on_limit`: wait for the limit, or skip the job.
    * `hold`: wait until the job is released.
    * `cwd`: run in this folder.
    * `umask`: file mode creation mask.
    * `env`: set an environment variable.
    * `stdin`: read this file as standard input.
    * `input`: bytes to read as standard input.
    * `pty`: run in a pseudo-terminal.
    * `isolation`: fork, spawn or reuse an interpreter.
    * `executor`: executor to run the job on.
    * `cpus`: CPUs per node on a cluster.
    * `memory`: memory per node on a cluster.
    * `nodes`: number of nodes on a cluster.
    * `gpus`: number of GPUs on a cluster.
    * `gres`: slurm resources per node.
    * `partition`: partition of Slurm.
    * `account`: account of Slurm to charge.
    * `time`: time to ask Slurm for: minutes or H:MM:SS.
    * `slurm_options`: option of sbatch, such as --qos=high; may be repeated.
    * `keep_leftovers`: do not kill leftover processes.
    * `nice`: niceness, -20 to 19; higher yields to others.
    * `memory_max`: limit on memory.
    * `cpu_max`: CPU limit in percent; 150 = 1.5 CPUs.
    * `pids_max`: limit on processes and threads.
    * `open_files`: limit on open files of each process.
    * `core_max`: limit on the size of core files; 0: none.
    * `notify`: notify this target when the job ends.
    * `on_failure`: run this command or target if the job fails.
    * `on_success`: run this command or target if the job succeeds.
    * `session`: session whose inbox gets the job's end.
    """

    env_pass: str | Sequence[str]
    shell: bool
    check: bool
    queue: str | None
    key: str | None
    key_until: Literal["start", "end"] | None
    key_for: Duration | None
    debounce: Duration | None
    hold: bool
    cwd: str | os.PathLike[str] | None
    umask: int | None
    env: Mapping[str, str] | None
    input: bytes | str | None
    session: str | None


class JobOptions(FurtherOptions, total=False):
    """All options of a job. `run_background_job` has these three as parameters of its own."""

    priority: int | None
    delay: Duration
    timeout: Duration | None


class MapOptions(JobOptions, total=False):
    """Options of the jobs of a map, and of the map itself. A `key` is refused.

    * `time_limit`: for each attempt; other jobs call this `timeout`.
    * `timeout`: for all results, counted from the first step. None: no limit.
    * `buffersize`: how many jobs may be queued whose results were not taken yet.
    * `progress`: draw a bar on stderr. None: only if stderr is a terminal.
    """

    time_limit: Duration | None
    buffersize: int
    progress: bool | None


class EditOptions(EditableOptions, total=False):
    """Options that can change while a job waits; they mean what they mean in JobOptions.

    An option that is left out stays as it is. None takes an option away. `delay` and `expires` count from
    now; `env` adds variables.
    """

    argv: Sequence[str | os.PathLike[str]]
    queue: str
    priority: int
    timeout: Duration | None
    delay: Duration
    cwd: str | os.PathLike[str]
    env: Mapping[str, str]


class JobAttributes:
    """The attributes of a job, which are those of a JobView."""

    kind: str
    argv: list[str] | None
    target: str | None
    arguments: str | None
    user: str
    state: State
    outcome: Outcome | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    queue: str
    priority: int
    tags: list[str]
    retries: int
    retry_delay: float | list[float]
    backoff: float
    max_delay: float
    jitter: float
    rerun: bool | None
    attempt: int
    created_at: float
    due_at: float | None
    started_at: float | None
    finished_at: float | None
    retry_on: list[int] | None
    no_retry_on: list[int] | None
    expires_at: float | None
    after: list[int]
    after_any: list[int]
    waits_for: list[int]
    suspended: bool
    snoozes: int
    on_exceptions: dict[str, str]
    progress: Progress | None
    waited_seconds: float | None
    run_seconds: float | None
    problem: str | None
    usual_seconds: float | None
    needs_node: bool
    cause: JobCause | None
    follow_ups: list[int]
    batch: int | None
    why_waiting: tuple[Reason, ...]
    name: str | None
    retry_until: float | None
    timeout: float | None
    stop_signal: StopSignal | None
    delay: float
    at: float | None
    expires: float | None
    key: str | None
    key_until: KeyUntil | None
    key_for: float | None
    debounce: float | None
    slots: int
    resources: dict[str, int] | None
    limit: tuple[str, int] | None
    on_limit: OnLimit | None
    cwd: str | None
    umask: int | None
    stdin: str | None
    pty: bool
    isolation: Isolation | None
    executor: str | None
    cpus: int | None
    memory: int | None
    nodes: int | None
    gpus: int | None
    gres: str | None
    partition: str | None
    account: str | None
    time: str | None
    slurm_options: tuple[str, ...] | None
    keep_leftovers: bool
    nice: int | None
    memory_max: int | None
    cpu_max: int | None
    pids_max: int | None
    open_files: int | None
    core_max: int | None
    notify: str | None
    on_failure: tuple[str, ...] | None
    on_success: tuple[str, ...] | None
    session: str | None
