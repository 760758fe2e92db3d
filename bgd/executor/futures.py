"""The future of a job: that of `concurrent.futures`, with the job it is of."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from bgd.client.blocking import Client, Job
from bgd.core.job import State

T = TypeVar("T")


class JobFuture(Future[T]):
    """What becomes of a job. Its `result` and `exception` are a JobFailed if the job did not succeed.

    Attributes:
        job: the job itself, for its logs, or to cancel it while it runs.
    """

    def __init__(self, job: Job[T], client: Client) -> None:
        super().__init__()
        self.job = job
        self._client = client

    def cancel(self) -> bool:
        """Cancel the job if it waits and has never run; tell whether it is cancelled.

        Raises:
            BgdError: the daemon could not be asked.
        """
        if not self.running() and not self.done():
            [result] = self._client.cancel_waiting([self.job])
            if result.state is not State.CANCELLED:
                return self.cancelled()
        return super().cancel()

    def withdraw(self) -> None:
        """Be cancelled, as the job has been."""
        super().cancel()

    # --- what the thread that reads the events tells it -------------------------------------------------

    def start_here(self) -> None:
        """Be running, unless it was told before."""
        if not self.running() and not self.done():
            self.set_running_or_notify_cancel()

    def cancel_here(self) -> None:
        """Be cancelled, and tell those who wait."""
        if super().cancel():
            self.set_running_or_notify_cancel()
