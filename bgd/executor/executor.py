"""Executor: `concurrent.futures` whose calls are jobs."""

from __future__ import annotations

import concurrent.futures
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar, Unpack

from bgd.client.background import chosen_client
from bgd.client.blocking import Client
from bgd.client.options import JobOptions
from bgd.executor.futures import JobFuture
from bgd.executor.watch import Watch
from bgd.jobfunction import background_of

P = ParamSpec("P")
T = TypeVar("T")

CHUNK = 1000  # jobs of one transaction; more make it no faster, and let the first wait longer for its start


class Executor(concurrent.futures.Executor):
    """An executor whose calls are jobs of the daemon: on disk when `submit` returns, each in its process.

    It takes functions and methods that a worker finds by their name, under `bgd.job` or not, and values that
    JSON can say; for others `submit` and `map` raise TypeError, and NotAllowed for what the daemon's
    configuration does not allow. Otherwise it behaves as `concurrent.futures` says, with these differences:

    * A call that fails raises JobFailed, whatever it raised in its process: that tells type, message and
      traceback.
    * Retries are part of a call: the future is running until the last attempt has ended.
    * The end of this process is not the end of the jobs: it does not wait for them, and they go on without.
    * If the daemon stays away for longer than the client is patient, the futures raise DaemonUnreachable.

    Args:
        client: the way to the daemon. None: that of `bgd.using`, else one of its own.
        options: of all jobs, as of `Client.call`; they come before those of `bgd.job`.
    """

    def __init__(self, client: Client | None = None, **options: Unpack[JobOptions]) -> None:
        named = client or chosen_client()
        self._client = named or Client()
        self._is_own = named is None  # and closed in the end
        self._watch = Watch(self._client)
        self._options = options

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[T]:
        """Queue a call; returns when it is on disk.

        Raises:
            TypeError: no worker finds the function, the arguments do not fit it, or JSON cannot say them.
            Refused, DaemonUnreachable: as `Client.call`.
            RuntimeError: the executor was shut down.
        """
        [future] = self._watch.submit([background_of(fn, self._options).spec(*args, **kwargs)])
        return future

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = CHUNK,
    ) -> Iterator[T]:
        """Queue a call for each of the items, and return an iterator of the results, in this order.

        An error or the end of `timeout` seconds from now is raised where it is come to; then, and when the
        iterator is closed, what has not run is cancelled.

        Args:
            fn: as of `submit`.
            iterables: of each of them one item is an argument of a call. They are read to the end at once.
            timeout: seconds from now for all results, None: no limit.
            chunksize: so many calls are queued in one transaction.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        deadline = None if timeout is None else time.monotonic() + timeout
        spec = background_of(fn, self._options).spec
        calls = zip(*iterables, strict=False)
        futures: list[JobFuture[Any]] = []
        try:
            while chunk := [spec(*call) for call in itertools.islice(calls, chunksize)]:
                futures += self._watch.submit(chunk)
        except BaseException:
            self._watch.cancel(futures)
            raise
        return self._results(futures, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as the standard has it
        """Take no more calls.

        Args:
            wait: return when all that were taken have ended.
            cancel_futures: cancel those that have not run.
        """
        self._watch.close()
        if cancel_futures:
            self._watch.cancel()
        if wait:
            self._watch.wait()
            if self._is_own:
                self._client.close()

    def _results(self, futures: list[JobFuture[Any]], deadline: float | None) -> Iterator[Any]:
        rest = iter(futures)
        try:
            for future in rest:
                yield future.result(None if deadline is None else deadline - time.monotonic())
        finally:
            self._watch.cancel(futures)
