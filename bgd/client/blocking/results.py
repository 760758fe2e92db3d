# Made from bgd/client/asynchronous/results.py by `make client`: change that.
"""Results: those of a job for each of many items, in the order of the items."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from bgd.client.bar import Tell, bar
from bgd.client.blocking.channel import Channel
from bgd.client.blocking.job import Job
from bgd.client.calls import Calls
from bgd.client.sockets import left
from bgd.client.specs import MapOptions
from bgd.core.spec import JobSpec
from bgd.errors import BgdError, DaemonUnreachable, JobFailed

if TYPE_CHECKING:
    from bgd.client.blocking.client import Client

ON_HAND = 1000  # jobs: enough for slots that are quick, few enough for any memory
_PORTIONS = 4  # that they are handed over in, so that slots have work while one is read


class Results:
    """One `map`, and the jobs that it has on hand: those whose results are still to come."""

    def __init__(self, client: Client, channel: Channel, calls: Calls, options: MapOptions) -> None:
        self._client = client
        self._channel = channel
        self._calls = calls
        self._timeout = options.get("timeout")
        self._progress = options.get("progress")
        self._room = options.get("buffersize", ON_HAND)
        if self._room < 1:
            raise ValueError("buffersize must be >= 1")
        self._portion = max(1, self._room // _PORTIONS)
        self._on_hand: deque[int] = deque()
        self._finished: set[int] = set()  # of these
        self._unanswered: Sequence[JobSpec] = ()  # nobody knows whether they are jobs
        self._count = 0  # of the results that came

    def in_order(self, *, return_exceptions: bool) -> Generator[Any, None, None]:
        """Yield them; see `Client.map`."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        with bar(self._calls.name, self._calls.total, wanted=self._progress) as tell:
            try:
                while self._has_more():
                    with closing(self._finishing(deadline)) as finishing:
                        while not self._wants_more:
                            self._first_finished(finishing, tell)
                            result = self._result(self._on_hand.popleft())
                            if isinstance(result, JobFailed) and not return_exceptions:
                                raise result
                            yield result
            except DaemonUnreachable:
                self._on_hand.clear()  # nobody is there who could cancel them
                raise
            finally:
                self._cancel()

    @property
    def _wants_more(self) -> bool:
        has_room = len(self._on_hand) <= self._room - self._portion
        return not self._on_hand or (has_room and not self._calls.are_all_read)

    def _has_more(self) -> bool:
        """Hand over what there is room for; tell whether a result is still to come."""
        while not self._calls.are_all_read and (room := self._room - len(self._on_hand)) > 0:
            specs = self._calls.portion(min(room, self._portion))
            is_first = not (self._on_hand or self._count)
            submit = partial(self._client.submit_many, specs)
            self._unanswered = specs
            try:
                jobs = submit() if is_first else self._channel.persist(submit)
            except BgdError:
                self._unanswered = ()  # they were refused, or nobody is there to be asked
                raise
            self._unanswered = ()
            self._on_hand.extend(job.id for job in jobs)
        return bool(self._on_hand)

    def _finishing(self, deadline: float | None) -> Generator[Job, None, None]:
        waiting = [job_id for job_id in self._on_hand if job_id not in self._finished]
        self._channel.regain()
        try:
            with closing(self._client.as_finished(waiting, timeout=left(deadline))) as finishing:
                for job in finishing:
                    yield job
        except TimeoutError:
            of = "" if self._calls.total is None else f" of {self._calls.total}"
            raise TimeoutError(f"{self._count}{of} results came within {self._timeout:g} s") from None

    def _first_finished(self, finishing: Generator[Job, None, None], tell: Tell) -> None:
        """Wait until the first job on hand has finished."""
        while self._on_hand[0] not in self._finished:
            job = next(finishing)
            self._finished.add(job.id)
            tell(job.state)

    def _result(self, job_id: int) -> Any:
        """Return what a finished job returned, or the JobFailed of one that did not succeed."""
        self._finished.remove(job_id)
        self._count += 1
        try:
            return self._client.returned(job_id)
        except JobFailed as failure:
            return failure.with_traceback(None)  # its frames hold what is waited with

    def _cancel(self) -> None:
        """Cancel what is on hand and has not started."""
        if self._unanswered:  # their keys tell which are jobs; those that are not shall not start
            jobs = self._client.submit_many(replace(spec, hold=True) for spec in self._unanswered)
            self._on_hand.extend(job.id for job in jobs)
        waiting = [job_id for job_id in self._on_hand if job_id not in self._finished]
        if waiting:
            self._client.cancel_waiting(waiting)
