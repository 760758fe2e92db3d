"""The requests of one client: each is taken, answered, and counted in the flow until it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from bgd.core.spec import JobSpec
from bgd.daemon.access import Actor
from bgd.daemon.control.batches import Batch
from bgd.daemon.control.flow import FOLLOWED_BYTES, STREAM_BYTES, Flow
from bgd.daemon.control.replying import Replies
from bgd.errors import BgdError, ProtocolError, Refused
from bgd.wire.replies import End, Failed, Reply, code_of
from bgd.wire.requests import Forget, GetEvents, Logs, Request, SetProgress, Submit, SubmitMany, Wait

if TYPE_CHECKING:
    from bgd.daemon.control.listener import Control

logger = logging.getLogger(__name__)


class Requests:
    """Several at a time, each by its id.

    Args:
        control: what all clients share.
        actor: who asks.
        flow: of the client's connection.
        replies: the way back to the client.
        hang_up: ends the connection, once what was sent is out.
    """

    def __init__(
        self, control: Control, actor: Actor, flow: Flow, replies: Replies, hang_up: Callable[[], None]
    ) -> None:
        self._verbs = control.verbs
        self._rooms = control.rooms
        self._spawn = control.spawn
        self._actor = actor
        self._flow = flow
        self._replies = replies
        self._hang_up = hang_up
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._batch: Batch | None = None
        self._unreadable_id = -1  # of the last request that could not be read

    def refuse_unreadable(self, request_id: int, error: ProtocolError) -> None:
        """Say that a request of this id cannot be read, nor a batch of which it was a part."""
        self.fail(request_id, error)
        self._unreadable_id = request_id
        if self._batch is not None and self._batch.request_id == request_id:
            self.drop_batch()

    def fail(self, request_id: int, error: BgdError) -> None:
        """Say why a request is not answered otherwise."""
        self._replies.send(Failed(request_id, code_of(error), str(error)))

    def take(self, request: Request, size: int) -> None:
        """Begin to answer a request that took `size` bytes.

        Raises:
            ProtocolError: it cannot come now; nothing after it can be understood.
        """
        match request:
            case Submit() if not _waits(request.spec) and not self._verbs.may_have_come(request):
                self._submit(request, size)
            case SubmitMany():
                self._gather(request, size)
            case SetProgress():
                self._report(request)
            case Forget():
                task = self._streams.get(request.request)
                if task is not None and task.cancel():
                    self._replies.send(End(request.request))
            case _:
                self._answer_in_time(request, size)

    def _submit(self, request: Submit, size: int) -> None:
        """Answer without a task: this is the path that thousands a second take."""
        try:
            self._verbs.submit(request, self._actor, partial(self._send_and_finish, size))
        except BgdError as error:
            self.fail(request.id, error)
        else:
            self._flow.begin(size)

    def _report(self, request: SetProgress) -> None:
        self._flow.begin()
        try:
            self._verbs.report(request, partial(self._send_and_finish, 0))
        except BgdError as error:
            self.fail(request.id, error)
            self._flow.finish()

    def _gather(self, request: SubmitMany, size: int) -> None:
        """Take a part of a batch; with the last one submit them all."""
        if request.id == self._unreadable_id:
            raise ProtocolError(f"a part of submit_many {request.id} could not be read: none of it is taken")
        if self._batch is None:
            self._batch = Batch(request.id, self._rooms.batches)
        try:
            self._batch.add(request, size)
        except BgdError as error:
            self.fail(request.id, error)
            self._hang_up()  # the parts still to come would be taken for another batch
            return
        if not request.more:
            batch, self._batch = self._batch, None
            try:
                self._submit_batch(request, batch)
            except BaseException:
                batch.drop()
                raise

    def _submit_batch(self, request: SubmitMany, batch: Batch) -> None:
        """Take all parts of a batch, which keeps its room until they are on disk."""
        if self._verbs.may_have_come(batch.parts[0]) or any(
            _waits(spec) for part in batch.parts for spec in part.specs
        ):
            self._start(request, partial(self._answer_batch, batch.parts), batch.drop)
            return

        def answer(reply: Reply) -> None:
            batch.drop()
            self._send_and_finish(0, reply)

        try:
            self._verbs.submit_many(request.id, batch.parts, self._actor, answer)
        except BgdError as error:
            self.fail(request.id, error)
            batch.drop()
        else:
            self._flow.begin()

    def drop_batch(self) -> None:
        """Forget the parts of a batch that have come."""
        if self._batch is not None:
            self._batch.drop()
            self._batch = None

    async def _answer_batch(self, parts: list[SubmitMany]) -> None:
        self._replies.send(await self._verbs.submit_after(parts, self._actor))

    def _answer_in_time(self, request: Request, size: int) -> None:
        """Begin what takes more than one turn of the loop: new jobs, a stream, or one question of a few."""
        work = partial(self._verbs.answer, request, self._actor, self._replies)
        match request:
            case Submit():
                self._start(request, work, lambda: None, unsaved=size)
            case Wait() | Logs() | GetEvents():
                taken = STREAM_BYTES + (
                    FOLLOWED_BYTES * len(request.jobs) if isinstance(request, Wait) else 0
                )
                try:
                    self._rooms.streams.take(taken)
                except BgdError as error:
                    self.fail(request.id, error)
                    return
                self._start(request, work, partial(self._rooms.streams.give_back, taken))
            case _:
                self._start(request, work, lambda: None, question=True)

    def _start(
        self,
        request: Request,
        work: Callable[[], Awaitable[None]],
        done: Callable[[], None],
        *,
        unsaved: int = 0,
        question: bool = False,
    ) -> None:
        """Begin it as a task; `done` is called when that has ended, however it has."""
        if request.id in self._streams:
            done()
            raise ProtocolError(f"request id {request.id} is in use")
        self._flow.begin(unsaved, question=question)
        task = self._spawn(self._answer(request, work))
        self._streams[request.id] = task

        def end(_: object) -> None:
            """Clear up, also after one that was cancelled before its first step."""
            if self._streams.get(request.id) is task:
                del self._streams[request.id]
            done()
            self._flow.finish(unsaved, question=question)

        task.add_done_callback(end)

    async def _answer(self, request: Request, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except BgdError as error:
            self.fail(request.id, error)
        except OSError as error:  # a log that cannot be read, descriptors that have run out
            self.fail(request.id, Refused(f"this cannot be done now: {error}"))
        except Exception:  # one request must not take down what serves all others
            logger.exception("a bug, in the answer to a request of type %s", type(request).__name__)
            self.fail(request.id, BgdError("a bug in bgd: the daemon's log has the details"))
        finally:
            # in the same turn as the last reply: whoever has read it may use the id again
            self._streams.pop(request.id, None)

    def cancel(self) -> None:
        """Answer no request any further."""
        for task in self._streams.values():
            task.cancel()

    def _send_and_finish(self, unsaved: int, reply: Reply) -> None:
        self._replies.send(reply)
        self._flow.finish(unsaved)


def _waits(spec: JobSpec) -> bool:
    """Whether a job waits for others, which may have to be looked up on disk."""
    return bool(spec.after or spec.after_any)
