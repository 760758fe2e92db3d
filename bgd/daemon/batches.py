"""Batches: makes and closes them, starts their follow-ups, and opens ended ones again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

from msgspec.structs import replace

from bgd.core.batches import Batch, BatchEvent, BatchId
from bgd.core.job import JobId, State
from bgd.core.spec import JobCause, JobSpec
from bgd.daemon.storage import batches as storage
from bgd.daemon.storage.records import Submission
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.supervisor import Supervisor
from bgd.errors import Full, NoSuchJob, NotAllowed, Refused
from bgd.system.clock import now
from bgd.text.units import counted
from bgd.wire.requests import CloseBatch, GetBatches, NewBatch
from bgd.wire.views import BatchView

MAX_OPEN = 100_000  # batches that have not ended, some 500 bytes of memory each


class BatchActions:
    """Carries out what people and jobs ask of batches.

    Args:
        check, submit: of JobActions.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        store: StoreReader,
        check: Callable[[list[JobSpec]], None],
        submit: Callable[[list[JobSpec], int], Submission],
    ) -> None:
        self._supervisor = supervisor
        self._store = store
        self._check = check
        self._submit = submit
        self._awaited: Batch | None = None  # the one whose new lines are being looked up, one at a time
        supervisor.follow_batches = self._follow

    def check(self, token: bytes, new: NewBatch) -> None:
        """Check that a batch takes jobs, and its follow-ups.

        Raises:
            Full: there are too many batches.
            Refused: the batch was cancelled, or a follow-up is not valid.
        """
        batch = self._supervisor.batches.of_token(token)
        if batch is not None:
            _check_not_cancelled(batch)
        elif len(self._supervisor.batches.open) >= MAX_OPEN:
            raise Full(f"{MAX_OPEN} batches have not ended: try again when some have")
        for event, spec in _follow_ups(new).items():
            if spec.after or spec.after_any or spec.references or spec.batch:
                raise Refused(
                    f"{event}: a follow-up of a batch cannot wait for other jobs or belong to a batch"
                )
            try:
                self._check([spec])
            except Refused as error:
                raise type(error)(f"{event}: {error}") from error

    def check_may_join(self, spec: JobSpec, uid: int) -> None:
        """Check that a user may add a job to the batch that its spec names, if it names one.

        Raises:
            Refused, NoSuchJob, NotAllowed: it has ended, does not exist, or belongs to another user.
        """
        if spec.batch is None:
            return
        batch = self._supervisor.batches.open.get(BatchId(spec.batch))
        if batch is None or batch.has_ended:
            raise Refused(f"batch {spec.batch} has ended, or does not exist: only an open one takes jobs")
        _check_owner(batch, uid)
        _check_not_cancelled(batch)

    def is_open(self, token: bytes) -> bool:
        """Return whether the batch of these lines is known, so that lines can be added at once."""
        return self._supervisor.batches.of_token(token) is not None

    async def id_of(self, token: bytes) -> BatchId | None:
        """Return the batch of these lines, None if there is none; what was decided is on disk."""
        batch = await self._store.read(storage.batch_of_token, token)
        return None if batch is None else batch.id

    @asynccontextmanager
    async def reopened(self, token: bytes | None, uid: int) -> AsyncGenerator[None, None]:
        """Reopen the batch of these lines if it has ended; close it again if the new lines are not queued.

        `token` None: the jobs are not lines of a batch.

        Raises:
            NotAllowed, Refused: it belongs to another user, or was cancelled.
        """
        if token is None:
            yield
            return
        known = self._supervisor.batches
        batch = None if self.is_open(token) else await self._ended_with(token)
        if batch is not None:
            _check_owner(batch, uid)
            _check_not_cancelled(batch)
            known.put(batch)
            known.change(batch, is_whole=False)
        self._awaited = known.of_token(token)
        try:
            yield
        except BaseException:  # also if the client has left: then this request is cancelled
            if batch is not None and batch.id in known.open:
                known.change(batch, is_whole=True)
            raise
        finally:
            self._awaited = None

    async def _ended_with(self, token: bytes) -> Batch | None:
        await self._supervisor.saved()  # it may have ended just now
        batch = await self._store.read(storage.batch_of_token, token)
        return None if self.is_open(token) else batch

    async def recall(self, specs: Mapping[JobId, JobSpec]) -> None:
        """Reopen the batches of finished jobs; the caller runs these again in the same turn of the loop."""
        known = self._supervisor.batches
        ids = {job_id: BatchId(spec.batch) for job_id, spec in specs.items() if spec.batch}
        ended = set(ids.values()) - known.open.keys()
        if ended:
            await self._supervisor.saved()
            for batch in await self._store.read(storage.read_batches, ended):
                if batch.id not in known.open:  # another request may have reopened it
                    known.put(batch)
        for job_id, batch_id in ids.items():
            if batch_id in known.open:
                known.recall(job_id, batch_id)

    def make(self, token: bytes, new: NewBatch, uid: int) -> BatchId:
        """Return the batch of these lines, open; a new one if there is none.

        Raises:
            Refused: it was cancelled.
        """
        known = self._supervisor.batches
        batch = known.of_token(token)
        if batch is None and self._awaited is not None and self._awaited.token == token:
            batch = self._awaited  # it has ended since it was looked up
        if batch is not None:
            _check_not_cancelled(batch)  # again: it may have been cancelled since then
            if batch.id not in known.open:
                known.put(batch)
        else:
            follow_ups = _follow_ups(new)
            batch = Batch(
                id=BatchId(known.last_id + 1),
                uid=uid,
                token=token,
                created_at=now().wall,
                name=new.name,
                unstarted=tuple(follow_ups),
            )
            known.put(batch)
            self._supervisor.transaction.new_batches[batch.id] = follow_ups
        known.change(batch, is_whole=new.is_whole)  # more lines may follow one that was whole
        return batch.id

    async def close(self, request: CloseBatch, uid: int | None = None) -> BatchView:
        """Close a batch to its client, with `cancel` to all, or reopen it; return it once that is on disk.

        `uid` None: a page asks, and pages act on the jobs of all users.

        Raises:
            NoSuchJob, NotAllowed: it does not exist, or belongs to another user.
        """
        known = self._supervisor.batches
        batch = known.open.get(BatchId(request.batch))
        if batch is not None:
            if uid is not None:
                _check_owner(batch, uid)
            if not request.reopen:
                known.change(batch, is_whole=True, is_cancelled=request.cancel or batch.is_cancelled)
            elif not (batch.has_ended or batch.is_cancelled):
                known.change(batch, is_whole=False)
        [view] = await self.views(GetBatches(id=0, batch=request.batch))
        return view

    async def views(self, request: GetBatches) -> list[BatchView]:
        """Return the batches that a request asks for.

        Raises:
            NoSuchJob: it names one that does not exist.
        """
        limit = 1 if request.wait or request.batch or request.name else request.limit
        while True:
            await self._supervisor.saved_unless_stuck()
            given = (request.batch, request.name, request.before, limit)
            found = await self._store.search(storage.views, *given)
            if not found and (request.batch is not None or request.name is not None):
                which = request.batch or f"is named {request.name!r}"
                raise NoSuchJob(f"no batch {which}: `bgctl batch list` shows names and ids")
            if not (request.wait and found and found[0].finished_at is None):
                return found
            await self._ended(BatchId(found[0].id))

    async def _ended(self, batch_id: BatchId) -> None:
        """Wait until a batch is not open, and that is on disk."""
        with self._supervisor.subscriptions.subscribe_to_all() as subscription:
            while batch_id in self._supervisor.batches.open:
                await subscription.changed.wait()
                subscription.changed.clear()

    async def _follow(self, due: list[tuple[Batch, BatchEvent]]) -> None:
        """Submit the follow-ups of batches in the transaction of the events that they follow."""
        for batch, event in due:
            new = self._supervisor.transaction.new_batches.get(batch.id)
            spec = await self._store.read(storage.follow_up, batch.id, event) if new is None else new[event]
            spec = replace(spec, cause=_cause(batch, event))
            [job_id] = self._submit([spec], batch.uid).jobs
            batch.started[event] = JobId(job_id)


def _follow_ups(new: NewBatch) -> dict[BatchEvent, JobSpec]:
    given = {BatchEvent.THEN: new.then, BatchEvent.CATCH: new.catch, BatchEvent.FINALLY: new.finally_}
    return {event: spec for event, spec in given.items() if spec is not None}


def _cause(batch: Batch, event: BatchEvent) -> JobCause:
    outcome = State.FAILED if batch.failed else State.CANCELLED if batch.cancelled else State.SUCCEEDED
    error = f"{batch.failed} of {counted(batch.total, 'job')} failed" if batch.failed else None
    return JobCause(id=batch.id, event=event, outcome=outcome, name=batch.name, error=error, of_batch=True)


def _check_owner(batch: Batch, uid: int) -> None:
    if batch.uid != uid:
        raise NotAllowed(f"batch {batch.id} belongs to another user")


def _check_not_cancelled(batch: Batch) -> None:
    if batch.is_cancelled:
        raise Refused(f"batch {batch.id} was cancelled and takes no jobs")
