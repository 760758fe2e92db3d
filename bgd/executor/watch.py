"""The watch: one thread that reads what happens to jobs, and tells the futures of those that are awaited."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from bgd.client.blocking import Client
from bgd.core.job import ACTIVE, FINAL, State
from bgd.core.spec import JobSpec
from bgd.errors import BgdError, NoSuchJob, Refused
from bgd.executor.futures import JobFuture

Futures = list[JobFuture[Any]]


class Watch:
    """The futures of jobs that have not finished.

    There is a thread while there are such futures, and none else: a job's end is an event, so the thread
    always comes to know that nobody waits any more.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._changed = threading.Condition(threading.RLock())  # of all that follows
        self._awaited: dict[int, JobFuture[Any]] = {}
        self._thread: threading.Thread | None = None  # the latest
        self._is_reading = False
        self._is_closed = False

    def submit(self, specs: Sequence[JobSpec]) -> Futures:
        """Queue jobs in one transaction, and return their futures.

        Raises:
            RuntimeError: the watch was closed.
        """
        with self._changed:  # no event is looked at before it is known whose it is
            if self._is_closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            since = None if self._is_reading else self._client.last_event()
            futures = [JobFuture(job, self._client) for job in self._client.submit_many(specs)]
            self._awaited.update((future.job.id, future) for future in futures)
            if since is not None and futures:
                self._is_reading = True
                name, args = "bgd executor", (since,)
                self._thread = threading.Thread(target=self._read, args=args, name=name, daemon=True)
                self._thread.start()
        return futures

    def cancel(self, futures: Sequence[JobFuture[Any]] | None = None) -> None:
        """Cancel those that have not run, all at once; None: of all that are awaited."""
        with self._changed:
            chosen = list(self._awaited.values()) if futures is None else futures
        waiting = {future.job.id: future for future in chosen if not (future.running() or future.done())}
        for result in self._client.cancel_waiting(waiting):
            if result.state is State.CANCELLED:
                waiting[result.job].withdraw()

    def close(self) -> None:
        """Take no more jobs."""
        with self._changed:
            self._is_closed = True

    def wait(self) -> None:
        """Return when no job is awaited, and the thread has ended.

        Raises:
            RuntimeError: this is the thread.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a callback of a future cannot wait for all of them: shutdown(wait=False)")
        with self._changed:
            self._changed.wait_for(lambda: not self._is_reading)
        if self._thread is not None:
            self._thread.join()

    # --- the thread ----------------------------------------------------------------------------------

    def _read(self, since: int) -> None:
        try:
            while not self._follow(since):
                since = self._client.last_event()
                self._look_at_all()
        except BaseException as error:
            self._give_up(error)
            if not isinstance(error, BgdError):
                raise

    def _follow(self, since: int) -> bool:
        """Read events until no job is awaited; False: some that were to come are no longer kept."""
        try:
            with closing(self._client.events(since)) as events:
                while not self._is_done():
                    event = next(events)
                    self._tell(event.job, event.state)
        except Refused:
            return False
        return True

    def _look_at_all(self) -> None:
        """Find out without events what has become of the jobs."""
        with self._changed:
            awaited = list(self._awaited)
        for job_id in awaited:
            try:
                state = self._client.view(job_id).state
            except NoSuchJob:
                state = State.FAILED  # as whoever asks for its result will be told
            self._tell(job_id, state)

    def _is_done(self) -> bool:
        with self._changed:
            if self._awaited:
                return False
            self._is_reading = False
            self._changed.notify_all()
            return True

    def _tell(self, job_id: int, state: State) -> None:
        with self._changed:
            future = self._awaited.get(job_id)
        if future is None:
            return
        if state in ACTIVE:
            future.start_here()
        elif state is State.CANCELLED and not future.running():
            future.cancel_here()
        elif state in FINAL:
            self._finish(future)
        if state in FINAL:
            with self._changed:
                del self._awaited[job_id]

    def _finish(self, future: JobFuture[Any]) -> None:
        future.start_here()  # if that was not seen: from now on it cannot be cancelled
        if future.done():
            return
        try:
            value = self._client.returned(future.job.id)
        except BgdError as error:
            future.set_exception(error.with_traceback(None))  # its frames hold the future: a cycle
        else:
            future.set_result(value)

    def _give_up(self, error: BaseException) -> None:
        """Leave the jobs to their ends, which nobody will hear of here."""
        with self._changed:
            futures = list(self._awaited.values())
            self._awaited.clear()
            self._is_reading = False
            self._changed.notify_all()
        for future in futures:
            future.start_here()
            if not future.done():
                future.set_exception(error.with_traceback(None))
