# Generated from bgd/client/async_/mapping.py by `make client`: edit that file.
"""The work of `Client.map`: submits a job for each item and yields the results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from bgd.client.bar import Advance, progress_bar
from bgd.client.blocking.concurrency import Channel
from bgd.client.blocking.job import Job
from bgd.client.calls import Calls
from bgd.client.options import MapOptions
from bgd.client.specs import seconds_of
from bgd.client.transport import seconds_left
from bgd.core.spec import JobSpec
from bgd.errors import BgdError, DaemonUnreachable, JobFailed

if TYPE_CHECKING:
    from bgd.client.blocking.client import Client

DEFAULT_BUFFERSIZE = 1000  # jobs: enough for slots that are quick, few enough for any memory
_PORTIONS = 4  # into which the buffer is divided, so that slots have work while one portion is read


class Mapper:
    """One `map`, with its buffer: the jobs whose results were not yielded yet."""

    def __init__(self, client: Client, channel: Channel, calls: Calls, options: MapOptions) -> None:
        self._client = client
        self._channel = channel
        self._calls = calls
        self._timeout = seconds_of(options.get("timeout"))
        self._progress = options.get("progress")
        self._buffersize = options.get("buffersize", DEFAULT_BUFFERSIZE)
        if self._buffersize < 1:
            raise ValueError("buffersize must be >= 1")
        self._portion = max(1, self._buffersize // _PORTIONS)
        self._buffer: deque[int] = deque()
        self._finished: set[int] = set()  # jobs of the buffer
        self._unanswered: Sequence[JobSpec] = ()  # submitted, and the daemon has not answered yet
        self._count = 0  # of results so far

    def results(self, *, return_exceptions: bool) -> Generator[Any, None, None]:
        """Yield the results; see `Client.map`."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        with progress_bar(self._calls.name, self._calls.total, wanted=self._progress) as advance:
            try:
                while self._fill_buffer():
                    with closing(self._finishing(deadline)) as finishing:
                        while not self._needs_more:
                            self._wait_for_first(finishing, advance)
                            result = self._result(self._buffer.popleft())
                            if isinstance(result, JobFailed) and not return_exceptions:
                                raise result
                            yield result
            except DaemonUnreachable:
                self._buffer.clear()  # there is no daemon that could cancel them
                raise
            finally:
                self._cancel()

    @property
    def _needs_more(self) -> bool:
        has_room = len(self._buffer) <= self._buffersize - self._portion
        return not self._buffer or (has_room and not self._calls.are_all_read)

    def _fill_buffer(self) -> bool:
        """Submit as many jobs as the buffer has room for; tell whether it has any."""
        while not self._calls.are_all_read and (room := self._buffersize - len(self._buffer)) > 0:
            specs = self._calls.portion(min(room, self._portion))
            is_first = not (self._buffer or self._count)
            submit = partial(self._client.submit_many, specs)
            self._unanswered = specs
            try:
                jobs = submit() if is_first else self._channel.ask_patiently(submit)
            except BgdError:
                self._unanswered = ()  # refused, or there is no daemon to ask about them
                raise
            self._unanswered = ()
            self._buffer.extend(job.id for job in jobs)
        return bool(self._buffer)

    def _finishing(self, deadline: float | None) -> Generator[Job, None, None]:
        waiting = [job_id for job_id in self._buffer if job_id not in self._finished]
        self._channel.reconnect()
        try:
            jobs = self._client.as_finished(waiting, timeout=seconds_left(deadline))
            with closing(jobs) as finishing:
                for job in finishing:
                    yield job
        except TimeoutError:
            of = "" if self._calls.total is None else f" of {self._calls.total}"
            raise TimeoutError(f"{self._count}{of} results came within {self._timeout:g} s") from None

    def _wait_for_first(self, finishing: Generator[Job, None, None], advance: Advance) -> None:
        """Wait until the first job of the buffer has finished."""
        while self._buffer[0] not in self._finished:
            job = next(finishing)
            self._finished.add(job.id)
            advance(1, job.state != "succeeded")

    def _result(self, job_id: int) -> Any:
        """Return what a finished job returned, or the JobFailed of one that did not succeed."""
        self._finished.remove(job_id)
        self._count += 1
        try:
            return self._client.returned(job_id)
        except JobFailed as failure:
            return failure.with_traceback(None)  # whose frames keep the connection alive

    def _cancel(self) -> None:
        """Cancel the jobs of the buffer that have not started."""
        if self._unanswered:
            # submit them again: their keys tell which are jobs, and `hold` keeps new ones from starting
            jobs = self._client.submit_many(replace(spec, hold=True) for spec in self._unanswered)
            self._buffer.extend(job.id for job in jobs)
        waiting = [job_id for job_id in self._buffer if job_id not in self._finished]
        if waiting:
            self._client.cancel_waiting(waiting)
