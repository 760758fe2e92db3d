# Made from bgd/client/asynchronous/client.py by `make client`: change that.
"""Client: hands jobs to the daemon, asks about them, and says what shall become of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from msgspec.structs import replace

from bgd.client.blocking.asking import Asking
from bgd.client.blocking.channel import Channel
from bgd.client.blocking.door import Door
from bgd.client.blocking.job import Job
from bgd.client.blocking.results import Results
from bgd.client.blocking.runtime import closed_at_exit
from bgd.client.blocking.steering import Steering
from bgd.client.calls import Awaited, Called, Calls, Target
from bgd.client.specs import (
    Caller,
    Item,
    JobOptions,
    MapOptions,
    batch_frames,
    class_spec,
    command_spec,
    specs_of,
    submit_frames,
)
from bgd.core.spec import JobSpec
from bgd.errors import JobFailed

A = TypeVar("A")
R = TypeVar("R")

TIMEOUT = 30.0  # seconds; a daemon answers in milliseconds, but may have a full disk or a long queue to write


class Client(Asking, Steering):
    """A way to one daemon. It connects when it is first used, and again when the daemon was restarted.

    Threads may share a Client; a forked child makes its own. After `close` it may
    be used again. Jobs are named by their ids, or by themselves.

    Args:
        socket: the daemon's socket; None: $BGD_SOCKET, else the caller's own daemon, else the system's.
        timeout: seconds that connecting and each answer may take, and that a stream bears to be without a
            daemon; then DaemonUnreachable.
        autostart: start the caller's own daemon when none answers, and `socket` names none. A stream that
            lost its daemon leaves that to others for some seconds, as to a service manager.
        config: configuration that says where the daemon is; None: the usual one.
        user: only the caller's own daemon.
        system: only the system's.
        on_autostart: is told the pid of a daemon that was started, and the file it logs to.
    """

    def __init__(
        self,
        socket: str | None = None,
        *,
        timeout: float = TIMEOUT,
        autostart: bool = True,
        config: str | None = None,
        user: bool = False,
        system: bool = False,
        on_autostart: Callable[[int, str], None] | None = None,
    ) -> None:
        door = Door(
            socket=socket,
            config=config,
            user=user,
            system=system,
            autostart=autostart,
            on_autostart=on_autostart,
        )
        self._channel = Channel(door, timeout)

    # --- handing over jobs ----------------------------------------------------------------------------

    def submit(self, argv: Sequence[str | os.PathLike[str]], **options: Unpack[JobOptions]) -> Job:
        """Queue a command; returns when it is on disk.

        The command gets this process's environment, working directory and umask, unless told otherwise.

        Raises:
            Refused: a value is out of range, or the daemon does not take it.
            DaemonUnreachable: nobody answers; or, after an answer was awaited in vain, nobody knows. When the
                connection breaks before the answer it is asked for again, once, and no second job is made.
        """
        caller = Caller()
        spec = command_spec(argv, options, caller)
        return self._submit(spec if spec.env is not None else replace(spec, env=caller.environment))

    def call(
        self,
        target: str,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Queue a class job: `package.module:Class.method` or `package.module:function`.

        Raises:
            TypeError: an argument is not what JSON can say.
            Refused, DaemonUnreachable: as `submit`.
        """
        return self._submit(class_spec(target, args, kwargs or {}, options, Caller()))

    def submit_many(self, items: Iterable[Item]) -> list[Job]:
        """Queue many jobs in one transaction: all of them, or none.

        Args:
            items: argvs, JobSpecs, or mappings with the keys of JSON (argv or target, args, kwargs, and the
                options of `submit`).

        Raises:
            Refused: one of them is not taken, which the message names, so none is.
            Full: they are too many for one transaction.
            DaemonUnreachable: as `submit`.
        """
        caller = Caller()
        specs = specs_of(items, caller)
        if not specs:
            return []
        frames = partial(batch_frames, specs=specs, env=caller.environment)
        has_keys = all(spec.key is not None for spec in specs)
        reply = self._channel.submit(frames, has_keys=has_keys)
        found = set(reply.found)
        return [
            Job(self, job_id, is_new=job_id not in found, obstacle=reply.obstacle) for job_id in reply.jobs
        ]

    @overload
    def map(
        self,
        target: Awaited[A, R],
        items: Iterable[A],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> Generator[R, None, None]: ...
    @overload
    def map(
        self,
        target: Awaited[A, R],
        items: Iterable[A],
        *,
        return_exceptions: Literal[True],
        **options: Unpack[MapOptions],
    ) -> Generator[R | JobFailed, None, None]: ...
    @overload
    def map(
        self,
        target: Called[A, R],
        items: Iterable[A],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> Generator[R, None, None]: ...
    @overload
    def map(
        self,
        target: Called[A, R],
        items: Iterable[A],
        *,
        return_exceptions: Literal[True],
        **options: Unpack[MapOptions],
    ) -> Generator[R | JobFailed, None, None]: ...
    @overload
    def map(
        self,
        target: str,
        items: Iterable[object],
        *,
        return_exceptions: bool = False,
        **options: Unpack[MapOptions],
    ) -> Generator[object, None, None]: ...
    def map(
        self,
        target: Target,
        items: Iterable[Any],
        *,
        return_exceptions: bool = False,
        **options: Unpack[MapOptions],
    ) -> Generator[Any, None, None]:
        """Queue a class job for each of many items; yield their results in the order of the items.

        Each item is the one argument of a call. Nothing is read or queued before the first step; from then
        on up to `buffersize` jobs are on hand, which are those whose results were not yielded yet. It goes on
        when the daemon was restarted. When it ends early, by an error or because it is closed, those of its
        jobs that do not run are cancelled.

        Args:
            target: as of `call`, or the function itself, with or without `bgd.job`.
            items: they may be endless, and are read where the results are asked for.
            return_exceptions: yield the JobFailed of a job that did not succeed in the place of its result.
            options: of each job, as of `call`, and those of all: see MapOptions.

        Raises:
            JobFailed: the job whose turn it is did not succeed.
            TimeoutError: not all results have come in time.
            TypeError: a worker would not find the function, or an item is no argument for it.
            Refused, DaemonUnreachable: as `submit_many`; and if no daemon came back within the client's
                timeout.
        """
        calls = Calls(target, items, options)
        results = Results(self, self._channel, calls, options)
        return closed_at_exit(results.in_order(return_exceptions=return_exceptions))

    # --- being one --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection; the client opens another when it is used again."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, spec: JobSpec) -> Job:
        frames = partial(submit_frames, spec=spec)
        reply = self._channel.submit(frames, has_keys=spec.key is not None)
        return Job(self, reply.jobs[0], is_new=reply.created, obstacle=reply.obstacle)
