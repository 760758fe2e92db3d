"""Client: hands jobs to the daemon and asks about them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self, Unpack

from msgspec.structs import replace

from bgd.client.caller import Caller
from bgd.client.channel import Channel, expected
from bgd.client.door import Door
from bgd.client.ending import shut_down
from bgd.client.job import Job, failure_of
from bgd.client.session import UNNUMBERED
from bgd.client.specs import Item, JobOptions, batch_frames, class_spec, command_spec, spec_of
from bgd.core.job import JobSpec, State
from bgd.wire import replies, requests
from bgd.wire.replies import ActResult, Info, LogPart
from bgd.wire.requests import ShutdownMode
from bgd.wire.views import AttemptView, JobView

TIMEOUT = 30.0  # seconds; a daemon answers in milliseconds, but may have a full disk or a long queue to write


class Client:
    """A way to one daemon. It connects when it is first used, and again when the daemon was restarted.

    Threads may share a Client; a forked child makes its own. After `close` it may be used again.

    Args:
        socket: the daemon's socket; None: $BGD_SOCKET, else the caller's own daemon, else the system's.
        timeout: seconds that connecting and each answer may take; then DaemonUnreachable.
        autostart: start the caller's own daemon when none answers, and `socket` names none.
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
            DaemonUnreachable: nobody answers; or, after an answer was awaited in vain, nobody knows.
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
        specs = [spec_of(item, caller) for item in items]
        if not specs:
            return []
        reply = self._channel.exchange(
            partial(batch_frames, specs=specs, env=caller.environment), replies.Submitted
        )
        return [Job(self, job_id) for job_id in reply.jobs]

    # --- asking about jobs ----------------------------------------------------------------------------

    def job(self, job_id: int | None = None) -> Job:
        """Look a job up; None: the caller's latest.

        Raises:
            NoSuchJob: there is none.
        """
        view = self.view(job_id)
        return Job(self, view.id, view)

    def jobs(
        self,
        *,
        states: Iterable[State | str] | None = None,
        queue: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        limit: int = requests.DEFAULT_LIST,
    ) -> list[Job]:
        """List at most `limit` jobs, newest first.

        Without `states` these are the unfinished and the latest finished ones. `name` is a shell pattern;
        `since`, in epoch seconds, leaves out what was submitted before.
        """
        wanted = [State(state) for state in states] if states else None
        request = requests.List(
            id=UNNUMBERED, states=wanted, queue=queue, name=name, tag=tag, since=since, limit=limit
        )
        parts = self._channel.collect(request)
        return [Job(self, view.id, view) for part in parts for view in expected(part, replies.JobsPart).jobs]

    def wait(self, job_ids: Sequence[int], *, timeout: float | None = None) -> list[Job]:
        """Wait until all of these jobs have finished; return them in this order.

        Raises:
            TimeoutError: they have not within `timeout` seconds.
            NoSuchJob: one of them does not exist.
        """
        finished = {job.id: job for job in self.as_finished(job_ids, timeout=timeout)}
        return [finished[job_id] for job_id in job_ids]

    def as_finished(self, job_ids: Iterable[int], *, timeout: float | None = None) -> Iterator[Job]:
        """Yield jobs as they finish, those at once that have.

        Raises:
            TimeoutError: not all have within `timeout` seconds from the first step.
            NoSuchJob: one of them does not exist.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        wanted = list(dict.fromkeys(job_ids))
        waiting = set(wanted)
        try:
            for portion in _portions(wanted):
                for part in self._channel.stream(requests.Wait(id=UNNUMBERED, jobs=portion), deadline):
                    for view in expected(part, replies.JobsPart).jobs:
                        waiting.discard(view.id)
                        yield Job(self, view.id, view)
        except TimeoutError:
            late = f"job {min(waiting)} has" if len(waiting) == 1 else f"{len(waiting)} jobs have"
            raise TimeoutError(f"{late} not finished within {timeout:g} s") from None

    def result(self, job_id: int, *, timeout: float | None = None) -> object:
        """Wait for a job, then return what a class job returned, for a command 0.

        Raises:
            JobFailed: it did not succeed.
            TimeoutError: it has not finished within `timeout` seconds.
            NoSuchJob: it does not exist.
        """
        self.wait([job_id], timeout=timeout)
        reply = self._channel.ask(requests.GetResult(id=UNNUMBERED, job=job_id), replies.Result)
        if reply.job.state is not State.SUCCEEDED:
            raise failure_of(reply.job, reply.error)
        if reply.job.target is None:
            return 0
        return None if reply.value is None else json.loads(reply.value)

    def logs(
        self,
        job_id: int,
        *,
        attempt: int | None = None,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> Generator[LogPart, None, None]:
        """Yield a job's output in pieces.

        `attempt` None is the latest one, 0 all of them, oldest first. With `follow` it goes on until the job
        has finished, across attempts. `tail`: only so many last lines of what there is. `timestamps` tells,
        in `LogPart.times`, when the bytes came.
        """
        request = requests.Logs(
            id=UNNUMBERED, job=job_id, attempt=attempt, follow=follow, tail=tail, timestamps=timestamps
        )
        for part in self._channel.stream_apart(request):
            yield expected(part, LogPart)

    # --- acting on jobs and the daemon ----------------------------------------------------------------

    def cancel(self, job_ids: Sequence[int]) -> list[ActResult]:
        """Cancel jobs. What is refused for one of them stands in its entry, and is not raised."""
        return self._act(requests.Cancel, job_ids)

    def retry(self, job_ids: Sequence[int]) -> list[ActResult]:
        """Queue finished jobs again. What is refused for one stands in its entry, and is not raised."""
        return self._act(requests.Retry, job_ids)

    def login_link(self) -> str:
        """Return a link that logs a browser of this user in to the daemon's pages, once and within a minute.

        Raises:
            Refused: the daemon serves no pages.
        """
        return self._channel.ask(requests.GetLogin(UNNUMBERED), replies.Login).url

    def info(self) -> Info:
        return self._channel.ask(requests.GetInfo(UNNUMBERED), Info)

    def shutdown(self, mode: ShutdownMode | str | None = None, *, timeout: float | None = None) -> None:
        """End the daemon, and wait until it is gone.

        Args:
            mode: what becomes of running jobs (see ShutdownMode); None: as configured.
            timeout: seconds to wait, None: as long as it takes.

        Raises:
            TimeoutError: it is still there; it goes on ending.
        """
        shut_down(self._channel, None if mode is None else ShutdownMode(mode), timeout)

    # --- what jobs ask for ----------------------------------------------------------------------------

    def view(self, job_id: int | None = None) -> JobView:
        """Return a job as the daemon shows it; None: the caller's latest."""
        return expected(self._channel.collect(requests.Show(id=UNNUMBERED, job=job_id))[0], replies.Shown).job

    def attempts(self, job_id: int) -> list[AttemptView]:
        """Return all attempts of a job, oldest first."""
        parts = self._channel.collect(requests.Show(id=UNNUMBERED, job=job_id))[1:]
        return [attempt for part in parts for attempt in expected(part, replies.AttemptsPart).attempts]

    # --- being one --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection; the Client opens another when it is used again."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, spec: JobSpec) -> Job:
        reply = self._channel.ask(requests.Submit(id=UNNUMBERED, spec=spec), replies.Submitted)
        return Job(self, reply.jobs[0])

    def _act(self, kind: type[requests.Cancel | requests.Retry], job_ids: Sequence[int]) -> list[ActResult]:
        parts = [
            self._channel.ask(kind(UNNUMBERED, portion), replies.Acted) for portion in _portions(job_ids)
        ]
        return [result for part in parts for result in part.results]


def _portions(job_ids: Sequence[int]) -> Iterator[list[int]]:
    """Cut a list of ids into what one request may name."""
    for start in range(0, len(job_ids), requests.MAX_IDS):
        yield list(job_ids[start : start + requests.MAX_IDS])
