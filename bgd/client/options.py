"""Options: what may be asked for a job, as a caller writes it, and the plain values that are sent for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

from bgd.client.caller import Caller, system_text
from bgd.core.job import State
from bgd.errors import Refused
from bgd.settings import nearest
from bgd.wire.requests import MAX_IDS


class Numbered(Protocol):
    """What has a job's id: a Job, an AsyncJob, a JobView."""

    @property
    def id(self) -> int: ...


JobReference = int | Numbered
"""A job by its id, or as an object that has one."""


class ProcessOptions(TypedDict, total=False):
    """What may be asked for the processes of a job, when it is handed over and while it waits.

    * `isolation`: of a class job: "fork", "spawn" or "reuse".
    * `keep_leftovers`: what it leaves running when it ends by itself is left alone.
    * `nice`, `memory_max`, `cpu_max`, `pids_max`, `open_files`, `core_max`: limits, in bytes, percent of one
      processor, and numbers.
    """

    isolation: Literal["fork", "spawn", "reuse"] | None
    keep_leftovers: bool
    nice: int | None
    memory_max: int | None
    cpu_max: int | None
    pids_max: int | None
    open_files: int | None
    core_max: int | None


class FurtherOptions(ProcessOptions, total=False):
    """What may be asked for any job; what is missing is as the daemon's configuration says.

    Durations are seconds.

    * `retry_on`, `no_retry_on`: exit codes after which alone, or never, it is tried again.
    * `at`: not before then; a datetime without a time zone is local, a number is epoch seconds.
    * `expires`: within so long its first attempt starts, or never.
    * `after`, `after_any`: jobs that have to succeed, or to finish however, before.
    * `key`: while an unfinished job has this key, that one is returned and no new one made.
    * `slots`: how many it takes of its queue's and the daemon's.
    * `hold`: it waits until it is released.
    * `env`: variables on top of those that `env_pass` lets through of the caller's: "all" (as for commands
      that do not say), "none" (as for class jobs) or a list of names.
    * `stdin`, `input`: the file that a command reads, or the very bytes; text is sent as UTF-8.
    * `pty`: give a command a terminal.
    * `shell`: its argv is one text, for /bin/sh.
    """

    queue: str
    name: str | None
    tags: Sequence[str]
    retries: int | None
    retry_delay: float | None
    backoff: float | None
    max_delay: float | None
    jitter: float | None
    retry_on: Sequence[int] | None
    no_retry_on: Sequence[int] | None
    rerun: bool | None
    at: float | datetime | None
    expires: float | None
    after: Sequence[JobReference]
    after_any: Sequence[JobReference]
    key: str | None
    slots: int
    hold: bool
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    env_pass: str | Sequence[str]
    umask: int | None
    stdin: str | os.PathLike[str] | None
    input: bytes | str | None
    pty: bool
    shell: bool


class JobOptions(FurtherOptions, total=False):
    """And those that come first."""

    priority: int
    delay: float
    timeout: float | None


class MapOptions(FurtherOptions, total=False):
    """What may be asked for the jobs of a map, and for the map; a `key` may not.

    * `time_limit`: of an attempt of each job, which other jobs call `timeout`.
    * `timeout`: in which all results come, counted from the first step. None: there is no limit.
    * `buffersize`: so many jobs are on hand at most.
    * `progress`: draw a bar on stderr. None: if that is a terminal.
    """

    priority: int
    delay: float
    time_limit: float | None
    timeout: float | None
    buffersize: int
    progress: bool | None


class EditOptions(ProcessOptions, total=False):
    """What may be changed in a job that waits, as in JobOptions. What is missing stays as it is.

    None takes away what was asked for. `delay` and `expires` count from now, `env` is set in addition.
    """

    argv: Sequence[str | os.PathLike[str]]
    queue: str
    priority: int
    name: str | None
    tags: Sequence[str]
    retries: int | None
    retry_delay: float | None
    backoff: float | None
    max_delay: float | None
    jitter: float | None
    retry_on: Sequence[int] | None
    no_retry_on: Sequence[int] | None
    rerun: bool | None
    timeout: float | None
    delay: float
    at: float | datetime | None
    expires: float | None
    after: Sequence[JobReference]
    after_any: Sequence[JobReference]
    slots: int
    cwd: str | os.PathLike[str]
    env: Mapping[str, str]
    stdin: str | os.PathLike[str] | None
    pty: bool


def plain_values(options: Mapping[str, Any], allowed: Iterable[str], caller: Caller) -> dict[str, Any]:
    """Return the options as values that can be sent; a relative path is the caller's.

    Raises:
        TypeError: there is no such option.
    """
    if unknown := options.keys() - set(allowed):
        raise TypeError(f"no option {min(unknown)!r}: {nearest(min(unknown), allowed)}")
    return {key: None if value is None else _plain(key, value, caller) for key, value in options.items()}


def ids_of(jobs: Iterable[JobReference], name: str = "jobs") -> list[int]:
    """Return the ids of jobs, which the caller knows by this name.

    Raises:
        TypeError: they are not.
    """
    if isinstance(jobs, str | bytes) or not isinstance(jobs, Iterable):
        raise TypeError(f"{name} is a list of jobs, as [5, job], not {jobs!r}")
    return [_id_of(job, name) for job in jobs]


def states_of(states: Iterable[State | str]) -> list[State]:
    """Return states.

    Raises:
        TypeError: they are one text.
        Refused: one of them is none.
    """
    if isinstance(states, str):
        raise TypeError(f"states is a list, as ['failed', 'cancelled'], not {str(states)!r}")
    known = dict.fromkeys(State)
    for state in states:
        if state not in known:
            raise Refused(f"{state!r} is no state: {nearest(str(state), known)}")
    return [State(state) for state in states]


def words_of(argv: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the words of a command.

    Raises:
        TypeError: it is one text, or a word is none.
    """
    if isinstance(argv, str):
        raise TypeError(f"argv is a list of words, not {argv!r}; a line for the shell takes shell=True")
    if not isinstance(argv, Iterable):
        raise TypeError(f"argv is a list of words, not {argv!r}")
    words = list(argv)
    for word in words:
        if not isinstance(word, str | os.PathLike):
            raise TypeError(f"argv is a list of words, and {word!r} is none: make it a text")
    return [system_text(os.fspath(word)) for word in words]


def _plain(key: str, value: Any, caller: Caller) -> object:  # noqa: PLR0911 - a line for each kind
    match key:
        case "argv":
            return words_of(value)
        case "cwd" | "stdin":
            path = Path(value)
            return system_text(str(path if path.is_absolute() else caller.folder / path))
        case "env" if isinstance(value, Mapping):
            return {_as_sent(name): _as_sent(word) for name, word in value.items()}
        case "input" if isinstance(value, str):
            return value.encode()
        case "at" if isinstance(value, datetime):
            return value.timestamp()
        case "retry_on" | "no_retry_on" if isinstance(value, range):
            return list(value)
        case "after" | "after_any":
            return ids_of(value, key)
        case _:
            return value


def _as_sent(value: Any) -> Any:
    return system_text(value) if isinstance(value, str) else value


def _id_of(job: object, name: str) -> int:
    job_id = job if isinstance(job, int) else getattr(job, "id", None)
    if not isinstance(job_id, int):
        raise TypeError(f"{name} is a list of jobs, and {job!r} is neither one nor its id")
    return job_id


def portions(job_ids: Sequence[int]) -> Iterator[list[int]]:
    """Cut a list of ids into what one request may name."""
    for start in range(0, len(job_ids), MAX_IDS):
        yield list(job_ids[start : start + MAX_IDS])
