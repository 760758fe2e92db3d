"""Idempotency: a repeated submit, or a repeated line of a batch, makes no second job."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import chain

from msgspec import UNSET

from bgd.core.job import JobId
from bgd.daemon.storage import submissions
from bgd.daemon.storage.records import Submission
from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.errors import BgdError, Refused
from bgd.wire.replies import Run, runs_of
from bgd.wire.requests import BatchPlace, GetBatch, Submit, SubmitMany

MAX_REMEMBERED = 4096  # latest requests in memory, about 250 bytes each

# In place of the first new job: the request was refused, or it made no job because it found others by key
_REFUSED, _FOUND = JobId(0), JobId(-1)


class Idempotency:
    """Recognizes repeated requests by their tokens, and takes each line of a batch once.

    The database knows the requests of all jobs, and for some minutes those of removed jobs. It is asked when
    the client says that it sends a request again. Memory knows the latest requests and is always asked: bytes
    of a broken connection may be read after the same request came over a newer connection.

    The lines of a batch are taken in order, and are on disk in the transaction of their jobs. A client opens
    a batch on each connection: it asks for the last line, and sends the lines after it. Lines that are read
    late from a broken connection are out of order by then, and refused.
    """

    def __init__(self, supervisor: Supervisor, store: Store) -> None:
        self._supervisor = supervisor
        self._store = store
        self._latest: OrderedDict[bytes, JobId] = OrderedDict()  # the first new job of each, by token
        self._repeated: OrderedDict[bytes, JobId] = OrderedDict()  # likewise, of requests sent again
        self._in_progress: dict[bytes, asyncio.Event] = {}
        self._last_lines: OrderedDict[bytes, int] = OrderedDict()  # that were taken of open batches

    def may_be_duplicate(self, request: Submit | SubmitMany) -> bool:
        """Return whether a request may be a repeat: then handle it under `exclusive` and ask `recall`."""
        token = request.token
        return token is not UNSET and (
            request.again is not UNSET
            or token in self._in_progress
            or token in self._latest
            or token in self._repeated
        )

    @asynccontextmanager
    async def exclusive(self, request: Submit | SubmitMany) -> AsyncIterator[None]:
        """Handle a request while no other request with its token is handled; remember if it is refused."""
        token = request.token
        if token is UNSET:
            yield
            return
        while (other := self._in_progress.get(token)) is not None:
            await other.wait()
        self._in_progress[token] = done = asyncio.Event()
        try:
            yield
        except BgdError:
            if request.again is not UNSET:  # the client gets the refusal and gives up
                _remember(self._repeated, token, _REFUSED)
            raise
        finally:
            del self._in_progress[token]
            done.set()

    async def recall(self, request: Submit | SubmitMany) -> Submission | None:
        """Return what the request made when it came before, or None if it is new.

        Raises:
            Refused: it came too long ago, or it was refused or answered when it was sent again.
        """
        token = request.token
        if token is UNSET:
            return None
        first = self._latest.get(token, self._repeated.get(token))
        if first is None and request.again is not UNSET:
            await self._supervisor.saved()  # it may not be on disk yet
            submission = await self._store.search(submissions.find_submission, token, request.again)
            first = None if submission is None else submission.first
        if first is None:
            return None
        if first == _REFUSED:
            raise Refused("this request was sent again meanwhile and refused")
        if first == _FOUND:
            if request.again is UNSET:
                raise Refused("this request was sent again meanwhile and answered")
            return None  # the jobs it found may have finished since
        _remember(self._repeated, token, first)
        await self._supervisor.saved()
        submission = await self._store.search(submissions.find_submission, token, first - 1, first)
        if submission is None:
            raise Refused("the token was used too long ago: use a new token for each request")
        return submission

    def remember(self, request: Submit | SubmitMany, submitted: Submission) -> None:
        """Remember the jobs of a request, on disk in the same transaction as the jobs."""
        token = request.token
        if token is UNSET:
            return
        if submitted.first is None:
            if request.again is not UNSET:  # the first copy may still arrive and must not make a job
                _remember(self._repeated, token, _FOUND)
            return
        _remember(self._latest if request.again is UNSET else self._repeated, token, submitted.first)
        self._supervisor.transaction.submissions[token] = submitted

    # --- batches ----------------------------------------------------------------------------------------

    async def open_batch(self, request: GetBatch) -> int:
        """Open or close a batch; return its last taken line."""
        if request.close:
            self._last_lines.pop(request.batch, None)
        await self._supervisor.saved()
        last = await self._store.read(submissions.last_line, request.batch)
        if not request.close:
            self._last_lines.setdefault(request.batch, last)  # another connection may have opened it
            if len(self._last_lines) > MAX_REMEMBERED:
                self._last_lines.popitem(last=False)
        return last

    async def runs_of_batch(self, batch: bytes, after: int, last: int) -> list[Run]:
        """Return some of the lines `after` one, up to the `last`, with their jobs; none: that was all."""
        found = await self._store.search(submissions.read_lines, batch, after)
        return [run for run in found if run[0] <= last]

    def check_lines(self, parts: list[SubmitMany]) -> None:
        """Refuse lines that are not those after the last one.

        Raises:
            Refused: the batch is not open, or these are not the next lines.
        """
        place = parts[0].place
        if place is UNSET:
            return
        last = self._last_lines.get(place.batch)
        if last is None:
            raise Refused("this batch is not open: ask how far it is first")
        if last != place.after:
            raise Refused(
                f"line {last} of this batch was the last, not line {place.after}: ask how far it is"
            )
        jobs = sum(len(part.specs) for part in parts)
        for first, count in place.runs:
            if first <= last or count < 1:
                raise Refused(f"{count} lines from line {first} cannot follow line {last}")
            last, jobs = first + count - 1, jobs - count
        if jobs:
            raise Refused("a batch needs a line for each job")

    def take_lines(self, place: BatchPlace, jobs: list[int]) -> None:
        """Take the lines that `check_lines` has found to be next, in the transaction of their jobs."""
        if jobs:
            first, count = place.runs[-1]
            self._last_lines[place.batch] = first + count - 1
            taken = place.batch, runs_of(lines_of(place), jobs)
            self._supervisor.transaction.batches.append(taken)


def lines_of(place: BatchPlace) -> Iterator[int]:
    """Yield the number of each line."""
    return chain.from_iterable(range(first, first + count) for first, count in place.runs)


def _remember(requests: OrderedDict[bytes, JobId], token: bytes, first: JobId) -> None:
    requests[token] = first
    if len(requests) > MAX_REMEMBERED:
        requests.popitem(last=False)  # the first key of a dict would be searched for behind all deleted ones
