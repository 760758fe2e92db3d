"""Class policies: what the configuration says of the jobs of some targets, before it says it of all."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct
from msgspec.structs import asdict, replace

from bgd.core.decision import Rules
from bgd.core.spec import (
    Backoff,
    Duration,
    FileBytes,
    JobSpec,
    MemoryBytes,
    Nice,
    OpenFiles,
    Percent,
    Priority,
    ProcessCount,
    QueueName,
    Retries,
    Share,
    Timeout,
)
from bgd.core.target import Target, patterns_for


class ClassPolicy(Struct, frozen=True, kw_only=True):
    """What goes for a job that does not say it itself. None: nothing is said; of the rest see JobSpec."""

    retries: Retries | None = None
    delay: Duration | None = None
    backoff: Backoff | None = None
    max_delay: Duration | None = None
    jitter: Share | None = None
    timeout: Timeout | None = None
    queue: QueueName | None = None
    priority: Priority | None = None
    nice: Nice | None = None
    memory_max: MemoryBytes | None = None
    cpu_max: Percent | None = None
    pids_max: ProcessCount | None = None
    open_files: OpenFiles | None = None
    core_max: FileBytes | None = None
    on_exceptions: Rules | None = None


NOTHING_SAID = ClassPolicy()

_IN_THE_SPEC = {  # what it is called there, and what here
    "retries": "retries",
    "retry_delay": "delay",
    "backoff": "backoff",
    "max_delay": "max_delay",
    "jitter": "jitter",
    "timeout": "timeout",
    "queue": "queue",
    "priority": "priority",
    "nice": "nice",
    "memory_max": "memory_max",
    "cpu_max": "cpu_max",
    "pids_max": "pids_max",
    "open_files": "open_files",
    "core_max": "core_max",
}


def class_policy(target: Target, policies: Mapping[str, ClassPolicy]) -> ClassPolicy:
    """Return what is said of a target: each key by the longest pattern that has it."""
    said: dict[str, object] = {}
    for pattern in reversed(patterns_for(target)):
        policy = policies.get(pattern, NOTHING_SAID)
        said |= {name: value for name, value in asdict(policy).items() if value is not None}
    return replace(NOTHING_SAID, **said)


def under_policy(
    spec: JobSpec, policy: ClassPolicy, among: Collection[str] = frozenset(_IN_THE_SPEC)
) -> JobSpec:
    """Return the spec with what the policy says, where it is silent itself; `among`: only of these fields."""
    if policy is NOTHING_SAID:
        return spec
    said = {
        name: getattr(policy, key)
        for name, key in _IN_THE_SPEC.items()
        if name in among and getattr(spec, name) is None
    }
    return replace(spec, **said)
