# Made from bgd/client/asynchronous/acting.py by `make client`: change that.
"""Acting: what shall become of jobs that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Unpack

from bgd.client.blocking.channel import Channel
from bgd.client.session import UNNUMBERED
from bgd.client.specs import Caller, EditOptions, JobReference, changes_of, checked, ids_of, portions
from bgd.core.job import State
from bgd.wire import replies, requests
from bgd.wire.replies import ActResult
from bgd.wire.requests import Request

# Not those whose second time does more than the first (a signal; a retry of a job that has failed again by
# then), nor those that are refused once they were done, for a reason that would mislead (remove, edit).
_REPEATABLE = (requests.Cancel, requests.Hold, requests.Release, requests.Suspend, requests.Continue)


class Acting:
    """The part of a client that acts on jobs; what is refused for one of them stands in its entry."""

    _channel: Channel

    def cancel(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Cancel jobs; those that run are asked to end, and made to end after the grace time."""
        return self._act(jobs, requests.Cancel)

    def cancel_waiting(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Cancel those of the jobs that wait; those that run run on, and the entry of each says so."""
        results = self.hold(jobs)  # a job that is held is not started between this and the next
        cancelled = iter(self.cancel(result.job for result in results if result.state is State.HELD))
        return [next(cancelled) if result.state is State.HELD else result for result in results]

    def retry(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Queue finished jobs again, with their retries unused."""
        return self._act(jobs, requests.Retry)

    def hold(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Let waiting jobs wait until they are released."""
        return self._act(jobs, requests.Hold)

    def release(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Let held jobs wait for their turn again."""
        return self._act(jobs, requests.Release)

    def suspend(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Stop the processes of running jobs; their time limits stand still, their slots stay taken."""
        return self._act(jobs, requests.Suspend)

    def continue_(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Let running jobs go on that were suspended, or that stopped by themselves."""
        return self._act(jobs, requests.Continue)

    def signal(
        self, jobs: Iterable[JobReference], signum: int, *, whole_tree: bool = False
    ) -> list[ActResult]:
        """Send a signal to the first process of running jobs, or to all of their processes."""
        return self._act(jobs, requests.SendSignal, signal=signum, whole_tree=whole_tree)

    def remove(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Delete finished jobs and their logs; their ids are not given out again."""
        return self._act(jobs, requests.Remove)

    def edit(self, jobs: Iterable[JobReference], **changes: Unpack[EditOptions]) -> list[ActResult]:
        """Change jobs that wait.

        Raises:
            Refused: a value is out of range, or there is nothing to change.
        """
        return self._act(jobs, requests.Edit, changes=changes_of(changes, Caller()))

    def set_progress(
        self, job: JobReference, attempt: int, fraction: float | None = None, message: str | None = None
    ) -> None:
        """Say how far an attempt that runs is, in place of what it said before; code in a job has bgd_job.

        `fraction` is one of 1; None: it does not say.

        Raises:
            Refused: this attempt does not run, or a value is out of range.
        """
        [job_id] = ids_of([job])
        request = requests.SetProgress(
            id=UNNUMBERED, job=job_id, attempt=attempt, fraction=fraction, message=message
        )
        self._channel.ask(checked(request), replies.Done, repeatable=True)

    def _act(
        self, jobs: Iterable[JobReference], kind: Callable[..., Request], **fields: object
    ) -> list[ActResult]:
        results: list[ActResult] = []
        for portion in portions(ids_of(jobs)):
            request = checked(kind(id=UNNUMBERED, jobs=portion, **fields))
            reply = self._channel.ask(request, replies.Acted, repeatable=kind in _REPEATABLE)
            results += reply.results
        return results
