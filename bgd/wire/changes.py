"""Changes: what a client may have changed in a job that waits."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from bgd.core.spec import (
    Argv,
    Backoff,
    Duration,
    Environment,
    ExitCodes,
    FileBytes,
    Folder,
    Instant,
    Isolation,
    JobNumbers,
    MemoryBytes,
    Name,
    Nice,
    OpenFiles,
    Percent,
    Priority,
    ProcessCount,
    QueueName,
    Retries,
    Share,
    SlotCount,
    Tags,
    Timeout,
)


class Changes(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What becomes other in a job that waits. What is absent stays; nil is what nil means in a spec.

    `delay` and `expires` count from now. `env`: variables that are set in addition.
    """

    argv: Argv | UnsetType = UNSET
    queue: QueueName | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    name: Name | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    retries: Retries | UnsetType | None = UNSET
    retry_delay: Duration | UnsetType | None = UNSET
    backoff: Backoff | UnsetType | None = UNSET
    max_delay: Duration | UnsetType | None = UNSET
    jitter: Share | UnsetType | None = UNSET
    retry_on: ExitCodes | UnsetType | None = UNSET
    no_retry_on: ExitCodes | UnsetType | None = UNSET
    rerun: bool | UnsetType | None = UNSET
    timeout: Timeout | UnsetType | None = UNSET
    delay: Duration | UnsetType = UNSET
    at: Instant | UnsetType | None = UNSET
    expires: Timeout | UnsetType | None = UNSET
    after: JobNumbers | UnsetType = UNSET
    after_any: JobNumbers | UnsetType = UNSET
    slots: SlotCount | UnsetType = UNSET
    cwd: Folder | UnsetType = UNSET
    env: Environment | UnsetType = UNSET
    stdin: Folder | UnsetType | None = UNSET
    pty: bool | UnsetType = UNSET
    isolation: Isolation | UnsetType | None = UNSET
    keep_leftovers: bool | UnsetType = UNSET
    nice: Nice | UnsetType | None = UNSET
    memory_max: MemoryBytes | UnsetType | None = UNSET
    cpu_max: Percent | UnsetType | None = UNSET
    pids_max: ProcessCount | UnsetType | None = UNSET
    open_files: OpenFiles | UnsetType | None = UNSET
    core_max: FileBytes | UnsetType | None = UNSET
