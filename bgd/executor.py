"""An executor of `concurrent.futures` whose calls are jobs."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, ParamSpec, TypeVar, Unpack

from bgd.client.background import chosen_client
from bgd.client.blocking.client import Client
from bgd.client.blocking.job import Job
from bgd.client.connection import renew_after_fork
from bgd.client.options import Duration, JobOptions
from bgd.client.specs import check_options, results_late, seconds_of
from bgd.core.job import ACTIVE, FINAL, State
from bgd.core.spec import JobSpec
from bgd.errors import BgdError, NoSuchJob, Refused
from bgd.jobfunction import background_of

__all__ = ["Executor", "JobFuture"]

P = ParamSpec("P")
T = TypeVar("T")

_NO_WORKERS = "the slots of the daemon, or of a queue, limit how many calls run; an Executor takes a client"
DEFAULT_CHUNKSIZE = 1000  # jobs of one transaction; more are no faster, and delay the start of the first


class Executor(concurrent.futures.Executor):
    """An executor whose calls are jobs of the daemon: on disk when `submit` returns, each in its own process.

    It takes functions and methods that a worker finds by name, with or without `bgd.job`, and arguments that
    JSON can represent. For others `submit` and `map` raise TypeError; they raise NotAllowed for what the
    daemon's configuration does not allow. Otherwise it behaves as `concurrent.futures` says, except:

    * A call that fails raises JobFailed, which has the type, the message and the traceback of what it raised.
    * Retries are part of a call: the future is running until the last attempt has ended.
    * The jobs outlive this process, which does not wait for them when it ends.
    * If the daemon stays away for longer than the client's timeout, the futures raise DaemonUnreachable.

    Args:
        client: the client of the daemon. None: that of `bgd.using`, else one of its own.
        options: of all jobs, as of `Client.call`; they override those of `bgd.job`.

    Raises:
        TypeError: an option is unknown.
        Refused: a value is out of range or of the wrong type.
    """

    def __init__(self, client: Client | None = None, **options: Unpack[JobOptions]) -> None:
        if client is not None and not isinstance(client, Client):
            raise TypeError(f"{_NO_WORKERS}, not {client!r}")
        if "max_workers" in options:
            raise TypeError(f"no option 'max_workers': {_NO_WORKERS}")
        check_options(options)
        given = client or chosen_client()
        self._client = given or Client()
        self._is_own = given is None  # then it is closed at the end
        self._watcher = _Watcher(self._client)
        self._options = options

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[T]:
        """Queue a call; return when it is on disk.

        Raises:
            TypeError: no worker finds the function, or the arguments do not fit it or JSON.
            Refused, DaemonUnreachable: as `Client.call`.
            RuntimeError: the executor was shut down.
        """
        [future] = self._watcher.submit([background_of(fn, self._options).spec(*args, **kwargs)])
        return future

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: Duration | None = None,
        chunksize: int = DEFAULT_CHUNKSIZE,
    ) -> Iterator[T]:
        """Queue a call for each of the items, and return an iterator of the results, in this order.

        The iterator raises an error, or TimeoutError, at the result that it belongs to. Then, and when the
        iterator is closed, jobs that have not run are cancelled.

        Args:
            fn: as of `submit`.
            iterables: each gives one argument of every call. They are read to the end at once.
            timeout: for all results, counted from now; None: no limit.
            chunksize: number of calls to queue in one transaction.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        seconds = seconds_of(timeout)
        deadline = None if seconds is None else time.monotonic() + seconds
        spec = background_of(fn, self._options).spec
        calls = zip(*iterables, strict=False)
        futures: list[JobFuture[Any]] = []
        try:
            while chunk := [spec(*call) for call in itertools.islice(calls, chunksize)]:
                futures += self._watcher.submit(chunk)
        except BaseException:
            self._watcher.cancel(futures)
            raise
        return self._results(futures, seconds, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as the standard has it
        """Accept no more calls.

        Args:
            wait: return when all calls have ended.
            cancel_futures: cancel those that have not run.
        """
        self._watcher.close()
        if cancel_futures:
            self._watcher.cancel()
        if wait:
            self._watcher.wait()
            if self._is_own:
                self._client.close()

    def _results(
        self, futures: list[JobFuture[Any]], seconds: float | None, deadline: float | None
    ) -> Iterator[Any]:
        try:
            for count, future in enumerate(futures):
                try:
                    result = future.result(None if deadline is None else deadline - time.monotonic())
                except TimeoutError:
                    raise results_late(count, len(futures), seconds) from None
                yield result
        finally:
            self._watcher.cancel(futures)


class JobFuture(concurrent.futures.Future[T]):
    """The future of a job. Its `result` and `exception` are a JobFailed if the job did not succeed.

    Attributes:
        job: the job itself, for its logs, or to cancel it while it runs.
    """

    def __init__(self, job: Job[T], client: Client) -> None:
        super().__init__()
        self.job = job
        self._client = client

    def cancel(self) -> bool:
        """Cancel the job if it waits and has never run; return whether it is cancelled.

        Raises:
            BgdError: the daemon could not be asked.
        """
        if not self.running() and not self.done():
            [result] = self._client.cancel_waiting([self.job])
            if result.state is not State.CANCELLED:
                return self.cancelled()
        return super().cancel()

    def set_cancelled(self) -> None:
        """Record that the job was cancelled."""
        super().cancel()

    # --- for the thread that reads events -------------------------------------------------------------

    def set_running(self) -> None:
        """Record that the job runs, unless that is known."""
        if not self.running() and not self.done():
            self.set_running_or_notify_cancel()

    def notify_cancelled(self) -> None:
        """Record that the job was cancelled, and wake its waiters."""
        if super().cancel():
            self.set_running_or_notify_cancel()


class _Watcher:
    """The futures of unfinished jobs, and a thread that reads events and completes the futures.

    The thread exists while there are such futures. The end of a job is an event, so the thread always learns
    when nothing is left to wait for.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._is_closed = False
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Watch no future: a forked child has no thread, and leaves the futures to its parent."""
        self._changed = threading.Condition(threading.RLock())  # guards all that follows
        self._futures: dict[int, JobFuture[Any]] = {}  # by the ids of their jobs
        self._thread: threading.Thread | None = None  # the latest
        self._is_reading = False

    def submit(self, specs: Sequence[JobSpec]) -> list[JobFuture[Any]]:
        """Queue jobs in one transaction, and return their futures.

        Raises:
            RuntimeError: the watcher was closed.
        """
        with self._changed:  # no event is handled before its future is known
            if self._is_closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            since = None if self._is_reading else self._client.last_event()
            futures = [JobFuture(job, self._client) for job in self._client.submit_many(specs)]
            self._futures.update((future.job.id, future) for future in futures)
            if since is not None and futures:
                self._is_reading = True
                name, args = "bgd executor", (since,)
                self._thread = threading.Thread(target=self._run, args=args, name=name, daemon=True)
                self._thread.start()
        return futures

    def cancel(self, futures: Sequence[JobFuture[Any]] | None = None) -> None:
        """Cancel those that are watched and have not run, in one request; None: all futures."""
        with self._changed:
            chosen = self._futures.values() if futures is None else futures
            chosen = [future for future in chosen if future.job.id in self._futures]
        waiting = {future.job.id: future for future in chosen if not (future.running() or future.done())}
        for result in self._client.cancel_waiting(waiting):
            if result.state is State.CANCELLED:
                waiting[result.job].set_cancelled()

    def close(self) -> None:
        """Accept no more jobs."""
        with self._changed:
            self._is_closed = True

    def wait(self) -> None:
        """Return when all futures are done and the thread has ended.

        Raises:
            RuntimeError: called from the thread itself.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a callback of a future cannot wait for all of them: shutdown(wait=False)")
        with self._changed:
            self._changed.wait_for(lambda: not self._is_reading)
        if self._thread is not None:
            self._thread.join()

    # --- the thread -----------------------------------------------------------------------------------

    def _run(self, since: int) -> None:
        try:
            while not self._read_events(since):
                since = self._client.last_event()
                self._look_at_all()
        except BaseException as error:
            self._give_up(error)
            if not isinstance(error, BgdError):
                raise

    def _read_events(self, since: int) -> bool:
        """Read events until all futures are done; False: some of the next ones are no longer kept."""
        try:
            with closing(self._client.events(since)) as events:
                while not self._is_done():
                    event = next(events)
                    self._update(event.job, event.state)
        except Refused:
            return False
        return True

    def _look_at_all(self) -> None:
        """Update the futures from the states of their jobs, without events."""
        with self._changed:
            job_ids = list(self._futures)
        for job_id in job_ids:
            try:
                state = self._client.view(job_id).state
            except NoSuchJob:
                state = State.FAILED  # then asking for its result raises NoSuchJob
            self._update(job_id, state)

    def _is_done(self) -> bool:
        with self._changed:
            if self._futures:
                return False
            self._is_reading = False
            self._changed.notify_all()
            return True

    def _update(self, job_id: int, state: State) -> None:
        with self._changed:
            future = self._futures.get(job_id)
        if future is None:
            return
        if state in ACTIVE:
            future.set_running()
        elif state is State.CANCELLED and not future.running():
            future.notify_cancelled()
        elif state in FINAL:
            self._finish(future)
        if state in FINAL:
            with self._changed:
                del self._futures[job_id]

    def _finish(self, future: JobFuture[Any]) -> None:
        future.set_running()  # if its start was missed: a running future cannot be cancelled
        if future.done():
            return
        try:
            value = self._client.returned(future.job.id)
        except BgdError as error:
            future.set_exception(error.with_traceback(None))  # its frames hold the future: a cycle
        else:
            future.set_result(value)

    def _give_up(self, error: BaseException) -> None:
        """Fail all futures; their jobs continue."""
        with self._changed:
            futures = list(self._futures.values())
            self._futures.clear()
            self._is_reading = False
            self._changed.notify_all()
        for future in futures:
            future.set_running()
            if not future.done():
                future.set_exception(error.with_traceback(None))
