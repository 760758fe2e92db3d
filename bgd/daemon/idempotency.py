"""Idempotency: a request for new jobs that is sent again, because its answer was lost, makes no new ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import UNSET

from bgd.core.job import JobId
from bgd.daemon.storage.records import Submission
from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.errors import BgdError, Refused
from bgd.wire.requests import Submit, SubmitMany

SubmittedJobs = list[tuple[JobId, bool]]
"""Jobs in the order in which they were asked for, and of each whether it is new."""

_REFUSED, _FOUND = JobId(0), JobId(-1)  # in the place of the first job; _FOUND: it made none, but found some
MAX_REMEMBERED = 4096  # latest requests, some 150 bytes each


class IdempotencyTokens:
    """Knows requests by their tokens.

    What is on the disk tells of a request that is said to be sent again. Memory tells of the latest ones,
    said or not: what was sent over a connection that broke may be read after what was sent after it.
    """

    def __init__(self, supervisor: Supervisor, store: Store) -> None:
        self._supervisor = supervisor
        self._store = store
        self._latest: dict[bytes, JobId] = {}  # of each the first job it made
        self._repeated: dict[bytes, JobId] = {}
        self._in_hand: dict[bytes, asyncio.Event] = {}

    def may_be_duplicate(self, request: Submit | SubmitMany) -> bool:
        """Tell whether a request has to be taken `exclusive`, and `recall` asked about it."""
        token = request.token
        return token is not UNSET and (
            request.again is not UNSET or token in self._in_hand or self._first_of(token) is not None
        )

    @asynccontextmanager
    async def exclusive(self, request: Submit | SubmitMany) -> AsyncIterator[None]:
        """Wait for whoever has the same request in hand; what is refused when it comes again stays so."""
        token = request.token
        if token is UNSET:
            yield
            return
        while (other := self._in_hand.get(token)) is not None:
            await other.wait()
        self._in_hand[token] = done = asyncio.Event()
        try:
            yield
        except BgdError:
            if request.again is not UNSET:  # the client is told so, and looks no further
                _note(self._repeated, token, _REFUSED)
            raise
        finally:
            del self._in_hand[token]
            done.set()

    async def recall(self, request: Submit | SubmitMany) -> SubmittedJobs | None:
        """Return what the request made when it came before; None if it has not.

        Raises:
            Refused: that was too long ago, or it was refused then.
        """
        token = request.token
        if token is UNSET:
            return None
        first = self._first_of(token)
        if first is None and request.again is not UNSET:
            await self._supervisor.saved()  # it may be on its way to the disk
            submission = await self._store.submission(token, request.again)
            first = None if submission is None else submission.first
        if first is None:
            return None
        if first == _REFUSED:
            raise Refused("this request was sent again meanwhile, and refused")
        if first == _FOUND:
            if request.again is UNSET:
                raise Refused("this request was sent again meanwhile, and answered")
            return None  # what it found then may have finished since
        _note(self._repeated, token, first)
        await self._supervisor.saved()
        submission = await self._store.submission(token, first - 1)
        if submission is None:
            raise Refused("the token was used too long ago to say for what: choose another for each request")
        return _taken(submission)

    def remember(self, request: Submit | SubmitMany, taken: SubmittedJobs) -> None:
        """Keep what the request makes, on disk along with it."""
        token = request.token
        if token is UNSET:
            return
        new = [job_id for job_id, is_new in taken if is_new]
        if not new:
            if request.again is not UNSET:  # what it repeats may still come, and has no right to a new job
                _note(self._repeated, token, _FOUND)
            return
        _note(self._latest if request.again is UNSET else self._repeated, token, new[0])
        found = [int(job_id) for job_id, is_new in taken if not is_new]
        jobs = [int(job_id) for job_id, _ in taken]
        self._supervisor.pending.submissions.append(Submission(new[0], token, jobs, found))

    def _first_of(self, token: bytes) -> JobId | None:
        return self._latest.get(token, self._repeated.get(token))


def _note(known: dict[bytes, JobId], token: bytes, first: JobId) -> None:
    known[token] = first
    if len(known) > MAX_REMEMBERED:
        del known[next(iter(known))]


def _taken(submission: Submission) -> SubmittedJobs:
    """Return the jobs of an answer; of those that are in it more often only the first is new, if any is."""
    found = Counter(submission.found)
    taken: SubmittedJobs = []
    for job in reversed(submission.jobs):
        taken.append((JobId(job), not found[job]))
        found[job] -= found[job] > 0
    return taken[::-1]
